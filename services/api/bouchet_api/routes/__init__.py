"""What one may curl, a file per noun."""
