"""A factorised Gaussian guide as a family of the parameter posterior."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import kl_divergence

from blocks.posteriors.family import Prior, conditioned_sites, first, gaussian_sites, key
from blocks.types import Weights


class MeanField(nn.Module):
    """A factorised Gaussian guide ``q = N(loc, scale^2)``; the members are draws from it.

    Maximises the evidence lower bound: members are ``loc + scale * noise``, and the prior's term is
    the exact ``-KL(q || prior)``. For a Gaussian posterior with precision A the optimum has the
    right mean and the variances ``1 / A_ii``, which are too small where weights are correlated
    (Bishop 2006, 10.1.2).

    Without a generator the members use fixed noise, stored when the guide is built; with one they
    are new. Train on new ones: a guide trained on a few fixed draws would fit those draws.
    """

    separate_data = False
    draws = True

    def __init__(self, prior: Prior) -> None:
        super().__init__()
        self.loc, self.log_scale = nn.ParameterDict(), nn.ParameterDict()  # in prior deviations
        for name, anchor in prior.anchors.items():
            self.loc[key(name)] = nn.Parameter(torch.zeros_like(anchor[0]))
            self.log_scale[key(name)] = nn.Parameter(torch.zeros_like(anchor[0]))

    def model(self, prior: Prior, members: int) -> Weights:
        """Sample the Pyro sites of the offsets under the prior."""
        return gaussian_sites(
            {name: torch.zeros_like(a[:members]) for name, a in prior.anchors.items()}, prior.std
        )

    def guide(self, prior: Prior, members: int) -> Weights:
        """Sample the Pyro sites of the offsets under the posterior."""
        loc = {
            name: (std * self.loc[key(name)]).expand(members, *self.loc[key(name)].shape)
            for name, std in prior.std.items()
        }
        return gaussian_sites(loc, self._scale(prior))

    def offsets(
        self, prior: Prior, members: int, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """Return reparameterised members ``[member, *weight]``, new ones with a generator."""
        scale = self._scale(prior)
        return {
            name: std * self.loc[key(name)]
            + scale[name] * self._noise(name, prior, members, generator)
            for name, std in prior.std.items()
        }

    def log_prior(self, prior: Prior, members: int) -> Float[Tensor, " member"]:
        """Compute ``-KL(q || prior)`` in nats, the same for every member."""
        # With values given, the sites draw none; the divergence does not depend on the values.
        values = first(prior.anchors, 1)
        posterior, before = (
            conditioned_sites(program, values, prior, 1) for program in (self.guide, self.model)
        )
        divergences = [
            kl_divergence(posterior[name]["fn"], before[name]["fn"]) for name in prior.std
        ]
        return -torch.stack(divergences).sum(0).expand(members)

    def parameters_below(self, prefix: str) -> list[nn.Parameter]:
        """Return the parameters of the sites whose names begin with ``prefix.``."""
        return [
            parameter
            for kind in (self.loc, self.log_scale)
            for name, parameter in kind.items()
            if name.startswith(key(f"{prefix}."))
        ]

    def _scale(self, prior: Prior) -> dict[str, Tensor]:
        return {name: std * self.log_scale[key(name)].exp() for name, std in prior.std.items()}

    @staticmethod
    def _noise(name: str, prior: Prior, members: int, generator: torch.Generator | None) -> Tensor:
        held = prior.anchors[name]
        if generator is None:
            return held[:members] / prior.std[name]
        noise = torch.randn(
            members, *held.shape[1:], generator=generator, device=generator.device, dtype=held.dtype
        )
        return noise.to(held.device)
