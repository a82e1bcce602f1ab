"""Claude Code and other clients that are started on a model."""
