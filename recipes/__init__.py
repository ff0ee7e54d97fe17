"""Recipes that are run, and the harness that they share."""
