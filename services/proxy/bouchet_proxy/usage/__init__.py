"""What is recorded about a request, and the metrics made from it."""
