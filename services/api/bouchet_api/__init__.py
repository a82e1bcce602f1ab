"""HTTP API for the command line and scripts: deployments, models, images, the tunnel, keys and usage."""
