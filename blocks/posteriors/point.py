"""A plain deep ensemble as a family of the parameter posterior: the non-Bayesian control."""

from jaxtyping import Float
from torch import Tensor

from blocks.posteriors.family import Prior
from blocks.posteriors.particles import Particles


class Point(Particles):
    """The non-Bayesian control: members from independent starting points, without a prior."""

    separate_data = False

    def log_prior(self, prior: Prior, members: int) -> Float[Tensor, " member"]:
        """Return zero: members fit only the data."""
        return next(iter(prior.anchors.values())).new_zeros(members)
