"""Types and symbols that all blocks share.

====================  =====================================================================
``deter``             deterministic part of the latent state (the recurrent memory)
``stoch``             stochastic part of the latent state
``feat``              ``deter`` and ``stoch`` concatenated: input of heads, actor and critics
``embed``             encoded observation
``prior``             distribution of ``stoch`` before the observation
``posterior``         distribution of ``stoch`` after the observation (*parameter posterior* is
                      the distribution over transition weights)
``member``            one sample of the transition weights
``horizon``           number of imagined steps
``J``, ``Jc``         objective (return) and cost return of the current policy
``slack``             budget - Jc; a policy is feasible iff its slack is positive
``eta``               weight of the log barrier
====================  =====================================================================

Every array axis has a name: ``[batch, time, ...]`` in replay and filtering, with ``member`` in
front where members see different data, and ``[member, horizon, batch, ...]`` in imagination.
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

Weights = Mapping[str, Tensor]
"""Named weights of a module; stacked weights carry a leading ``member`` axis."""


class State(NamedTuple):
    """Latent state of the RSSM: ``deter[..., deter]`` and ``stoch[..., stoch]``."""

    deter: Float[Tensor, "*batch deter"]
    stoch: Float[Tensor, "*batch stoch"]

    @property
    def feat(self) -> Float[Tensor, "*batch feat"]:
        """Concatenation of both parts, ``[..., deter + stoch]``."""
        return torch.cat([self.deter, self.stoch], dim=-1)

    def detach(self) -> "State":
        """Detach both parts from the autograd graph."""
        return State(self.deter.detach(), self.stoch.detach())


class Transitions(NamedTuple):
    """A batch of sequences from the replay, ``[*batch, time, ...]``.

    Row t holds an observation, the action that led to it, and the reward and cost received on
    arrival. At ``is_first`` these three are zero. Costs are a vector, one number for each
    constraint. ``row`` counts rows since the first ever stored; it decides how much each member
    makes of the row.
    """

    observation: Tensor
    action: Float[Tensor, "*batch time action"]
    reward: Float[Tensor, "*batch time"]
    cost: Float[Tensor, "*batch time constraint"]
    is_first: Tensor
    terminated: Tensor
    row: Int[Tensor, "*batch time"]
