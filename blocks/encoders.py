"""Observation encoders: a vector MLP and the 64x64 convolutional stack of the Dreamer line."""

from itertools import pairwise

import torch
from einops import pack, unpack
from jaxtyping import Float, UInt8
from torch import Tensor, nn


class VectorEncoder(nn.Module):
    """Vector observation -> embed, ``[*batch, observation] -> [*batch, embed]``.

    Args:
        observation_size: size of the observation.
        embed_size: size of the output.
        hidden_size: width of the one hidden layer.
    """

    def __init__(
        self, observation_size: int, *, embed_size: int = 128, hidden_size: int = 128
    ) -> None:
        super().__init__()
        self.embed_size = embed_size
        self.layers = nn.Sequential(
            nn.Linear(observation_size, hidden_size),
            nn.SiLU(),
            nn.Linear(hidden_size, embed_size),
            nn.SiLU(),
        )

    def forward(self, observation: Float[Tensor, "*batch observation"]) -> Tensor:
        """Encode a roughly normalised observation."""
        return self.layers(observation)


class ImageEncoder(nn.Module):
    """64x64 RGB image -> embed of size ``32 * depth``: the layers of Ha & Schmidhuber (2018).

    ``[*batch, 64, 64, 3]`` uint8 ``-> [*batch, 32 * depth]``. Group norm and SiLU as in DreamerV3
    (Hafner et al. 2023).

    Args:
        depth: channels of the first layer; the others have 2, 4 and 8 times as many.
        bfloat16: compute the convolutions in bfloat16; embed and weights stay float32.
    """

    def __init__(self, *, depth: int = 32, bfloat16: bool = False) -> None:
        super().__init__()
        self.embed_size = 32 * depth
        self.autocast = bfloat16
        sizes = [3, depth, 2 * depth, 4 * depth, 8 * depth]
        layers: list[nn.Module] = []
        for channels_in, channels_out in pairwise(sizes):
            layers += [nn.Conv2d(channels_in, channels_out, 4, stride=2)]
            layers += [nn.GroupNorm(1, channels_out), nn.SiLU()]
        self.layers = nn.Sequential(*layers, nn.Flatten())

    def forward(self, observation: UInt8[Tensor, "*batch 64 64 3"]) -> Tensor:
        """Encode images of bytes.

        Raises:
            ValueError: wrong size or dtype.
        """
        if observation.shape[-3:] != (64, 64, 3) or observation.dtype != torch.uint8:
            raise ValueError(
                f"observation: got {observation.dtype} of shape {tuple(observation.shape)}; "
                "allowed torch.uint8 of [..., 64, 64, 3]; convert or resize the image"
            )
        flat, leading = pack([observation], "* h w c")
        pixels = flat.permute(0, 3, 1, 2) / 255 - 0.5
        with torch.autocast(pixels.device.type, torch.bfloat16, enabled=self.autocast):
            embed = self.layers(pixels).float()
        (embed,) = unpack(embed, leading, "* embed")
        return embed
