"""What `bouchet` can do, a file per command."""
