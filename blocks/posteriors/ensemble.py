"""Bayesian posterior over the weights of the transition (and cost head), written in Pyro.

The weights of a template module are Pyro sample sites with an explicit Gaussian prior. K members
represent the posterior. How they do so is up to the family (``PosteriorFamily``):

    Particles   each minimises a *randomised* objective, with its own prior draw (anchor) in place
                of the prior mean and its own share of the data; exact in the linear-Gaussian case
    Stein       Stein variational gradient descent: common data and prior, mutual repulsion
    MeanField   a factorised Gaussian guide, from which the members are drawn
    Point       the non-Bayesian control: independent starting points, no prior

Pyro sees the weight sites only, once per gradient step; it never traces the latent states.
"""

import math
from collections.abc import Callable, Mapping
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from blocks.posteriors.family import PosteriorFamily, Prior, first, key
from blocks.posteriors.particles import Particles
from blocks.types import Weights

MakeFamily = Callable[[Prior], PosteriorFamily]
"""A family's class, or anything else that builds one from the prior."""


class EnsemblePosterior(nn.Module):
    """Posterior over the parameters of ``template``, represented by ``members`` samples.

    The prior's mean ``m`` is the template's own weights, whatever they are at the moment of
    asking: where the template is itself trained, the prior is centred on the current point estimate
    (empirical Bayes). Member k is an offset from the mean and begins, in every family, at its
    anchor ``a_k ~ N(0, std^2)``, a draw from the prior.

    Training is the same for every family: ``sample(generator=...)`` gives the weights of a
    likelihood, ``log_prior().mean() / data_size`` is added to its mean over members and data, and
    any torch optimiser ascends.

    Args:
        template: module whose named parameters become sample sites.
        members: number of members K >= 1.
        family: how they represent the posterior: a class, see above; called with the prior.
        prior_scale: prior standard deviation of a weight in units of ``1 / sqrt(fan_in)``, where
            weights are ``[in, out]`` (``nn.Linear`` stores ``[out, in]``: use ``prior_std``).
        prior_std: standard deviations by parameter name, where the rule above does not fit.

    Raises:
        ValueError: if an argument is out of range, or the template has no parameters.

    >>> posterior = EnsemblePosterior(nn.Linear(3, 2), members=5)
    >>> posterior.sample(5)["weight"].shape
    torch.Size([5, 2, 3])
    >>> from blocks.posteriors.mean_field import MeanField
    >>> guide = EnsemblePosterior(nn.Linear(3, 2), family=MeanField)
    >>> guide.sample(100, generator=torch.Generator().manual_seed(0))["weight"].shape
    torch.Size([100, 2, 3])
    """

    def __init__(
        self,
        template: nn.Module,
        *,
        members: int = 5,
        family: MakeFamily = Particles,
        prior_scale: float = 0.5,
        prior_std: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__()
        stds = prior_std or {}
        self._names = [name for name, _ in template.named_parameters()]
        if members < 1:
            raise ValueError(f"members: got {members}; an ensemble needs at least 1 member.")
        if not callable(family):
            raise ValueError(
                f"family: got {family!r}; allowed a class such as Particles, Stein, MeanField or "
                "Point; pass the class itself."
            )
        if not 0 < prior_scale < math.inf:
            raise ValueError(f"prior_scale: got {prior_scale}; a prior needs a positive width.")
        if unknown := set(stds) - set(self._names):
            raise ValueError(f"prior_std: got {sorted(unknown)}, which the template does not have.")
        if bad := {name: std for name, std in stds.items() if not 0 < std < math.inf}:
            raise ValueError(f"prior_std: got {bad}; a prior needs a positive, finite width.")
        if not self._names:
            raise ValueError("template: it has no parameters, so there is nothing to be unsure of.")
        self.members = members
        self._template = [template]  # in a list: its parameters are not this module's
        for name, mean in template.named_parameters():
            std = stds.get(name, prior_scale / math.sqrt(max([1, *mean.shape[:1]])))
            self.register_buffer(f"std/{key(name)}", torch.tensor(std))
            self.register_buffer(f"anchor/{key(name)}", std * torch.randn(members, *mean.shape))
        self._offsets: PosteriorFamily = family(self._prior())

    @property
    def separate_data(self) -> bool:
        """Whether each member is to be given its own share (or perturbation) of the data."""
        return self._offsets.separate_data

    def sample(
        self, members: int | None = None, *, generator: torch.Generator | None = None
    ) -> Weights:
        """Stacked weights ``[member, *weight]`` by name.

        Without a generator: the first ``members`` of those held (all by default), the same at each
        call. With one, ``MeanField`` draws as many new ones as are asked for; the other families
        hold all they know, and draw nothing. Gradients reach the members and not the prior's mean.

        Raises:
            ValueError: if ``members`` is below 1 or above what there is.
        """
        drawn = generator is not None and self._offsets.draws
        count = self._count(members, drawn=drawn)
        offsets = self._offsets.offsets(self._prior(), count, generator)
        return {
            name: mean.detach() + offsets[name]
            for name, mean in self._template[0].named_parameters()
        }

    def anchors(self, members: int | None = None) -> Weights:
        """The first members' own prior draws, as deviations from the prior's mean."""
        return first(self._prior().anchors, self._count(members))

    def log_prior(self, members: int | None = None) -> Float[Tensor, " member"]:
        """What the prior adds to each member's log-likelihood, in nats.

        ``Particles``: log-density under the member's own prior, relative to its mode. ``Stein``:
        the same under the common prior, with the repulsion in its gradient. ``MeanField``: minus
        the KL divergence of the guide from the prior. ``Point``: zero. Divide by the number of data
        points when it is added to a mean log-likelihood.
        """
        return self._offsets.log_prior(self._prior(), self._count(members))

    def model(self, members: int) -> Weights:
        """The Pyro model of the offsets: a Gaussian site per weight, independent over members."""
        return self._offsets.model(self._prior(), members)

    def parameters_below(self, prefix: str) -> list[nn.Parameter]:
        """What is trained of the sites below ``prefix.``, for an optimiser's parameter group."""
        return self._offsets.parameters_below(prefix)

    def spread(self) -> float:
        """Root mean square distance of the members from their mean, in prior deviations."""
        total, count = 0.0, 0
        offsets = self._offsets.offsets(self._prior(), self.members, None)
        for name, std in self._prior().std.items():
            offset = offsets[name].detach()
            scaled = (offset - offset.mean(0)) / std
            total, count = total + float(scaled.square().sum()), count + scaled.numel()
        return math.sqrt(total / count)

    def _prior(self) -> Prior:
        # Asked for each time: moving the module to a device or dtype replaces its buffers.
        std, anchors = (
            {name: cast(Tensor, getattr(self, f"{kind}/{key(name)}")) for name in self._names}
            for kind in ("std", "anchor")
        )
        return Prior(std, anchors)

    def _count(self, members: int | None, *, drawn: bool = False) -> int:
        count = self.members if members is None else members
        if count >= 1 and (drawn or count <= self.members):
            return count
        more = " or hand sample() a generator to draw more," if self._offsets.draws else ""
        raise ValueError(
            f"members: got {members}; this posterior holds {self.members} members,{more} "
            f"so ask for 1 to {self.members}."
        )


def select(weights: Weights, prefix: str) -> Weights:
    """The weights below ``prefix.``, with the prefix taken off."""
    start = f"{prefix}."
    return {k.removeprefix(start): v for k, v in weights.items() if k.startswith(start)}
