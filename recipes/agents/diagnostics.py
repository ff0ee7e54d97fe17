"""What a run reports about its policy updates and about how far its members agree."""

from typing import NamedTuple

import torch
from torch import Tensor

from blocks import ConstrainedStep, State, Transitions, WorldModel, imagine
from blocks.optimizers.lbsgd import LBSGDStep
from blocks.types import Weights

FAR_STEPS = 20


class Rollouts(NamedTuple):
    """Imagined states and their returns, ``[member, horizon, batch, ...]``, for critics."""

    feat: Tensor
    returns: Tensor
    cost_returns: Tensor


class Estimate(NamedTuple):
    """What imagination says of a policy.

    ``gain`` and ``cost`` are differentiable by the policy's parameters. Costs are in units of the
    episode budget.
    """

    gain: Tensor  # scalar: what is maximised
    cost: Tensor  # scalar: what is constrained
    mean_return: Tensor  # scalar
    member_costs: Tensor  # [member]
    entropy: Tensor  # scalar
    rollouts: Rollouts


def policy_metrics(step: ConstrainedStep, estimate: Estimate) -> dict[str, float]:
    """Metrics of one policy update; costs and slack are in units of the episode budget."""
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
    """Mean of each metric over the updates of a phase."""
    names = metrics[0] if metrics else ()
    return {name: sum(m[name] for m in metrics) / len(metrics) for name in names}


@torch.no_grad()
def disagreement_on(model: WorldModel, data: Transitions, cost_rate: float) -> float:
    """Members' disagreement about the cost of an episode ``[1, time, ...]``, as below.

    Before and after the model has learned from the episode, this shows what data are worth.
    """
    feat = model.filter(data, torch.Generator().manual_seed(0)).state.feat.flatten(0, 1)
    weights = model.parameter_posterior.sample()
    return float(model.cost(feat, weights).std(0, unbiased=False).mean()) / cost_rate


@torch.no_grad()
def cost_disagreement(
    model: WorldModel,
    weights: Weights,
    recent: State,
    action_size: int,
    cost_rate: float,
    generator: torch.Generator,
) -> dict[str, float]:
    """Members' standard deviation of the expected cost, in units of the budget's cost rate.

    On ``recent`` states ``[batch, ...]`` and on imagined ones far from them: of the states where
    20 steps of one random extreme action lead, the quarter that lies farthest from any recent one.
    """
    near = State(*(x.expand(model.members, -1, -1) for x in recent))
    shape = (1, len(recent.deter), action_size)
    extreme = torch.randint(0, 2, shape, generator=generator, device=generator.device) * 2.0 - 1
    extreme = extreme.expand(model.members, -1, -1)
    imagined = imagine(
        model.transition(weights),
        lambda feat, noise: (extreme, feat[..., 0]),
        near,
        FAR_STEPS,
        action_size=action_size,
        generator=generator,
    ).state
    distance = torch.cdist(imagined.stoch[:, -1], recent.stoch).amin(-1).mean(0)
    far = imagined.feat[:, -1, distance.topk(max(1, len(distance) // 4)).indices]
    return {
        f"disagreement_{where}": float(model.cost(feat, weights).std(0, unbiased=False).mean())
        / cost_rate
        for where, feat in {"recent": near.feat, "far": far}.items()
    }
