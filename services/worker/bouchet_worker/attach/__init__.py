"""Attached servers: model servers on the cluster's network that run without a job of ours."""
