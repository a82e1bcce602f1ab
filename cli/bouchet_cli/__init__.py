"""The `bouchet` command."""

VERSION = "0.1.0"
