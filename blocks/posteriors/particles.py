"""Randomised MAP particles as a family of the parameter posterior: the default."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from blocks.posteriors.family import (
    Prior,
    conditioned_sites,
    first,
    gaussian_sites,
    key,
    log_density,
)
from blocks.types import Weights


class Particles(nn.ParameterDict):
    """Particles that each minimise a randomised objective, with a separate anchor and
    weighting of the data.

    ``w_k = argmin_w -log p(data_k | w) + |w - m - a_k|^2 / (2 std^2)`` is an exact posterior sample
    in the linear-Gaussian case if each member's targets are perturbed (Papandreou & Yuille 2010;
    Pearce et al. 2020), and for many data if it weighs them by Exp(1) (Newton & Raftery 1994).
    """

    separate_data = True
    draws = False

    def __init__(self, prior: Prior) -> None:
        super().__init__()
        for name, anchor in prior.anchors.items():
            self[key(name)] = nn.Parameter(anchor.clone())

    def model(self, prior: Prior, members: int) -> Weights:
        """Sample the Pyro sites of the offsets; each member's prior is centred on its anchor."""
        return gaussian_sites(first(prior.anchors, members), prior.std)

    def offsets(
        self, prior: Prior, members: int, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """Return the first particles, ``[member, *weight]``."""
        return {name: self[key(name)][:members] for name in prior.anchors}

    def log_prior(self, prior: Prior, members: int) -> Float[Tensor, " member"]:
        """Compute each particle's log-density around its anchor in nats, relative to the mode."""
        offsets = self.offsets(prior, members)
        return log_density(conditioned_sites(self.model, offsets, prior, members), prior)

    def parameters_below(self, prefix: str) -> list[nn.Parameter]:
        """Return the parameters of the sites whose names begin with ``prefix.``."""
        return [particle for name, particle in self.items() if name.startswith(key(f"{prefix}."))]
