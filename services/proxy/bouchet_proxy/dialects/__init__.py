"""The API dialects of clients: which endpoints they have, and how a request body is checked and prepared for vLLM."""
