"""Fixed ports that lead to jobs on the cluster."""
