"""The Docker engine, images and services of the stack."""
