"""From a launch request to a submitted Slurm job, and its cancellation."""
