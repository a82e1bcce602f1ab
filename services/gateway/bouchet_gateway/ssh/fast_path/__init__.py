"""Replaces asyncssh's private packet methods by faster ones: optional, and for known asyncssh versions only."""
