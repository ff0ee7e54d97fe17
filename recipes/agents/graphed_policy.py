"""On a GPU: what a policy update of CERL repeats, as a CUDA graph."""

from functools import partial
from typing import TYPE_CHECKING

from torch import Tensor

from blocks import Graphed, State, with_gradient
from blocks.optimizers.flat_parameters import FlatParameters
from recipes.agents.diagnostics import Estimate

if TYPE_CHECKING:
    from recipes.cerl_full import CERL


class GraphedPolicy:
    """``CERL.estimate`` with its gradients and the critics' update, recorded.

    The step itself is not, for it branches on what it finds; it is made of these gradients.
    """

    def __init__(self, agent: "CERL") -> None:
        self._agent, self._actor = agent, FlatParameters(agent.actor.parameters())
        self._policy = {
            improve: Graphed(partial(self._gradients, improve), agent.generator)
            for improve in (False, True)
        }

    def estimate(self, starts: State, *, improve: bool) -> Estimate:
        """As ``CERL.estimate``, and the critics have learned from the rollouts."""
        *values, gain, cost = self._policy[improve](*starts)
        estimate = Estimate(*values)
        return estimate._replace(
            gain=with_gradient(estimate.gain, gain, self._actor.parameters),
            cost=with_gradient(estimate.cost, cost, self._actor.parameters),
        )

    def _gradients(self, improve: bool, deter: Tensor, stoch: Tensor) -> tuple[Tensor, ...]:
        agent = self._agent
        estimate, learn_critics = agent.estimate(
            State(deter, stoch), agent.weights(), improve=improve
        )
        gradients = [self._actor.gradient(value) for value in (estimate.gain, estimate.cost)]
        learn_critics()
        return *estimate, *gradients
