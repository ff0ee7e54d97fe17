"""Decoders: latent -> vector or image, reward and cost, each with its log-likelihood."""

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from einops import pack, unpack
from einops.layers.torch import Rearrange
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from blocks.types import Weights


class GaussianHead(nn.Module):
    """Feat -> real vector, a Gaussian with one learned standard deviation per output.

    The learned noise level balances reconstruction against the latent's KL without a weight to
    tune (Rybkin et al. 2021, sigma-VAE): as predictions get better, errors count for more.

    Args:
        feat: size of the input.
        size: size of the output.
        hidden: width of the hidden layers.
        min_std: floor of the standard deviation, in units of the output.
    """

    def __init__(self, feat: int, size: int, *, hidden: int = 128, min_std: float = 0.1) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(feat, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU()
        )
        self.output = nn.Linear(hidden, size)
        self.log_std = nn.Parameter(torch.zeros(size))
        self.min_log_std = math.log(min_std)

    def forward(self, feat: Float[Tensor, "*batch feat"]) -> Float[Tensor, "*batch size"]:
        """Mean of the output."""
        return self.output(self.layers(feat))

    def log_prob(
        self, feat: Float[Tensor, "*batch feat"], target: Float[Tensor, "*batch size"]
    ) -> Float[Tensor, "*batch"]:
        """Log-likelihood of ``target`` in nats, up to a constant, summed over outputs."""
        log_std = self.min_log_std + F.softplus(self.log_std - self.min_log_std)
        error = (self(feat) - target) * torch.exp(-log_std)
        return -(0.5 * error.square() + log_std).sum(-1)


class VectorDecoder(GaussianHead):
    """Feat -> normalised vector observation."""


class ImageDecoder(nn.Module):
    """Feat -> 64x64 RGB image, a Gaussian around it: the layers of Ha & Schmidhuber (2018).

    ``[*batch, feat] -> [*batch, 64, 64, 3]``, in units of the range of a byte around its middle:
    -0.5 is black, 0.5 is full. Normalised and with SiLU, as `ImageEncoder`.

    Args:
        feat: size of the input.
        depth: channels of the last hidden layer; the layers before have 2 and 4 times as many.
        std: standard deviation of a pixel, > 0; 1 in Dreamer. With less, what is small or faint
            in the image is worth more of the latent's KL (Rybkin et al. 2021).
        bfloat16: compute the layers in bfloat16; image, likelihood and weights stay float32.

    Raises:
        ValueError: the standard deviation is not above 0.
    """

    def __init__(
        self, feat: int, *, depth: int = 32, std: float = 1.0, bfloat16: bool = False
    ) -> None:
        super().__init__()
        if not std > 0:
            raise ValueError(f"std: got {std}; it must be above 0.")
        self.autocast, self.std = bfloat16, std
        self.input = nn.Sequential(nn.Linear(feat, 32 * depth), nn.SiLU())
        # From a single pixel a transposed convolution is a linear layer.
        first = nn.Linear(32 * depth, 5 * 5 * 4 * depth)
        # With channels last in memory, as in the image, the layers are faster on a CPU.
        layers: list[nn.Module] = [first, Rearrange("b (h w c) -> b c h w", h=5, w=5)]
        channels = pairwise([4 * depth, 2 * depth, depth, 3])
        for (channels_in, channels_out), kernel in zip(channels, (5, 6, 6), strict=True):
            layers += [nn.GroupNorm(1, channels_in), nn.SiLU()]
            layers += [nn.ConvTranspose2d(channels_in, channels_out, kernel, stride=2)]
        self.layers = nn.Sequential(*layers)

    def forward(self, feat: Float[Tensor, "*batch feat"]) -> Float[Tensor, "*batch 64 64 3"]:
        """Mean of the image."""
        flat, leading = pack([feat], "* feat")
        with torch.autocast(flat.device.type, torch.bfloat16, enabled=self.autocast):
            pixels = self.layers(self.input(flat)).float().permute(0, 2, 3, 1)
        (image,) = unpack(pixels, leading, "* h w c")
        return image

    def log_prob(
        self, feat: Float[Tensor, "*batch feat"], target: UInt8[Tensor, "*batch 64 64 3"]
    ) -> Float[Tensor, "*batch"]:
        """Log-likelihood of an image given as bytes, in nats, up to a constant."""
        squared = F.mse_loss(self(feat), self.from_bytes(target), reduction="none")
        return -0.5 / self.std**2 * squared.flatten(-3).sum(-1)

    @staticmethod
    def from_bytes(image: UInt8[Tensor, "*batch 64 64 3"]) -> Float[Tensor, "*batch 64 64 3"]:
        """An image in the unit of the mean."""
        return image / 255 - 0.5

    @staticmethod
    def to_bytes(image: Float[Tensor, "*batch 64 64 3"]) -> UInt8[Tensor, "*batch 64 64 3"]:
        """A decoded image as one looks at it; what is out of range is cut off."""
        return ((image + 0.5) * 255).round().clamp(0, 255).to(torch.uint8)


