"""The `bouchet` command. Speaks HTTP to the API and the proxy on this machine, and imports nothing of theirs."""
