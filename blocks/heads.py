"""Heads: latent state -> reward, cost and end of the episode, each with its log-likelihood."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from blocks.types import Weights

SCALE_BATCHES, SCALE_RATE = 300, 0.05
"""Batches that measure the scale of ``stoch``, and the step of its running average."""
MIN_STD = 1e-3
"""Floor of that scale."""


class GaussianHead(nn.Module):
    """Feat -> mean of a Gaussian vector with one learned standard deviation per output.

    The learned standard deviation balances reconstruction against the latent's KL without a weight
    to tune (Rybkin et al. 2021, sigma-VAE): as predictions improve, errors count more.

    Args:
        feat_size: size of the input.
        size: size of the output.
        hidden_size: width of the hidden layers.
        min_std: floor of the standard deviation, in units of the output.
    """

    def __init__(
        self, feat_size: int, size: int, *, hidden_size: int = 128, min_std: float = 0.1
    ) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(feat_size, hidden_size),
            nn.SiLU(),
            nn.Linear(hidden_size, hidden_size),
            nn.SiLU(),
        )
        self.output = nn.Linear(hidden_size, size)
        self.log_std = nn.Parameter(torch.zeros(size))
        self.min_log_std = math.log(min_std)

    def forward(self, feat: Float[Tensor, "*batch feat"]) -> Float[Tensor, "*batch size"]:
        """Compute the mean of the output."""
        return self.output(self.layers(feat))

    def log_prob(
        self, feat: Float[Tensor, "*batch feat"], target: Float[Tensor, "*batch size"]
    ) -> Float[Tensor, "*batch"]:
        """Compute the log-likelihood of ``target`` in nats, up to a constant, summed over outputs.

        Args:
            feat: latent features.
            target: vector to explain, in the unit of the output.
        """
        log_std = self.min_log_std + F.softplus(self.log_std - self.min_log_std)
        error = (self(feat) - target) * torch.exp(-log_std)
        return -(0.5 * error.square() + log_std).sum(-1)


class RewardHead(nn.Module):
    """Feat -> reward per agent step, ``[*batch, feat] -> [*batch]``.

    Args:
        feat_size: size of the input.
        hidden_size: width of the hidden layers.
        unit: size of a typical reward, > 0. The standard deviation starts at one unit and stays
            above a tenth of it, so much smaller rewards are not fitted.

    Raises:
        ValueError: the unit is not above 0.
    """

    def __init__(self, feat_size: int, *, hidden_size: int = 128, unit: float = 1.0) -> None:
        super().__init__()
        if not unit > 0:
            raise ValueError(f"unit: got {unit}; allowed above 0; give a typical reward")
        self.head, self.unit = GaussianHead(feat_size, 1, hidden_size=hidden_size), unit

    def forward(self, feat: Float[Tensor, "*batch feat"]) -> Float[Tensor, "*batch"]:
        """Predict the expected reward."""
        return self.unit * self.head(feat).squeeze(-1)

    def log_prob(self, feat: Float[Tensor, "*batch feat"], reward: Tensor) -> Tensor:
        """Compute the log-likelihood of the reward in nats, up to a constant."""
        return self.head.log_prob(feat, reward.unsqueeze(-1) / self.unit)


class ContinueHead(nn.Module):
    """Feat -> probability that the episode goes on, ``[*batch, feat] -> [*batch]``.

    It starts near one: most states are not the last. Only termination ends an episode; a time limit
    does not.

    Args:
        feat_size: size of the input.
        hidden_size: width of the hidden layer.
    """

    def __init__(self, feat_size: int, *, hidden_size: int = 128) -> None:
        super().__init__()
        output = nn.Linear(hidden_size, 1)
        nn.init.constant_(output.bias, 4.0)
        self.layers = nn.Sequential(nn.Linear(feat_size, hidden_size), nn.SiLU(), output)

    def forward(self, feat: Float[Tensor, "*batch feat"]) -> Float[Tensor, "*batch"]:
        """Compute the probability that the episode goes on after this state."""
        return torch.sigmoid(self.layers(feat).squeeze(-1))

    def log_prob(self, feat: Float[Tensor, "*batch feat"], cont: Tensor) -> Float[Tensor, "*batch"]:
        """Compute the Bernoulli log-likelihood in nats.

        Args:
            feat: latent features.
            cont: whether the episode goes on, ``[*batch]``, bool or in [0, 1].
        """
        logit = self.layers(feat).squeeze(-1)
        return -F.binary_cross_entropy_with_logits(logit, cont.to(logit.dtype), reduction="none")


class CostHead(nn.Module):
    """Latent state -> expected costs >= 0 per agent step; the posterior holds its weights.

    ``cost = softplus(f(feat; w)) + softplus(level + g(stoch; w))``. The first term is a small
    network that fits the observed cost. The second is a Gaussian process,
    ``g ~ GP(0, scale^2 k)`` with a squared exponential kernel, in random Fourier features (Rahimi &
    Recht 2007). Near data it follows the observed cost; a length scale away from them it returns to
    its prior, where the members disagree and the worst of them is high. A network alone would
    extrapolate zero cost far from the data, in every member.

    The likelihood is Poisson. It estimates the mean of any non-negative cost consistently, also of
    costs summed over an action repeat.

    The process sees ``stoch`` in units of its standard deviation in the first batches
    (``observe``), so one length scale serves latents of any scale.

    Args:
        deter_size: size of the recurrent state.
        stoch_size: size of the stochastic state.
        hidden_size: width of the network's hidden layer.
        features: number of Fourier features.
        length_scale: distance over which costs are correlated, > 0, in standard deviations of
            ``stoch``.
        constraints: number of costs.
        prior_cost: median cost per agent step far from the data, > 0; one for all or
            ``[constraint]``.
        prior_std: spread of the members there, in e-folds of the cost.

    Raises:
        ValueError: the length scale or a prior cost is not above 0, or there is another number of
            prior costs.
    """

    def __init__(
        self,
        deter_size: int,
        stoch_size: int,
        *,
        hidden_size: int = 64,
        constraints: int = 1,
        features: int = 256,
        length_scale: float = 4.0,
        prior_cost: float | Sequence[float] = 0.05,
        prior_std: float = 2.0,
    ) -> None:
        super().__init__()
        costs = [prior_cost] if isinstance(prior_cost, (int, float)) else list(prior_cost)
        for name, values in (("length_scale", [length_scale]), ("prior_cost", costs)):
            for value in values:
                if not value > 0:
                    raise ValueError(f"{name}: got {value}; allowed above 0; give a positive one")
        if len(costs) not in (1, constraints):
            raise ValueError(
                f"prior_cost: got {len(costs)} numbers; allowed 1, or one for each of the "
                f"{constraints} constraints; give as many"
            )
        feat_size = deter_size + stoch_size
        self.stoch_size = stoch_size
        self.level: Tensor
        self.frequency: Tensor
        self.phase: Tensor
        self.stoch_std: Tensor
        self.observed: Tensor
        self.register_buffer("frequency", torch.randn(stoch_size, features) / length_scale)
        self.register_buffer("phase", 2 * math.pi * torch.rand(features))
        level = torch.tensor(costs, dtype=torch.float64).expm1().log().float()
        self.register_buffer("level", level.expand(constraints).clone())
        self.register_buffer("stoch_std", torch.ones(()))
        self.register_buffer("observed", torch.zeros(()))
        # These values are the mean of the weights' prior; members deviate from it.
        self.hidden_weight = nn.Parameter(torch.zeros(feat_size, hidden_size))
        self.hidden_bias = nn.Parameter(torch.zeros(1, hidden_size))
        self.output_weight = nn.Parameter(torch.zeros(hidden_size, constraints))
        self.output_bias = nn.Parameter(torch.full((1, constraints), -4.0))
        self.fourier_weight = nn.Parameter(torch.zeros(features, constraints))
        self.prior_std = {
            "hidden_weight": 1 / math.sqrt(feat_size),
            "hidden_bias": 0.5,
            "output_weight": 1 / math.sqrt(hidden_size),
            "output_bias": 2.0,
            "fourier_weight": prior_std,
        }
        """Standard deviation of each weight's prior."""

    def forward(
        self, feat: Float[Tensor, "*batch feat"], weights: Weights | None = None
    ) -> Float[Tensor, "... constraint"]:
        """Predict the expected costs per agent step.

        Args:
            feat: ``[batch, feat]`` or ``[member, batch, feat]``.
            weights: stacked over members; the module's parameters by default.

        Returns:
            The costs, ``[member, batch, constraint]`` with stacked weights.
        """
        w = dict(self.named_parameters()) if weights is None else weights
        hidden = F.silu(feat @ w["hidden_weight"] + w["hidden_bias"])
        learned = hidden @ w["output_weight"] + w["output_bias"]
        stoch = feat[..., -self.stoch_size :] / self.stoch_std
        wave = torch.cos(stoch @ self.frequency + self.phase)
        unknown = (wave * math.sqrt(2 / self.phase.numel())) @ w["fourier_weight"] + self.level
        return F.softplus(learned) + F.softplus(unknown)

    @torch.no_grad()
    def observe(self, stoch: Float[Tensor, "*batch stoch"]) -> None:
        """Measure the scale of ``stoch``, as long as the encoder settles: then it is fixed.

        A scale that went on following the data would make new states look like known ones. All
        dimensions share it: those that hardly move must not count as much as others.
        """
        self.observed += 1
        rate = self.observed.reciprocal().clamp_min(SCALE_RATE) * (self.observed <= SCALE_BATCHES)
        std = stoch.flatten(0, -2).var(0, unbiased=False).mean().sqrt()
        self.stoch_std.lerp_(std.clamp_min(MIN_STD), rate)

    @staticmethod
    def log_prob(mean: Float[Tensor, "*batch"], cost: Tensor) -> Float[Tensor, "*batch"]:
        """Compute the Poisson log-likelihood of ``cost`` in nats, up to a constant."""
        return cost * torch.log(mean + 1e-8) - mean