class RewardHead(nn.Module):
    """Feat -> reward per agent step, ``[*batch, feat] -> [*batch]``.

    Args:
        feat: size of the input.
        hidden: width of the hidden layers.
        unit: size of a reward that matters, > 0. The noise starts at one unit and does not fall
            below a tenth of it: rewards much smaller than that are not worth explaining.

    Raises:
        ValueError: the unit is not above 0.
    """

    def __init__(self, feat: int, *, hidden: int = 128, unit: float = 1.0) -> None:
        super().__init__()
        if not unit > 0:
            raise ValueError(f"unit: got {unit}; it must be above 0.")
        self.head, self.unit = GaussianHead(feat, 1, hidden=hidden), unit

    def forward(self, feat: Float[Tensor, "*batch feat"]) -> Float[Tensor, "*batch"]:
        """Expected reward."""
        return self.unit * self.head(feat).squeeze(-1)

    def log_prob(self, feat: Float[Tensor, "*batch feat"], reward: Tensor) -> Tensor:
        """Log-likelihood of the reward in nats, up to a constant."""
        return self.head.log_prob(feat, reward.unsqueeze(-1) / self.unit)


class CostHead(nn.Module):
    """State -> expected cost >= 0 per agent step; its weights belong under the parameter posterior.

    ``cost = softplus(f(feat; w)) + softplus(level + g(stoch; w))``. The first term is a small
    network that learns what costs. The second is a Gaussian process, ``g ~ GP(0, scale^2 k)`` with
    a squared exponential kernel, in random Fourier features (Rahimi & Recht 2007): data pull it to
    zero cost or to the cost seen, and within a length scale from the last datum it returns to its
    prior. There the members hold different opinions and the worst of them is high. A network
    alone extrapolates "no cost" as far as one looks, and so do all its members.

    The likelihood is Poisson, whose mean is estimated consistently for any non-negative cost,
    counts over an action repeat included.

    Args:
        deter, stoch: sizes of the latent state.
        hidden: width of the network's hidden layer.
        features: number of Fourier features.
        length_scale: distance in ``stoch`` at which a datum still tells half of the story.
        prior_cost: median cost per agent step where nothing is known, > 0.
        prior_std: how far members differ about it, in e-folds of the cost.
    """

    def __init__(
        self,
        deter: int,
        stoch: int,
        *,
        hidden: int = 64,
        features: int = 256,
        length_scale: float = 1.0,
        prior_cost: float = 0.05,
        prior_std: float = 2.0,
    ) -> None:
        super().__init__()
        for name, value in (("length_scale", length_scale), ("prior_cost", prior_cost)):
            if not value > 0:
                raise ValueError(f"{name}: got {value}; it must be above 0.")
        feat = deter + stoch
        self.stoch = stoch
        self.level = math.log(math.expm1(prior_cost))
        self.frequency: Tensor
        self.phase: Tensor
        self.register_buffer("frequency", torch.randn(stoch, features) / length_scale)
        self.register_buffer("phase", 2 * math.pi * torch.rand(features))
        # The values are the mean of the weights' prior, from which members differ.
        self.hidden_weight = nn.Parameter(torch.zeros(feat, hidden))
        self.hidden_bias = nn.Parameter(torch.zeros(1, hidden))
        self.output_weight = nn.Parameter(torch.zeros(hidden, 1))
        self.output_bias = nn.Parameter(torch.full((1, 1), -4.0))
        self.fourier_weight = nn.Parameter(torch.zeros(features, 1))
        self.prior_std = {
            "hidden_weight": 1 / math.sqrt(feat),
            "hidden_bias": 0.5,
            "output_weight": 1 / math.sqrt(hidden),
            "output_bias": 2.0,
            "fourier_weight": prior_std,
        }
        """Standard deviation of each weight's prior."""

    def forward(
        self, feat: Float[Tensor, "*batch feat"], weights: Weights | None = None
    ) -> Float[Tensor, "..."]:
        """Expected cost per agent step; ``feat`` is ``[batch, feat]`` or ``[member, batch, feat]``.

        With stacked ``weights`` the result is ``[member, batch]``.
        """
        w = dict(self.named_parameters()) if weights is None else weights
        hidden = F.silu(feat @ w["hidden_weight"] + w["hidden_bias"])
        learned = hidden @ w["output_weight"] + w["output_bias"]
        wave = torch.cos(feat[..., -self.stoch :] @ self.frequency + self.phase)
        unknown = (wave * math.sqrt(2 / self.phase.numel())) @ w["fourier_weight"] + self.level
        return (F.softplus(learned) + F.softplus(unknown)).squeeze(-1)

    @staticmethod
    def log_prob(mean: Float[Tensor, "*batch"], cost: Tensor) -> Float[Tensor, "*batch"]:
        """Poisson log-likelihood of ``cost`` in nats, without the term free of the mean."""
        return cost * torch.log(mean + 1e-8) - mean
