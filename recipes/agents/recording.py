"""What a GPU records of CERL's updates, so that thousands of small kernels start at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from blocks import Graphed, State, Weights
from recipes.agents.estimates import Estimate


class Recordable(Protocol):
    """An agent whose policy update is an evaluation and a step."""

    generator: torch.Generator
    update_model: Callable[..., tuple[Tensor, ...]]
    evaluate: Callable[[State, Weights], Estimate]

    def sample_posterior(self) -> Weights: ...


def record_updates(agent: Recordable) -> None:
    """Exchange an agent's updates for recorded ones; on the CPU they are called instead.

    An evaluation is recorded with its gradients and the update of the critics. The step is not,
    because it branches on what it finds.
    """
    evaluate = agent.evaluate

    def evaluation(deter: Tensor, stoch: Tensor) -> tuple[Tensor, ...]:
        return tuple(evaluate(State(deter, stoch), agent.sample_posterior()))

    recorded = Graphed(evaluation, agent.generator)
    agent.update_model = Graphed(agent.update_model, agent.generator)
    agent.evaluate = lambda starts, weights: Estimate(*recorded(*starts))
