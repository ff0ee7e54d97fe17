"""Constrained optimisation: log barrier, step-size rule, LBSGD, and its rivals."""
