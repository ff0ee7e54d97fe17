"""Latents of the RSSM: diagonal Gaussian (default) and categorical.

A *latent* interprets the network's outputs (``Latent``); a *distribution* holds one batch of them
(``LatentDistribution``), as a NamedTuple of plain tensors. Callers pass the noise in, so members
share random numbers by broadcasting.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeVar, runtime_checkable

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

Self = TypeVar("Self", bound="LatentDistribution")


@runtime_checkable
class LatentDistribution(Protocol):
    """A batch of distributions of the stochastic state."""

    def noise(self, shape: tuple[int, ...], generator: torch.Generator | None = None) -> Tensor:
        """Draw noise ``[..., stoch]`` for ``rsample`` on the generator's device (default: CPU)."""
        ...

    def rsample(self, noise: Tensor) -> Float[Tensor, "*batch stoch"]:
        """Draw a reparameterised sample; the noise broadcasts against the statistics."""
        ...

    def mode(self) -> Float[Tensor, "*batch stoch"]:
        """Return the most likely latent."""
        ...

    def map(self: Self, function: Callable[[Tensor], Tensor]) -> Self:
        """Apply ``function`` (detach, reshape, index, ...) to the statistics."""
        ...

    def kl(self: Self, other: Self) -> Float[Tensor, "*batch"]:
        """Compute ``KL(self || other)`` in nats, summed over latent dimensions."""
        ...


@runtime_checkable
class Latent(Protocol):
    """The kind of stochastic state of an RSSM."""

    def statistics_size(self, stoch_size: int) -> int:
        """Return the number of network outputs for ``stoch_size`` latent dimensions.

        Raises:
            ValueError: this latent cannot have that size.
        """
        ...

    def from_statistics(self, statistics: Float[Tensor, "*batch statistics"]) -> LatentDistribution:
        """Build the distribution from raw network outputs."""
        ...

    def noise(self, shape: tuple[int, ...], generator: torch.Generator | None = None) -> Tensor:
        """Draw noise ``[..., stoch]`` for ``rsample`` on the generator's device (default: CPU)."""
        ...


class Gaussian(NamedTuple):
    """Diagonal Gaussian."""

    mean: Float[Tensor, "*batch stoch"]
    std: Float[Tensor, "*batch stoch"]

    def noise(self, shape: tuple[int, ...], generator: torch.Generator | None = None) -> Tensor:
        """Draw standard normal noise for ``rsample`` on the generator's device (default: CPU)."""
        return _normal(shape, generator)

    def rsample(self, noise: Tensor) -> Float[Tensor, "*batch stoch"]:
        """Draw a reparameterised sample; ``noise`` broadcasts against the mean."""
        return torch.addcmul(self.mean, self.std, noise)

    def mode(self) -> Float[Tensor, "*batch stoch"]:
        """Return the most likely latent."""
        return self.mean

    def map(self, function: Callable[[Tensor], Tensor]) -> "Gaussian":
        """Apply ``function`` (detach, reshape, index, ...) to the statistics."""
        return Gaussian(function(self.mean), function(self.std))

    def kl(self, other: "Gaussian") -> Float[Tensor, "*batch"]:
        """Compute ``KL(self || other)`` in nats, summed over dimensions, in closed form."""
        ratio = self.std / other.std
        distance = (self.mean - other.mean) / other.std
        return (0.5 * (ratio.square() + distance.square() - 1) - ratio.log()).sum(-1)


@dataclass(frozen=True)
class GaussianLatent:
    """Diagonal Gaussian latents (Hafner et al. 2019, PlaNet).

    Args:
        min_std: floor of the standard deviation, > 0.

    Raises:
        ValueError: ``min_std`` is not above 0.

    Example:
        >>> GaussianLatent().statistics_size(16)
        32
    """

    min_std: float = 0.1

    def __post_init__(self) -> None:
        if not self.min_std > 0:
            raise ValueError(f"min_std: got {self.min_std}; allowed above 0; give a positive one")

    def statistics_size(self, stoch_size: int) -> int:
        """Return the number of network outputs: a mean and a standard deviation per dimension."""
        return 2 * stoch_size

    def from_statistics(self, statistics: Float[Tensor, "*batch two_stoch"]) -> Gaussian:
        """Build the distribution from raw network outputs."""
        mean, raw = statistics.chunk(2, dim=-1)
        return Gaussian(mean, F.softplus(raw) + self.min_std)

    def noise(self, shape: tuple[int, ...], generator: torch.Generator | None = None) -> Tensor:
        """Draw standard normal noise for ``rsample`` on the generator's device (default: CPU)."""
        return _normal(shape, generator)


