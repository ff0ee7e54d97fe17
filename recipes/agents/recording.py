"""What a GPU records of CERL's updates, so that thousands of small kernels start at once."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from blocks import Actor, Graphed, State, Weights, with_gradient
from blocks.optimizers.flat_parameters import FlatParameters
from recipes.agents.critics import Critics
from recipes.agents.diagnostics import Estimate, Rollouts


class Recordable(Protocol):
    """An agent whose policy update is an evaluation, a step, and an update of the critics."""

    device: torch.device
    generator: torch.Generator
    actor: Actor
    critics: Critics
    update_model: Callable[..., tuple[Tensor, ...]]

    def sample_posterior(self) -> Weights: ...
    def evaluate(
        self, starts: State, weights: Weights, *, update_scale: bool = True
    ) -> Estimate: ...


def record_updates(agent: Recordable) -> None:
    """On a GPU, exchange an agent's updates for recorded ones; on the CPU leave it as it is."""
    if agent.device.type == "cuda":
        agent.update_model = Graphed(agent.update_model, agent.generator)
        RecordedPolicy(agent)


class RecordedPolicy:
    """An agent's evaluation, its gradients and the critics' update, recorded as one.

    The step itself is not recorded, because it branches on what it finds; it uses these gradients.
    Free the autograd graph before returning: a recording fails while an older graph is alive.
    """

    def __init__(self, agent: Recordable) -> None:
        self._actor = FlatParameters(agent.actor.parameters())
        self._sample, self._evaluate = agent.sample_posterior, agent.evaluate
        self._learn_critics = agent.critics.learn
        self._recorded = {
            scaled: Graphed(partial(self._gradients, scaled), agent.generator)
            for scaled in (False, True)
        }
        agent.evaluate, agent.critics.learn = self.evaluate, self.skip  # pyright: ignore[reportAttributeAccessIssue]

    def evaluate(self, starts: State, weights: Weights, *, update_scale: bool = True) -> Estimate:
        """Evaluate as the agent does; the critics have then learned from the rollouts."""
        *values, gain_gradient, cost_gradient = self._recorded[update_scale](*starts)
        gain, cost, mean_return, member_costs, entropy = values
        return Estimate(
            gain=with_gradient(gain, gain_gradient, self._actor.parameters),
            cost=with_gradient(cost, cost_gradient, self._actor.parameters),
            mean_return=mean_return,
            member_costs=member_costs,
            entropy=entropy,
            rollouts=Rollouts(*(starts.deter.new_empty(0) for _ in range(3))),
        )

    def skip(self, rollouts: Rollouts) -> None:
        """Do nothing: the critics have learned already."""

    def _gradients(self, update_scale: bool, deter: Tensor, stoch: Tensor) -> tuple[Tensor, ...]:
        *values, rollouts = self._evaluate(
            State(deter, stoch), self._sample(), update_scale=update_scale
        )
        gradients = [self._actor.gradient(value) for value in values[:2]]
        self._learn_critics(rollouts)
        return *values, *gradients
