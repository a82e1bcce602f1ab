"""Which deployment and which replica answers a request."""
