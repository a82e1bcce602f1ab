"""The loop that compares records with Slurm and vLLM, and decides what changes."""
