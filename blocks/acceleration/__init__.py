"""Faster updates with the same results: CUDA graphs and threads."""
