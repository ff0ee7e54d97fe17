"""Estimates of a policy in imagination, and metrics of its updates."""

from typing import NamedTuple

from torch import Tensor

from blocks import ConstrainedStep
from blocks.optimizers.lbsgd import LBSGDStep


class Rollouts(NamedTuple):
    """Imagined states and their returns, ``[member, horizon, batch, ...]``, for critics."""

    feat: Tensor
    returns: Tensor
    cost_returns: Tensor


class Estimate(NamedTuple):
    """Return and cost of a policy in imagination; costs are in units of the episode budget.

    ``gain`` and ``cost`` are differentiable by the policy's parameters.
    """

    gain: Tensor  # scalar: is maximised
    cost: Tensor  # scalar: is constrained
    mean_return: Tensor  # scalar
    member_costs: Tensor  # [member]
    entropy: Tensor  # scalar
    rollouts: Rollouts


def policy_metrics(step: ConstrainedStep, estimate: Estimate) -> dict[str, float]:
    """Collect metrics of one policy update; costs and slack are in units of the episode budget."""
    costs = estimate.member_costs.detach()
    metrics = {
        "objective": float(estimate.mean_return.detach()),
        "cost_mean": float(costs.mean()),
        "cost_worst": float(costs.max()),
        "pessimism": float(costs.max() - costs.mean()),
        "slack": float(step.slack),
        "step_size": float(step.step_size),
        "feasible": float(step.feasible),
        "entropy": float(estimate.entropy.detach()),
    }
    if isinstance(step, LBSGDStep):
        metrics["constraint_smoothness"] = float(step.constraint_smoothness)
    return metrics


def average(metrics: list[dict[str, float]]) -> dict[str, float]:
    """Average each metric over the updates of a phase."""
    names = metrics[0] if metrics else ()
    return {name: sum(m[name] for m in metrics) / len(metrics) for name in names}
