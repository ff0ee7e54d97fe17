"""Distributions of the stochastic latent: diagonal Gaussian (default) and categorical.

Both are NamedTuples of plain tensors with the methods of ``Latent``, so that an RSSM takes either.
The noise is handed in, which makes common random numbers across members a matter of broadcasting.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

MIN_STD = 0.1


class Gaussian(NamedTuple):
    """Diagonal Gaussian with standard deviation at least 0.1 (Hafner et al. 2019, PlaNet)."""

    mean: Float[Tensor, "*batch stoch"]
    std: Float[Tensor, "*batch stoch"]

    @staticmethod
    def statistics_size(stoch: int) -> int:
        """Number of network outputs for ``stoch`` latent dimensions."""
        return 2 * stoch

    @classmethod
    def from_statistics(cls, statistics: Float[Tensor, "*batch two_stoch"]) -> "Gaussian":
        """Distribution from raw network outputs."""
        mean, raw = statistics.chunk(2, dim=-1)
        return cls(mean, F.softplus(raw) + MIN_STD)

    @staticmethod
    def noise(shape: tuple[int, ...], generator: torch.Generator | None = None) -> Tensor:
        """Standard normal noise for ``rsample``, on the generator's device (without one: CPU)."""
        return torch.randn(shape, generator=generator, device=_device(generator))

    def rsample(self, noise: Tensor) -> Float[Tensor, "*batch stoch"]:
        """Reparameterised sample; ``noise`` broadcasts against the mean."""
        return torch.addcmul(self.mean, self.std, noise)

    def mode(self) -> Float[Tensor, "*batch stoch"]:
        """The most likely latent."""
        return self.mean

    def map(self, function: Callable[[Tensor], Tensor]) -> "Gaussian":
        """The distribution with ``function`` applied to its statistics: detach, reshape, index."""
        return Gaussian(function(self.mean), function(self.std))

    def kl(self, other: "Gaussian") -> Float[Tensor, "*batch"]:
        """``KL(self || other)`` in nats, summed over latent dimensions, in closed form."""
        ratio = self.std / other.std
        distance = (self.mean - other.mean) / other.std
        return (0.5 * (ratio.square() + distance.square() - 1) - ratio.log()).sum(-1)


class Categorical(NamedTuple):
    """Independent 8-way categoricals with straight-through samples (Hafner et al. 2021).

    ``stoch`` must be a multiple of 8; a latent is the flattened one-hot vectors.
    """

    logits: Float[Tensor, "*batch groups classes"]

    CLASSES = 8
    UNIFORM = 0.01

    @staticmethod
    def statistics_size(stoch: int) -> int:
        """Number of network outputs for ``stoch`` latent dimensions."""
        if stoch % Categorical.CLASSES:
            raise ValueError(
                f"stoch: got {stoch}; a categorical latent takes a multiple of "
                f"{Categorical.CLASSES}."
            )
        return stoch

    @classmethod
    def from_statistics(cls, statistics: Float[Tensor, "*batch stoch"]) -> "Categorical":
        """Distribution from raw network outputs, mixed with 1% uniform so that KLs stay finite."""
        logits = rearrange(statistics, "... (g c) -> ... g c", c=cls.CLASSES)
        probs = (1 - cls.UNIFORM) * logits.softmax(-1) + cls.UNIFORM / cls.CLASSES
        return cls(probs.log())

    @staticmethod
    def noise(shape: tuple[int, ...], generator: torch.Generator | None = None) -> Tensor:
        """Standard Gumbel noise for ``rsample``, on the generator's device (without one: CPU)."""
        uniform = torch.rand(shape, generator=generator, device=_device(generator))
        uniform = uniform.clamp_min(1e-20)
        return -(-uniform.log()).clamp_min(1e-20).log()

    def rsample(self, noise: Tensor) -> Float[Tensor, "*batch stoch"]:
        """One-hot sample whose gradient is that of the probabilities."""
        gumbel = rearrange(noise, "... (g c) -> ... g c", c=self.CLASSES)
        one_hot = F.one_hot((self.logits + gumbel).argmax(-1), self.CLASSES).to(self.logits.dtype)
        probs = self.logits.exp()
        return rearrange(one_hot + probs - probs.detach(), "... g c -> ... (g c)")

    def mode(self) -> Float[Tensor, "*batch stoch"]:
        """The most likely latent."""
        one_hot = F.one_hot(self.logits.argmax(-1), self.CLASSES).to(self.logits.dtype)
        return rearrange(one_hot, "... g c -> ... (g c)")

    def map(self, function: Callable[[Tensor], Tensor]) -> "Categorical":
        """The distribution with ``function`` applied to its statistics: detach, reshape, index."""
        return Categorical(function(self.logits))

    def kl(self, other: "Categorical") -> Float[Tensor, "*batch"]:
        """``KL(self || other)`` in nats, summed over the categoricals."""
        return (self.logits.exp() * (self.logits - other.logits)).sum((-2, -1))


def _device(generator: torch.Generator | None) -> torch.device | None:
    return generator.device if generator else None


@runtime_checkable
class Latent(Protocol):
    """What an RSSM asks of a latent distribution."""

    @staticmethod
    def statistics_size(stoch: int) -> int: ...
    @classmethod
    def from_statistics(cls, statistics: Tensor) -> "Latent": ...
    @staticmethod
    def noise(shape: tuple[int, ...], generator: torch.Generator | None = None) -> Tensor: ...
    def rsample(self, noise: Tensor) -> Tensor: ...
    def mode(self) -> Tensor: ...
    def map(self, function: Callable[[Tensor], Tensor]) -> "Latent": ...
    def kl(self, other: Any) -> Tensor: ...
