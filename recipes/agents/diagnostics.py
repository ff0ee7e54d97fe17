"""Metrics of the policy's updates."""

from collections.abc import Sequence

from torch import Tensor

from blocks import ConstrainedStep
from recipes.agents.estimates import Estimate

BRANCHES = ("slack", "curvature", "full", "recovery")


def policy_metrics(
    step: ConstrainedStep, estimate: Estimate, names: Sequence[str]
) -> dict[str, float]:
    """Collect metrics of one policy update; costs and slack are in units of the budgets.

    Of several constraints the smallest slack counts, and the largest of what else each has; the
    worst member's cost of each is reported by name too. A ``branch`` is reported as its share of
    the updates.
    """
    means, worst = estimate.member_costs.mean(1), estimate.member_costs.amax(1)
    metrics = {
        "objective": float(estimate.mean_return),
        "cost": float(estimate.cost.max()),
        "cost_mean": float(means.max()),
        "cost_worst": float(worst.max()),
        "pessimism": float((worst - means).max()),
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
    if len(names) > 1:
        costs = zip(names, worst.tolist(), strict=True)
        metrics |= {f"cost_worst_{name}": value for name, value in costs}
    branch = getattr(step, "branch", None)
    if branch is not None:
        metrics |= {f"branch_{name}": float(name == branch) for name in BRANCHES}
    return metrics


def average(metrics: list[dict[str, float]]) -> dict[str, float]:
    """Average each metric over the updates of a phase."""
    names = metrics[0] if metrics else ()
    return {name: sum(m[name] for m in metrics) / len(metrics) for name in names}
