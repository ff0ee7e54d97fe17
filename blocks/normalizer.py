"""Normalisation of vector observations with statistics that stay fixed between fits."""

import torch
from jaxtyping import Float
from torch import Tensor, nn


class Normalizer(nn.Module):
    """Computes ``(x - mean) / max(std, min_std)``, clipped to +-10; ``fit`` sets the statistics.

    Args:
        size: size of the vector.
        min_std: floor of the standard deviation; it limits the output of a dimension that hardly
            moved in the data of ``fit``.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, size: int, *, min_std: float = 0.1) -> None:
        super().__init__()
        self.min_std = min_std
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("std", torch.ones(size))

    def fit(self, observations: Float[Tensor, "rows size"]) -> None:
        """Set the statistics from data.

        Raises:
            ValueError: an observation is not finite.
        """
        if not torch.isfinite(observations).all():
            raise ValueError(
                "observations: got NaN or infinity; allowed finite numbers; "
                "look for the step that produced it"
            )
        self.mean.copy_(observations.mean(0))
        self.std.copy_(observations.std(0, unbiased=False).clamp_min(self.min_std))

    def forward(self, observation: Float[Tensor, "*batch size"]) -> Float[Tensor, "*batch size"]:
        """Normalise an observation."""
        return ((observation - self.mean) / self.std).clamp(-10, 10)
