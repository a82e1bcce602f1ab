"""The OpenAPI document: examples, responses and errors."""
