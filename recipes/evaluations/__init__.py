"""Evaluate the policy of a run, or a saved one."""

from recipes.evaluations.evaluation import evaluate as evaluate
