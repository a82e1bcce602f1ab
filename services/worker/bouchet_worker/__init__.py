"""The worker: submits launches to Slurm and keeps every record up to date with the cluster."""
