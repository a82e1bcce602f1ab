"""Slurm as text: command lines, their output, states and reasons."""
