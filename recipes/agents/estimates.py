"""Estimates of a policy in imagination: return and costs, with their gradients and errors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from blocks import (
    Watched,
    estimation_errors,
    member_gradients,
    of_policy,
    with_gradient,
)
from recipes.agents.components import Aggregate


class Rollouts(NamedTuple):
    """Imagined states and their returns, ``[member, horizon, batch, ...]``."""

    feat: Tensor
    returns: Tensor
    cost_returns: Tensor  # [..., constraint], in units of the budgets
    weight: Tensor  # of each state: the probability to reach it, divided by its mean over a member
    entropy: Tensor  # scalar


class Estimate(NamedTuple):
    """Return and costs of a policy in imagination, with gradients by its flat parameters.

    Costs are in units of their budgets.
    """

    gain: Tensor  # scalar: is maximised
    gain_gradient: Tensor  # [parameter]
    cost: Tensor  # [output]: is constrained; for each constraint as many as the aggregate has
    cost_gradient: Tensor  # [output, parameter]
    member_costs: Tensor  # [constraint, member]
    member_gradients: Tensor  # [constraint, member, parameter]
    slack_error: Tensor  # scalar: bound on the error of each member's cost, 0 without a level
    slope_error: Tensor  # scalar: bound on the norm of the error of its gradient
    mean_return: Tensor  # scalar
    entropy: Tensor  # scalar

    def differentiable(self, actor: nn.Module) -> tuple[Tensor, Tensor]:
        """Return gain and cost with their gradients attached, for an optimiser of the actor."""
        parameters = [p for p in actor.parameters() if p.requires_grad]
        return (
            with_gradient(self.gain, self.gain_gradient, parameters),
            with_gradient(self.cost, self.cost_gradient, parameters),
        )

    def by_constraint(self) -> Tensor:
        """Return the largest constrained cost of each constraint, ``[constraint]``."""
        return self.cost.view(len(self.member_costs), -1).amax(1)

    def limits(self, allowed: Tensor) -> Tensor:
        """Repeat what each constraint allows for each of its outputs."""
        return allowed.repeat_interleave(len(self.cost) // len(allowed))

    def watched(self, allowed: Tensor) -> Watched | None:
        """Return all members if the constraints bound every one, as worst cases do; else None.

        A smooth constraint, such as their mean, limits a step by itself.

        Args:
            allowed: what each constraint allows, ``[constraint]``.
        """
        worst = self.member_costs.amax(1)
        if (self.by_constraint() < worst - 1e-5 * worst.abs()).any():  # they round differently
            return None
        slack = allowed.unsqueeze(1) - self.member_costs - self.slack_error
        return Watched(slack.flatten(), self.member_gradients.flatten(0, 1))


def estimate(
    gain: Tensor,
    rollouts: Rollouts,
    copies: Mapping[str, Tensor],
    aggregate: Aggregate,
    *,
    level: float,
) -> Estimate:
    """Compute costs and all gradients from rollouts of a policy by copies of its parameters.

    Args:
        gain: scalar to maximise.
        rollouts: of the copies; with several copies for a member, each has an equal part of the
            start states.
        copies: stacked parameters of the policy.
        aggregate: from the members' returns of one cost to what is constrained.
        level: probability with which the errors bound all members' costs, and so their mean, CVaR
            or worst case; 0: no bounds.
    """
    members, groups = len(rollouts.returns), _groups(copies, rollouts)
    # [constraint, member, horizon, batch]
    cost_returns = (rollouts.cost_returns * rollouts.weight.unsqueeze(-1)).movedim(-1, 0)
    # Jc of each copy: the mean over its start states.
    costs = cost_returns.mean(2).unflatten(2, (groups, -1)).mean(-1)
    gain_gradients, *cost_gradients = member_gradients(copies, gain, *costs)
    by_group = torch.stack(cost_gradients).unflatten(1, (members, groups))
    rows = by_group.mean(2)
    aggregated = [
        _aggregated(aggregate, returns, gradients, copies)
        for returns, gradients in zip(cost_returns, rows, strict=True)
    ]
    slack_error = slope_error = torch.zeros_like(gain)
    if level:
        errors = estimation_errors(
            costs.detach().flatten(0, 1).movedim(0, 1),
            by_group.flatten(0, 1).movedim(0, 1),
            level=level,
        )
        slack_error, slope_error = (error.max() for error in errors)
    return Estimate(
        gain=gain.detach(),
        gain_gradient=gain_gradients.sum(0),
        cost=torch.cat([cost for cost, _ in aggregated]),
        cost_gradient=torch.cat([gradient for _, gradient in aggregated]),
        member_costs=costs.detach().mean(2),
        member_gradients=rows,
        slack_error=slack_error,
        slope_error=slope_error,
        mean_return=(rollouts.returns * rollouts.weight).detach().mean(),
        entropy=rollouts.entropy.detach(),
    )


def reach_weights(cont: Tensor) -> Tensor:
    """Weigh each state by the probability that the episode has not ended before it.

    Args:
        cont: probability that the episode goes on after the states arrived at,
            ``[member, horizon, batch]``.

    Returns:
        Weights of the states acted in, ``[member, horizon, batch]``, with mean one for each member.
    """
    before = torch.cat([torch.ones_like(cont[:, :1]), cont[:, :-1]], 1).detach()
    weight = before.cumprod(1)
    return weight / weight.mean((1, 2), keepdim=True)


def _groups(copies: Mapping[str, Tensor], rollouts: Rollouts) -> int:
    return len(next(iter(copies.values()))) // len(rollouts.returns)


def _aggregated(
    aggregate: Aggregate, cost_returns: Tensor, rows: Tensor, copies: Mapping[str, Tensor]
) -> tuple[Tensor, Tensor]:
    """Compute one cost's outputs and their gradients, from the members' gradients if possible."""
    if isinstance(aggregate, of_policy):  # its gradient is a mixture of the members'
        costs = cost_returns.detach().mean((1, 2)).requires_grad_()
        cost = aggregate.aggregate(costs).reshape(-1)
        weights = [torch.autograd.grad(value, costs, retain_graph=True)[0] for value in cost]
        gradient = torch.stack(weights) @ rows
    else:
        cost = aggregate(cost_returns).reshape(-1)
        gradient = torch.stack([row.sum(0) for row in member_gradients(copies, *cost)])
    return cost.detach(), gradient
