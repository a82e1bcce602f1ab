"""Claude Code and other clients: their variables, their configuration, and a local port."""
