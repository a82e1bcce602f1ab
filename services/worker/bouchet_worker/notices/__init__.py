"""Notices: what the state of records means for people who do not watch."""
