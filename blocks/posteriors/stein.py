"""Stein variational gradient descent as a family of the parameter posterior."""

from typing import Any, cast

import torch
from jaxtyping import Float
from pyro.infer import RBFSteinKernel
from torch import Tensor

from blocks.posteriors.family import Prior, conditioned_sites, gaussian_sites, key, log_density
from blocks.posteriors.particles import Particles
from blocks.types import Weights


class Stein(Particles):
    r"""Particles that share the data and repel each other (SVGD, Liu & Wang 2016).

    .. math::
        \phi_n = \frac1K \sum_m k(z_m, z_n) \nabla_{z_m} \log p(z_m \mid data) + \nabla_{z_m} k

    in prior-standardised offsets z, with Pyro's RBF kernel and median bandwidth. The loss's
    gradient equals ``-phi / data_size``: ``offsets`` gives each particle the kernel-weighted
    gradients of all, without changing a value; ``log_prior`` holds the second term.

    The kernel compares one weight at a time (Singhal et al. 2019, Pyro's default). A product over
    ten thousand weights would be zero between any two particles, so they would not interact.
    """

    separate_data = False

    def model(self, prior: Prior, members: int) -> Weights:
        """Sample the Pyro sites of the offsets; all members share one prior."""
        return gaussian_sites(
            {name: torch.zeros_like(a[:members]) for name, a in prior.anchors.items()}, prior.std
        )

    def offsets(
        self, prior: Prior, members: int, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """Return the first particles; the kernel spreads each gradient over all particles."""
        return {
            name: self._share(self[key(name)], self._kernel(name, std)[0])[:members]
            for name, std in prior.std.items()
        }

    def log_prior(self, prior: Prior, members: int) -> Float[Tensor, " member"]:
        """Compute the log-density relative to the mode; its gradient includes the repulsion."""
        offsets: dict[str, Tensor] = {}
        repulsion = torch.zeros(())
        for name, std in prior.std.items():
            particles = self[key(name)]
            kernel, away = self._kernel(name, std)
            offsets[name] = self._share(particles, kernel)[:members]
            repulsion = repulsion + (away * _gradient_only(particles) / std).sum(1)
        sites = conditioned_sites(self.model, offsets, prior, members)
        return log_density(sites, prior) + repulsion[:members]

    def _kernel(
        self, name: str, std: Tensor
    ) -> tuple[Float[Tensor, "member member size"], Float[Tensor, "member size"]]:
        """Compute ``k(z_n, z_m)`` of each weight, and the sum over m of its gradient by ``z_m``."""
        particles = self[key(name)].detach().reshape(len(self[key(name)]), -1) / std
        if len(particles) == 1:  # no pair, no bandwidth: a single particle finds the MAP
            return torch.ones_like(particles).unsqueeze(0), torch.zeros_like(particles)
        log_kernel: Tensor
        gradient: Tensor
        log_kernel, gradient = cast(Any, RBFSteinKernel()).log_kernel_and_grad(particles)
        # The bandwidth is zero where particles coincide; they then move together.
        kernel = log_kernel.nan_to_num(nan=0.0).exp()
        towards = (kernel * gradient).nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
        return kernel, -towards.sum(1)  # Pyro's gradient has the sign of descent

    @staticmethod
    def _share(particles: Tensor, kernel: Tensor) -> Tensor:
        """Keep the values and mix the gradients of all particles by the kernel."""
        shared = torch.einsum("nmd,nd->md", kernel, _gradient_only(particles))
        return particles.detach() + shared.view_as(particles)


def _gradient_only(particles: Tensor) -> Float[Tensor, "member size"]:
    """Return zeros with the particles' gradient."""
    return (particles - particles.detach()).reshape(len(particles), -1)