class Categorical(NamedTuple):
    """Independent categoricals with straight-through samples, flattened to one vector."""

    logits: Float[Tensor, "*batch groups classes"]

    def noise(self, shape: tuple[int, ...], generator: torch.Generator | None = None) -> Tensor:
        """Draw standard Gumbel noise for ``rsample`` on the generator's device (default: CPU)."""
        return _gumbel(shape, generator)

    def rsample(self, noise: Tensor) -> Float[Tensor, "*batch stoch"]:
        """Draw a one-hot sample with the gradient of the probabilities."""
        classes = self.logits.shape[-1]
        gumbel = rearrange(noise, "... (g c) -> ... g c", c=classes)
        one_hot = F.one_hot((self.logits + gumbel).argmax(-1), classes).to(self.logits.dtype)
        probs = self.logits.exp()
        return rearrange(one_hot + probs - probs.detach(), "... g c -> ... (g c)")

    def mode(self) -> Float[Tensor, "*batch stoch"]:
        """Return the most likely latent."""
        one_hot = F.one_hot(self.logits.argmax(-1), self.logits.shape[-1]).to(self.logits.dtype)
        return rearrange(one_hot, "... g c -> ... (g c)")

    def map(self, function: Callable[[Tensor], Tensor]) -> "Categorical":
        """Apply ``function`` (detach, reshape, index, ...) to the statistics."""
        return Categorical(function(self.logits))

    def kl(self, other: "Categorical") -> Float[Tensor, "*batch"]:
        """Compute ``KL(self || other)`` in nats, summed over the categoricals."""
        return (self.logits.exp() * (self.logits - other.logits)).sum((-2, -1))


@dataclass(frozen=True)
class CategoricalLatent:
    """Groups of one-hot latents with straight-through gradients (Hafner et al. 2021, DreamerV2).

    The stochastic state's size must be a multiple of ``classes``.

    Args:
        classes: classes of each categorical, >= 2.
        uniform: share of the uniform distribution, in (0, 1); it keeps KLs finite.

    Raises:
        ValueError: an argument is out of range.

    Example:
        >>> latent = CategoricalLatent(classes=4)
        >>> latent.from_statistics(torch.zeros(2, 12)).logits.shape
        torch.Size([2, 3, 4])
    """

    classes: int = 8
    uniform: float = 0.01

    def __post_init__(self) -> None:
        if self.classes < 2:
            raise ValueError(f"classes: got {self.classes}; allowed 2 and above; give at least 2")
        if not 0 < self.uniform < 1:
            raise ValueError(f"uniform: got {self.uniform}; allowed in (0, 1); take 0.01")

    def statistics_size(self, stoch_size: int) -> int:
        """Return the number of network outputs: one logit per class.

        Raises:
            ValueError: the size is not a multiple of the number of classes.
        """
        if stoch_size % self.classes:
            raise ValueError(
                f"stoch_size: got {stoch_size}; allowed multiples of classes={self.classes}; "
                "change one of the two"
            )
        return stoch_size

    def from_statistics(self, statistics: Float[Tensor, "*batch stoch"]) -> Categorical:
        """Build the distribution from raw network outputs, mixed with the uniform one."""
        logits = rearrange(statistics, "... (g c) -> ... g c", c=self.classes)
        probs = (1 - self.uniform) * logits.softmax(-1) + self.uniform / self.classes
        return Categorical(probs.log())

    def noise(self, shape: tuple[int, ...], generator: torch.Generator | None = None) -> Tensor:
        """Draw standard Gumbel noise for ``rsample`` on the generator's device (default: CPU)."""
        return _gumbel(shape, generator)


def _normal(shape: tuple[int, ...], generator: torch.Generator | None) -> Tensor:
    return torch.randn(shape, generator=generator, device=_device(generator))


def _gumbel(shape: tuple[int, ...], generator: torch.Generator | None) -> Tensor:
    uniform = torch.rand(shape, generator=generator, device=_device(generator)).clamp_min(1e-20)
    return -(-uniform.log()).clamp_min(1e-20).log()


def _device(generator: torch.Generator | None) -> torch.device | None:
    return generator.device if generator else None
