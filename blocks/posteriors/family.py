"""Protocol of the families of the parameter posterior, and the Pyro sites that they share.

A family is an ``nn.Module`` with the trained parameters. It returns the members (``offsets`` from
the prior's mean) and the prior's term of the objective (``log_prior``), so that any torch optimiser
can minimise

    loss = mean_k [ -log p(data | w_k) ] - mean_k [ log_prior_k ] / data_size

in every family. The weights are Pyro sample sites. Before any data all families hold the same
members, draws from the prior.

Randomness: a family stores the members' prior draws when it is built. Only ``MeanField`` draws
more, from the generator that it is given.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol, TypedDict, cast

import pyro
import pyro.distributions as dist
import torch
from jaxtyping import Float
from pyro import poutine
from torch import Tensor, nn
from torch.distributions import Distribution

from blocks.types import Weights


class Prior(NamedTuple):
    """``N(0, std^2)`` over each weight's offset from its mean, and each member's draw from it."""

    std: Weights  # scalars
    anchors: Weights  # [member, *weight]


class PosteriorFamily(Protocol):
    """A representation of the parameter posterior: an ``nn.Module`` built from a ``Prior``.

    ``members`` is at most the number of anchors, unless the family ``draws``.
    """

    @property
    def separate_data(self) -> bool:
        """Whether each member needs a separate weighting (or perturbation) of the data."""
        ...

    @property
    def draws(self) -> bool:
        """Whether a generator can draw more members than are stored."""
        ...

    def model(self, prior: Prior, members: int) -> Weights:
        """Run the Pyro model of the offsets: a Gaussian site ``[member, *weight]`` per weight."""
        ...

    def offsets(
        self, prior: Prior, members: int, generator: torch.Generator | None
    ) -> dict[str, Tensor]:
        """Return the members' offsets from the prior's mean, ``[member, *weight]`` by name."""
        ...

    def log_prior(self, prior: Prior, members: int) -> Float[Tensor, " member"]:
        """Compute the prior's term in each member's log-posterior, in nats."""
        ...

    def parameters_below(self, prefix: str) -> list[nn.Parameter]:
        """Return the trained parameters of the sites whose names begin with ``prefix.``."""
        ...


class Site(TypedDict):
    """The parts of a Pyro sample site that the families use."""

    fn: Distribution
    value: Tensor


def gaussian_sites(loc: Weights, std: Mapping[str, Tensor]) -> Weights:
    """Sample a Gaussian Pyro site ``[member, *weight]`` per name, independent over members."""
    sample: Callable[[str, object], Tensor] = cast(Any, pyro).sample
    members = len(next(iter(loc.values())))
    with pyro.plate("member", members):
        # Checking each weight at each step would double the cost of the prior.
        normals = {
            name: cast(Any, dist.Normal(at, std[name], validate_args=False))
            for name, at in loc.items()
        }
        return {
            name: sample(name, normals[name].to_event(at.dim() - 1)) for name, at in loc.items()
        }


def conditioned_sites(
    program: Callable[[Prior, int], Weights], values: Weights, prior: Prior, members: int
) -> dict[str, Site]:
    """Run a Pyro program with its sites set to ``values``, and return the sites by name."""
    conditioned = poutine.condition(program, data=dict(values))
    return cast(Any, poutine.trace(conditioned)).get_trace(prior, members).nodes


def log_density(sites: Mapping[str, Site], prior: Prior) -> Float[Tensor, " member"]:
    """Compute the log-density of sites in nats, relative to the Gaussian's mode."""
    # Not Pyro's ``compute_log_prob``, which waits for the GPU to look for NaN.
    densities = [
        cast(Any, sites[name]["fn"]).log_prob(sites[name]["value"]) - _log_mode(prior, name)
        for name in prior.anchors
    ]
    return torch.stack(densities).sum(0)


def first(weights: Weights, members: int) -> dict[str, Tensor]:
    """Select the first members of stacked weights."""
    return {name: value[:members] for name, value in weights.items()}


def key(name: str) -> str:
    """Replace the dots of a name, which torch does not allow for parameters and buffers."""
    return name.replace(".", "/")


def _log_mode(prior: Prior, name: str) -> Tensor:
    size = prior.anchors[name][0].numel()
    return -size * (prior.std[name].log() + 0.5 * math.log(2 * math.pi))
