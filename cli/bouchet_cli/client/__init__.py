"""The HTTP client of the API, and the records that it returns."""
