"""What a response stream may contain, and how it reaches the client."""
