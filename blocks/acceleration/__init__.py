"""Speed that changes no number: CUDA graphs, two threads."""
