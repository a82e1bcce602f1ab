"""The dashboard: sign-in, its files, and what it shows while it is open."""
