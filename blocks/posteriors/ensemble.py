"""Bayesian posterior over the weights of the transition (and cost head), written in Pyro.

The weights of a template module are Pyro sample sites with an explicit Gaussian prior. K members
represent the posterior, in one of several families (``PosteriorFamily``):

    Particles   each minimises a *randomised* objective: a draw from the prior (its anchor) replaces
                the prior mean, and it weighs the data differently; exact in the linear-Gaussian
                case with perturbed targets, and for many data with exponential weights
    Stein       Stein variational gradient descent: common data and prior, mutual repulsion
    MeanField   members are draws from a factorised Gaussian guide
    Point       the non-Bayesian control: independent starting points, no prior

Pyro handles only the weight sites, once per gradient step; it never traces the latent states.
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
"""A family's class, or any callable that builds a family from the prior."""


class EnsemblePosterior(nn.Module):
    """Posterior over the parameters of ``template``, represented by ``members`` samples.

    The prior's mean ``m`` is the template's current weights: if the template is trained too, the
    prior is centred on the current point estimate (empirical Bayes). Member k is an offset from the
    mean. In every family it starts at its anchor ``a_k ~ N(0, std^2)``, a draw from the prior.

    All families train in the same way: ``sample(generator=...)`` gives the weights for the
    likelihood, and any torch optimiser maximises the likelihood's mean over members and data plus
    ``log_prior().mean() / data_size``.

    Args:
        template: module whose named parameters become sample sites.
        members: number of members K >= 1.
        family: class of the members' representation, see above; called with the prior.
        prior_scale: prior standard deviation of a weight in units of ``1 / sqrt(fan_in)``, where
            weights are ``[in, out]`` (``nn.Linear`` stores ``[out, in]``: use ``prior_std``).
        prior_std: standard deviations by parameter name, where that rule does not fit.

    Raises:
        ValueError: an argument is out of range, or the template has no parameters.

    Example:
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
            raise ValueError(f"members: got {members}; allowed 1 and above; give at least 1 member")
        if not callable(family):
            raise ValueError(
                f"family: got {family!r}; allowed a class such as Particles, Stein, MeanField or "
                "Point; pass the class itself"
            )
        if not 0 < prior_scale < math.inf:
            raise ValueError(
                f"prior_scale: got {prior_scale}; allowed finite and above 0; take 0.5"
            )
        if unknown := set(stds) - set(self._names):
            raise ValueError(
                f"prior_std: got {sorted(unknown)}; allowed the template's {self._names}; "
                "remove the others"
            )
        if bad := {name: std for name, std in stds.items() if not 0 < std < math.inf}:
            raise ValueError(
                f"prior_std: got {bad}; allowed finite and above 0; give a positive width"
            )
        if not self._names:
            raise ValueError(
                "template: got a module without parameters; allowed one with parameters; "
                "pass the module whose weights are uncertain"
            )
        self.members = members
        self._template = [template]  # in a list, so torch does not register its parameters here
        for name, mean in template.named_parameters():
            std = stds.get(name, prior_scale / math.sqrt(max([1, *mean.shape[:1]])))
            self.register_buffer(f"std/{key(name)}", torch.tensor(std))
            self.register_buffer(f"anchor/{key(name)}", std * torch.randn(members, *mean.shape))
        self._offsets: PosteriorFamily = family(self._prior())

    @property
    def separate_data(self) -> bool:
        """Whether each member needs a separate weighting (or perturbation) of the data."""
        return self._offsets.separate_data

    def sample(
        self, members: int | None = None, *, generator: torch.Generator | None = None
    ) -> Weights:
        """Return stacked weights ``[member, *weight]`` by name.

        Without a generator: the first ``members`` stored ones (default: all), the same at each
        call. With a generator, ``MeanField`` draws new members, any number; the other families
        return their stored ones and draw nothing. Gradients reach the members but not the prior's
        mean.

        Args:
            members: number of members.
            generator: source of noise.

        Raises:
            ValueError: ``members`` is below 1 or above the number of stored members.
        """
        drawn = generator is not None and self._offsets.draws
        count = self._count(members, drawn=drawn)
        offsets = self._offsets.offsets(self._prior(), count, generator)
        return {
            name: mean.detach() + offsets[name]
            for name, mean in self._template[0].named_parameters()
        }

    def anchors(self, members: int | None = None) -> Weights:
        """Return the first members' prior draws, as deviations from the prior's mean."""
        return first(self._prior().anchors, self._count(members))

    def log_prior(self, members: int | None = None) -> Float[Tensor, " member"]:
        """Compute the prior's term in each member's log-posterior, in nats.

        ``Particles``: log-density under the prior around the member's anchor, relative to its mode.
        ``Stein``: the same under the common prior, with the repulsion in its gradient.
        ``MeanField``: minus the KL divergence of the guide from the prior. ``Point``: zero. Divide
        by the number of data points to add it to a mean log-likelihood.
        """
        return self._offsets.log_prior(self._prior(), self._count(members))

    def model(self, members: int) -> Weights:
        """Run the Pyro model of the offsets: an independent Gaussian site per weight and member."""
        return self._offsets.model(self._prior(), members)

    def parameters_below(self, prefix: str) -> list[nn.Parameter]:
        """Return the trained parameters of the sites below ``prefix.``, for a parameter group."""
        return self._offsets.parameters_below(prefix)

    def spread(self) -> float:
        """Compute the members' root mean square distance from their mean, in prior deviations."""
        total, count = 0.0, 0
        offsets = self._offsets.offsets(self._prior(), self.members, None)
        for name, std in self._prior().std.items():
            offset = offsets[name].detach()
            scaled = (offset - offset.mean(0)) / std
            total, count = total + float(scaled.square().sum()), count + scaled.numel()
        return math.sqrt(total / count)

    def _prior(self) -> Prior:
        # Read at each call, because moving the module to a device or dtype replaces its buffers.
        std, anchors = (
            {name: cast(Tensor, getattr(self, f"{kind}/{key(name)}")) for name in self._names}
            for kind in ("std", "anchor")
        )
        return Prior(std, anchors)

    def _count(self, members: int | None, *, drawn: bool = False) -> int:
        count = self.members if members is None else members
        if count >= 1 and (drawn or count <= self.members):
            return count
        more = " or pass sample() a generator to draw more" if self._offsets.draws else ""
        raise ValueError(
            f"members: got {members}; allowed 1 to {self.members}, the stored members; "
            f"ask for fewer{more}"
        )


def select(weights: Weights, prefix: str) -> Weights:
    """Select the weights below ``prefix.`` and remove the prefix from their names."""
    start = f"{prefix}."
    return {k.removeprefix(start): v for k, v in weights.items() if k.startswith(start)}
