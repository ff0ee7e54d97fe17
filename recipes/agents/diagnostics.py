"""Metrics of the policy's updates."""

from torch import Tensor

from blocks import ConstrainedStep
from recipes.agents.estimates import Estimate

BRANCHES = ("slack", "curvature", "full", "recovery")


def policy_metrics(step: ConstrainedStep, estimate: Estimate) -> dict[str, float]:
    """Collect metrics of one policy update; costs and slack are in units of the episode budget.

    Of several constraints the smallest slack counts, and the largest of what else each has. A
    ``branch`` is reported as its share of the updates.
    """
    costs = estimate.member_costs
    metrics = {
        "objective": float(estimate.mean_return),
        "cost": float(estimate.cost.max()),
        "cost_mean": float(costs.mean()),
        "cost_worst": float(costs.max()),
        "pessimism": float(costs.max() - costs.mean()),
        "slack_error": float(estimate.slack_error),
        "slope_error": float(estimate.slope_error),
        "slack": float(step.slack.min()),
        "step_size": float(step.step_size),
        "step_length": float(step.step_length),
        "grad_norm": float(step.grad_norm),
        "feasible": float(step.feasible),
        "entropy": float(estimate.entropy),
    }
    for name in ("eta", "slope", "multiplier", "constraint_smoothness"):  # each has only some
        value: Tensor | float | None = getattr(step, name, None)
        if value is not None:
            metrics[name] = float(value.max()) if isinstance(value, Tensor) else value
    branch = getattr(step, "branch", None)
    if branch is not None:
        metrics |= {f"branch_{name}": float(name == branch) for name in BRANCHES}
    return metrics


def average(metrics: list[dict[str, float]]) -> dict[str, float]:
    """Average each metric over the updates of a phase."""
    names = metrics[0] if metrics else ()
    return {name: sum(m[name] for m in metrics) / len(metrics) for name in names}
