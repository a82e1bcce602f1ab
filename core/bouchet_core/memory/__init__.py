"""Whether a model fits on the GPUs it is to have: weights, window and cache reckoned before anything is submitted."""
