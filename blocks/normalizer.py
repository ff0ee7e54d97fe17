"""Normalisation of vector observations by statistics of the data, frozen between updates."""

import torch
from jaxtyping import Float
from torch import Tensor, nn


class Normalizer(nn.Module):
    """``(x - mean) / max(std, min_std)``, clipped to +-10, with statistics set by ``fit``.

    Args:
        size: size of the vector.
        min_std: floor of the standard deviation, so that a dimension that has hardly moved in the
            first data does not explode when it does.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, size: int, *, min_std: float = 0.1) -> None:
        super().__init__()
        self.min_std = min_std
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("std", torch.ones(size))

    def fit(self, observations: Float[Tensor, "rows size"]) -> None:
        """Set the statistics from data."""
        if not torch.isfinite(observations).all():
            raise ValueError("observations: got NaN or infinity; every entry must be finite.")
        self.mean.copy_(observations.mean(0))
        self.std.copy_(observations.std(0, unbiased=False).clamp_min(self.min_std))

    def forward(self, observation: Float[Tensor, "*batch size"]) -> Float[Tensor, "*batch size"]:
        """Normalised observation."""
        return ((observation - self.mean) / self.std).clamp(-10, 10)
