"""What keeps a deployment there when it is wanted: `plan`, and the estimates that it needs. Pure."""
