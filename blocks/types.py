"""Types and symbols shared by the blocks; the one module a block may import from another.

====================  =====================================================================
``deter``             deterministic part of the latent state (the recurrent memory)
``stoch``             stochastic part of the latent state
``feat``              ``deter`` and ``stoch`` side by side: what heads, actor and critics see
``embed``             encoded observation
``prior``             distribution of ``stoch`` before the observation is seen
``posterior``         distribution of ``stoch`` after it is seen (*parameter posterior* is the
                      distribution over transition weights)
``member``            one sample of the transition weights
``horizon``           number of imagined steps
``J``, ``Jc``         objective (return) and cost return of the current policy
``slack``             budget - Jc; a policy is feasible iff its slack is positive
``eta``               weight of the log barrier
====================  =====================================================================

Every array axis is named: ``[batch, time, ...]`` in replay and filtering, with ``member`` in
front where each member sees its own data, and ``[member, horizon, batch, ...]`` in imagination.
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
        """Both parts side by side, ``[..., deter + stoch]``."""
        return torch.cat([self.deter, self.stoch], dim=-1)

    def detach(self) -> "State":
        """The same values without their history."""
        return State(self.deter.detach(), self.stoch.detach())


class Transitions(NamedTuple):
    """A batch of sequences from the replay, ``[*batch, time, ...]``.

    Row t holds an observation and what happened on the way to it: the action that led there, the
    reward and cost received on arrival. At ``is_first`` these three are zero. ``row`` counts the
    rows since the first ever stored: it is what a member's share of the data is drawn by.
    """

    observation: Tensor
    action: Float[Tensor, "*batch time action"]
    reward: Float[Tensor, "*batch time"]
    cost: Float[Tensor, "*batch time"]
    is_first: Tensor
    terminated: Tensor
    row: Int[Tensor, "*batch time"]
