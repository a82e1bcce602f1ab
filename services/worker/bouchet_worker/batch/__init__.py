"""Batch jobs without GPUs: model downloads and image builds."""
