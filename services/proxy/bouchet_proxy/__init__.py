"""The door for clients: one process, one port, two dialects, every live model behind it."""
