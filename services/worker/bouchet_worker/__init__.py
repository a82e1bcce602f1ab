"""The worker: takes launches to Slurm and keeps every record true to what the cluster says."""
