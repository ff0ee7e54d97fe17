"""Constrained optimisation: log barrier, step-size rule, LBSGD, Lagrangian methods."""
