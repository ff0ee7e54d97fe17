"""Decoders: latent -> observation, reward and cost, each with its log-likelihood."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
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


class RewardHead(nn.Module):
    """Feat -> reward, ``[*batch, feat] -> [*batch]``, in units of reward per agent step."""

    def __init__(self, feat: int, *, hidden: int = 128) -> None:
        super().__init__()
        self.head = GaussianHead(feat, 1, hidden=hidden)

    def forward(self, feat: Float[Tensor, "*batch feat"]) -> Float[Tensor, "*batch"]:
        """Expected reward."""
        return self.head(feat).squeeze(-1)

    def log_prob(self, feat: Float[Tensor, "*batch feat"], reward: Tensor) -> Tensor:
        """Log-likelihood of the reward in nats, up to a constant."""
        return self.head.log_prob(feat, reward.unsqueeze(-1))


class CostHead(nn.Module):
    """Feat -> expected cost >= 0; its weights belong under the parameter posterior.

    ``cost = softplus(f(feat; w) + scale * f(feat; w0))`` with a fixed random draw ``w0`` for each
    member: a randomised prior function (Osband et al. 2018). Training cancels the prior where
    there are data; where there are none each member keeps its own opinion, so that the worst of
    them is high on states nobody has visited. The likelihood is Poisson, whose mean is estimated
    consistently for any non-negative cost, counts over an action repeat included.

    Args:
        feat: size of the input.
        hidden: width of the hidden layer.
        prior_scale: how loudly the fixed prior speaks; 0 turns it off.
    """

    def __init__(self, feat: int, *, hidden: int = 64, prior_scale: float = 1.0) -> None:
        super().__init__()
        if prior_scale < 0:
            raise ValueError(f"prior_scale: got {prior_scale}; it must be at least 0.")
        self.prior_scale = prior_scale
        # The mean of the weights' prior, from which the members differ.
        self.hidden_weight = nn.Parameter(torch.zeros(feat, hidden))
        self.hidden_bias = nn.Parameter(torch.zeros(1, hidden))
        self.output_weight = nn.Parameter(torch.zeros(hidden, 1))
        self.output_bias = nn.Parameter(torch.full((1, 1), -3.0))

    @staticmethod
    def prior_std(feat: int, hidden: int = 64) -> dict[str, float]:
        """Prior standard deviations of the weights, wide enough to bend over the data's scale."""
        return {
            "hidden_weight": 2 / math.sqrt(feat),
            "hidden_bias": 1.0,
            "output_weight": 2 / math.sqrt(hidden),
            "output_bias": 2.0,
        }

    def forward(
        self,
        feat: Float[Tensor, "*batch feat"],
        weights: Weights | None = None,
        prior_weights: Weights | None = None,
    ) -> Float[Tensor, "*batch"]:
        """Expected cost per agent step.

        With stacked ``weights`` the leading axis of ``feat`` is ``member``, and exactly one more
        axis stands between it and the features.
        """
        raw = self._score(feat, dict(self.named_parameters()) if weights is None else weights)
        if prior_weights is not None and self.prior_scale:
            raw = raw + self.prior_scale * self._score(feat, prior_weights)
        return F.softplus(raw)

    @staticmethod
    def log_prob(mean: Float[Tensor, "*batch"], cost: Tensor) -> Float[Tensor, "*batch"]:
        """Poisson log-likelihood of ``cost`` in nats, without the term free of the mean."""
        return cost * torch.log(mean + 1e-8) - mean

    @staticmethod
    def _score(feat: Tensor, weights: Weights) -> Tensor:
        hidden = F.silu(feat @ weights["hidden_weight"] + weights["hidden_bias"])
        return (hidden @ weights["output_weight"] + weights["output_bias"]).squeeze(-1)
