"""Models of the hub that the catalog does not have: what they are, and how they would be served here."""
