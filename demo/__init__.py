"""The demo cluster: a small real Slurm in containers, and what is installed on it."""
