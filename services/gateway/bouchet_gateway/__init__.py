"""The gateway: the one owner of the SSH connection to the cluster."""
