"""Bayesian posterior over the weights of the transition (and cost head), written in Pyro.

The weights of a template module are Pyro sample sites with an explicit Gaussian prior. K
particles represent the posterior; each minimises a *randomised* objective: its own prior draw
(anchor) in place of the prior mean, and its own share of the data. In a linear-Gaussian model
with perturbed targets those minimisers are exact posterior samples (Papandreou & Yuille 2010;
Pearce et al. 2020, anchored ensembles); in a neural network they keep members apart where data
are thin and let them agree where data are many.

Pyro sees the weight sites only, once per gradient step; it never traces the latent states.
"""

import math
from collections.abc import Mapping
from typing import Literal, cast

import pyro
import pyro.distributions as dist
import torch
from jaxtyping import Float
from pyro import poutine
from torch import Tensor, nn

from blocks.types import Weights

Family = Literal["particles", "point"]
FAMILIES = ("particles", "point")


class EnsemblePosterior(nn.Module):
    """Posterior over the parameters of ``template``, represented by ``members`` particles.

    ``w_k = argmin_w  -log p(data_k | w) + |w - m - a_k|^2 / (2 std^2)``. The prior's mean ``m`` is
    the template's own weights, whatever they are at the moment of asking: where the template is
    itself trained, the prior is centred on the current point estimate (empirical Bayes). Particle
    k is stored as its offset from the mean and begins at its anchor ``a_k ~ N(0, std^2)``.

    Args:
        template: module whose named parameters become sample sites.
        members: number of particles K >= 1.
        family: ``"particles"`` as above; ``"point"`` is the non-Bayesian control: members from
            independent starting points, without prior, anchor or repulsion (one deterministic
            model for ``members=1``, a plain deep ensemble otherwise).
        prior_scale: prior standard deviation of a weight in units of ``1 / sqrt(fan_in)``, where
            weights are ``[in, out]`` (``nn.Linear`` stores ``[out, in]``: use ``prior_std``).
        prior_std: standard deviations by parameter name, where the rule above does not fit.

    >>> posterior = EnsemblePosterior(nn.Linear(3, 2), members=5)
    >>> posterior.sample(5)["weight"].shape
    torch.Size([5, 2, 3])
    """

    def __init__(
        self,
        template: nn.Module,
        *,
        members: int = 5,
        family: Family = "particles",
        prior_scale: float = 0.5,
        prior_std: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__()
        if members < 1:
            raise ValueError(f"members: got {members}; an ensemble needs at least 1 member.")
        if family not in FAMILIES:
            raise ValueError(f"family: got {family!r}; choose one of {', '.join(FAMILIES)}.")
        if prior_scale <= 0:
            raise ValueError(f"prior_scale: got {prior_scale}; a prior needs a positive width.")
        unknown = set(prior_std or {}) - {name for name, _ in template.named_parameters()}
        if unknown:
            raise ValueError(f"prior_std: got {sorted(unknown)}, which the template does not have.")
        self.members, self.family = members, family
        self._template = [template]  # in a list: its parameters are not this module's
        self._names = [name for name, _ in template.named_parameters()]
        self._offsets = nn.ParameterDict()
        for name, mean in template.named_parameters():
            std = (prior_std or {}).get(name, prior_scale / math.sqrt(max(1, mean.shape[0])))
            anchor = std * torch.randn(members, *mean.shape)
            self.register_buffer(f"std/{self._key(name)}", torch.tensor(std))
            self.register_buffer(f"anchor/{self._key(name)}", anchor)
            self._offsets[self._key(name)] = nn.Parameter(anchor.clone())

    def sample(self, members: int | None = None) -> Weights:
        """Stacked weights of the first ``members`` particles (all by default), by name.

        Gradients reach the particles and not the prior's mean.
        """
        count = self._count(members)
        return {
            name: mean.detach() + self._offsets[self._key(name)][:count]
            for name, mean in self._template[0].named_parameters()
        }

    def anchors(self, members: int | None = None) -> Weights:
        """The first members' own prior draws, as deviations from the prior's mean."""
        count = self._count(members)
        return {name: self._buffer("anchor", name)[:count] for name in self._names}

    def log_prior(self, members: int | None = None) -> Float[Tensor, " member"]:
        """Log-density of each particle under its own prior in nats, relative to the mode.

        Zero for the ``point`` family, which has no prior. Divide by the number of data points
        when it is added to a mean log-likelihood.
        """
        count = self._count(members)
        if self.family == "point":
            return torch.zeros(count)
        data = {name: self._offsets[self._key(name)][:count] for name in self._names}
        trace = poutine.trace(poutine.condition(self.model, data=data)).get_trace(count)
        trace.compute_log_prob()
        nodes = cast(dict[str, dict[str, Tensor]], trace.nodes)
        sites = [nodes[name]["log_prob"] - self._log_mode(name) for name in self._names]
        return torch.stack(sites).sum(0)

    def model(self, members: int) -> Weights:
        """The Pyro model of the offsets: a Gaussian site per weight, independent over members.

        Each member's prior is centred on its own anchor: that is what makes the MAP of the
        randomised objective a posterior sample.
        """
        with pyro.plate("member", members):
            return {
                name: cast(
                    Tensor,
                    pyro.sample(
                        name,
                        # Checking each weight at each step would double the cost of the prior.
                        dist.Normal(
                            anchor, self._buffer("std", name), validate_args=False
                        ).to_event(anchor.dim() - 1),
                    ),
                )
                for name, anchor in self.anchors(members).items()
            }

    def parameters_below(self, prefix: str) -> list[nn.Parameter]:
        """The particles of the sites below ``prefix.``, for an optimiser's parameter group."""
        start = self._key(f"{prefix}.")
        return [offset for key, offset in self._offsets.items() if key.startswith(start)]

    def spread(self) -> float:
        """Root mean square distance of the particles from their mean, in prior deviations."""
        total, count = 0.0, 0
        for name in self._names:
            offset = self._offsets[self._key(name)].detach()
            scaled = (offset - offset.mean(0)) / self._buffer("std", name)
            total, count = total + float(scaled.square().sum()), count + scaled.numel()
        return math.sqrt(total / count)

    def _log_mode(self, name: str) -> Tensor:
        size = self._buffer("anchor", name)[0].numel()
        return -size * (self._buffer("std", name).log() + 0.5 * math.log(2 * math.pi))

    def _count(self, members: int | None) -> int:
        count = self.members if members is None else members
        if not 1 <= count <= self.members:
            raise ValueError(
                f"members: got {members}; this posterior holds {self.members} particles, "
                f"so ask for 1 to {self.members}."
            )
        return count

    def _buffer(self, kind: str, name: str) -> Tensor:
        return cast(Tensor, getattr(self, f"{kind}/{self._key(name)}"))

    @staticmethod
    def _key(name: str) -> str:
        # Parameter and buffer names may not contain dots.
        return name.replace(".", "/")


def select(weights: Weights, prefix: str) -> Weights:
    """The weights below ``prefix.``, with the prefix taken off."""
    start = f"{prefix}."
    return {k.removeprefix(start): v for k, v in weights.items() if k.startswith(start)}
