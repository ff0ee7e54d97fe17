"""On a GPU: what a policy update of CERL repeats, as a CUDA graph."""

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import torch
from diagnostics import Estimate
from torch import Tensor

from blocks import Graphed, State, with_gradient

if TYPE_CHECKING:
    from cerl_full import CERL


class GraphedPolicy:
    """``CERL.estimate`` with its gradients and the critics' update, recorded.

    The step itself is not, for it branches on what it finds; it is made of these gradients.
    """

    def __init__(self, agent: "CERL") -> None:
        self._agent, self._actor = agent, list(agent.actor.parameters())
        self._policy = {
            improve: Graphed(partial(self._gradients, improve), agent.generator)
            for improve in (False, True)
        }

    def estimate(self, starts: State, *, improve: bool) -> Estimate:
        """As ``CERL.estimate``, and the critics have learned from the rollouts."""
        *values, gain, cost = self._policy[improve](*starts)
        estimate = Estimate(*values)
        return estimate._replace(
            gain=with_gradient(estimate.gain, gain, self._actor),
            cost=with_gradient(estimate.cost, cost, self._actor),
        )

    def _gradients(self, improve: bool, deter: Tensor, stoch: Tensor) -> tuple[Tensor, ...]:
        agent = self._agent
        estimate, learn_critics = agent.estimate(
            State(deter, stoch), agent.weights(), improve=improve
        )
        gradients = [_gradient(value, self._actor) for value in (estimate.gain, estimate.cost)]
        learn_critics()
        return *estimate, *gradients


def _gradient(value: Tensor, parameters: Sequence[Tensor]) -> Tensor:
    """Flat, of a scalar whose graph others need too."""
    parts = torch.autograd.grad(value, parameters, retain_graph=True, materialize_grads=True)
    return torch.cat([part.flatten() for part in parts])
