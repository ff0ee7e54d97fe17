"""Decoders: latent state -> vector or image observation, each with its log-likelihood."""

from itertools import pairwise
from typing import Any, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from einops import pack, unpack
from einops.layers.torch import Rearrange
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from blocks.heads import GaussianHead


@runtime_checkable
class Decoder(Protocol):
    """A ``nn.Module`` that maps feat to an observation and knows its log-likelihood."""

    def __call__(self, feat: Tensor) -> Tensor:
        """Compute the mean observation, ``[*batch, ...]``, from ``[*batch, feat]``."""
        ...

    def log_prob(self, feat: Tensor, target: Tensor) -> Tensor:
        """Compute the log-likelihood ``[*batch]`` of a normalised observation, in nats."""
        ...

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Compile the forward pass; ``nn.Module`` has this method."""
        ...


class VectorDecoder(GaussianHead):
    """Feat -> normalised vector observation."""


class ImageDecoder(nn.Module):
    """Feat -> mean of a Gaussian over 64x64 RGB images: the layers of Ha & Schmidhuber (2018).

    ``[*batch, feat] -> [*batch, 64, 64, 3]``; -0.5 is black, 0.5 is full intensity. Group norm and
    SiLU as in ``ImageEncoder``.

    Args:
        feat_size: size of the input.
        depth: channels of the last hidden layer; the layers before have 2 and 4 times as many.
        std: standard deviation of a pixel, > 0; 1 in Dreamer. A smaller one spends more of the
            latent's KL on small or faint objects (Rybkin et al. 2021).
        bfloat16: compute the layers in bfloat16; image, likelihood and weights stay float32.

    Raises:
        ValueError: the standard deviation is not above 0.
    """

    def __init__(
        self, feat_size: int, *, depth: int = 32, std: float = 1.0, bfloat16: bool = False
    ) -> None:
        super().__init__()
        if not std > 0:
            raise ValueError(f"std: got {std}; allowed above 0; 1 is Dreamer's")
        self.autocast, self.std = bfloat16, std
        self.input = nn.Sequential(nn.Linear(feat_size, 32 * depth), nn.SiLU())
        # On a single pixel a transposed convolution is a linear layer.
        first = nn.Linear(32 * depth, 5 * 5 * 4 * depth)
        # Channels last in memory, as in the image, is faster on a CPU.
        layers: list[nn.Module] = [first, Rearrange("b (h w c) -> b c h w", h=5, w=5)]
        channels = pairwise([4 * depth, 2 * depth, depth, 3])
        for (channels_in, channels_out), kernel in zip(channels, (5, 6, 6), strict=True):
            layers += [nn.GroupNorm(1, channels_in), nn.SiLU()]
            layers += [nn.ConvTranspose2d(channels_in, channels_out, kernel, stride=2)]
        self.layers = nn.Sequential(*layers)

    def forward(self, feat: Float[Tensor, "*batch feat"]) -> Float[Tensor, "*batch 64 64 3"]:
        """Compute the mean image."""
        flat, leading = pack([feat], "* feat")
        with torch.autocast(flat.device.type, torch.bfloat16, enabled=self.autocast):
            pixels = self.layers(self.input(flat)).float().permute(0, 2, 3, 1)
        (image,) = unpack(pixels, leading, "* h w c")
        return image

    def log_prob(
        self, feat: Float[Tensor, "*batch feat"], target: UInt8[Tensor, "*batch 64 64 3"]
    ) -> Float[Tensor, "*batch"]:
        """Compute the log-likelihood of an image of bytes, in nats, up to a constant."""
        squared = F.mse_loss(self(feat), self.from_bytes(target), reduction="none")
        return -0.5 / self.std**2 * squared.flatten(-3).sum(-1)

    @staticmethod
    def from_bytes(image: UInt8[Tensor, "*batch 64 64 3"]) -> Float[Tensor, "*batch 64 64 3"]:
        """Convert bytes to the range of the mean, [-0.5, 0.5]."""
        return image / 255 - 0.5

    @staticmethod
    def to_bytes(image: Float[Tensor, "*batch 64 64 3"]) -> UInt8[Tensor, "*batch 64 64 3"]:
        """Convert a decoded image to bytes, clipped to their range."""
        return ((image + 0.5) * 255).round().clamp(0, 255).to(torch.uint8)
