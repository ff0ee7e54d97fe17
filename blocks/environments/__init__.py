"""Constrained tasks: Safety-Gymnasium with the cost in ``info``, its cameras, many in parallel."""
