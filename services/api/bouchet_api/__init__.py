"""The outside door: deployments, models, the tunnel and their events over HTTP."""
