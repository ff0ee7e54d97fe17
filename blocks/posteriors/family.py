"""What a family of the parameter posterior promises, and the Pyro sites that families share.

A family is an ``nn.Module`` that holds what is trained. It says where the members are (``offsets``,
from the prior's mean) and what the prior adds to the objective (``log_prior``), so that

    loss = mean_k [ -log p(data | w_k) ] - mean_k [ log_prior_k ] / data_size

and any torch optimiser fit it, whichever family it is. The weights are Pyro sample sites; before
any data every family holds the same members, draws from the prior.

Randomness: a family keeps the members' prior draws from its beginning on. Only ``MeanField`` ever
asks for more, and then from the generator it is handed.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol, cast

import pyro
import pyro.distributions as dist
import torch
from jaxtyping import Float
from pyro import poutine
from torch import Tensor, nn

from blocks.types import Weights


class Prior(NamedTuple):
    """``N(0, std^2)`` over each weight's offset from its mean, and each member's draw from it."""

    std: Weights  # scalars
    anchors: Weights  # [member, *weight]


class PosteriorFamily(Protocol):
    """What ``EnsemblePosterior`` asks of a family, an ``nn.Module`` built from a ``Prior``.

    ``members`` is at most the number of anchors, unless the family ``draws``.
    """

    separate_data: bool
    """Whether members are told apart by their own share (or perturbation) of the data."""
    draws: bool
    """Whether more members than are held can be drawn, given a generator."""

    def model(self, prior: Prior, members: int) -> Weights:
        """The Pyro model of the offsets: a Gaussian site ``[member, *weight]`` for each weight."""
        ...

    def offsets(
        self, prior: Prior, members: int, generator: torch.Generator | None
    ) -> dict[str, Tensor]:
        """Where the members are, from the prior's mean: ``[member, *weight]`` by name."""
        ...

    def log_prior(self, prior: Prior, members: int) -> Float[Tensor, " member"]:
        """What the prior adds to each member's log-likelihood, in nats."""
        ...

    def parameters_below(self, prefix: str) -> list[nn.Parameter]:
        """What is trained of the sites whose names begin with ``prefix.``."""
        ...


def gaussian_sites(loc: Weights, std: Mapping[str, Tensor]) -> Weights:
    """A Pyro program: a Gaussian site ``[member, *weight]`` per name, independent over members."""
    members = len(next(iter(loc.values())))
    with pyro.plate("member", members):
        return {
            name: cast(
                Tensor,
                pyro.sample(
                    name,
                    # Checking each weight at each step would double the cost of the prior.
                    dist.Normal(at, std[name], validate_args=False).to_event(at.dim() - 1),
                ),
            )
            for name, at in loc.items()
        }


def log_density(trace: poutine.Trace, prior: Prior) -> Float[Tensor, " member"]:
    """Log-density of a trace's sites in nats, relative to the Gaussian's mode."""
    # Not `trace.compute_log_prob`, which waits for the GPU to look for NaN.
    nodes = cast(dict[str, dict[str, Any]], trace.nodes)
    sites = [
        nodes[name]["fn"].log_prob(nodes[name]["value"]) - _log_mode(prior, name)
        for name in prior.anchors
    ]
    return torch.stack(sites).sum(0)


def first(weights: Weights, members: int) -> dict[str, Tensor]:
    """The first members' share of stacked weights."""
    return {name: value[:members] for name, value in weights.items()}


def key(name: str) -> str:
    """A name under which torch registers a parameter or a buffer: without dots."""
    return name.replace(".", "/")


def _log_mode(prior: Prior, name: str) -> Tensor:
    size = prior.anchors[name][0].numel()
    return -size * (prior.std[name].log() + 0.5 * math.log(2 * math.pi))
