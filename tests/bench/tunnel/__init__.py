"""The gateway beside ssh -L."""
