"""LBSGD and its rivals on problems with known optima."""
