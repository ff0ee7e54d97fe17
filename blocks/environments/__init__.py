"""Constrained tasks: Safety-Gymnasium with the cost in ``info``, cameras, parallel environments."""
