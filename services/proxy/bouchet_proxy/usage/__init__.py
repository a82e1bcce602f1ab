"""What is recorded about each request, and the metrics made from it."""
