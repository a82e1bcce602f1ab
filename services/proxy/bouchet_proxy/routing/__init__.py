"""From a model name to the deployment, and the replica, that serves the request."""
