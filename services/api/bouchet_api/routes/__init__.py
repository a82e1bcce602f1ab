"""The routers, one file per subject."""
