"""Experiments: ``python -m recipes.experiments.<name>``."""
