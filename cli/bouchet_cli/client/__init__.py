"""The HTTP client of the API, and its records."""
