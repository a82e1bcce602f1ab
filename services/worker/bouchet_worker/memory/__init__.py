"""GPU memory estimates: whether a model fits before it is submitted."""
