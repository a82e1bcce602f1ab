"""Faster replacements of asyncssh's packet handling."""
