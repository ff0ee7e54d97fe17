"""Policy: feat -> tanh-squashed Gaussian action, reparameterised."""

from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from blocks.types import Weights


class ActionSample(NamedTuple):
    """Action in [-1, 1] and its log-density."""

    action: Float[Tensor, "*batch action"]
    log_prob: Float[Tensor, "*batch"]


class Actor(nn.Module):
    """Policy ``action = tanh(mean(feat) + scale * std(feat) * noise)``.

    The output layer starts at zero: the first policy is the zero action plus noise of standard
    deviation ``initial_std``. It also collects the first episodes.

    Args:
        feat_size: size of the latent features.
        action_size: size of the action.
        hidden_size: width of the hidden layers.
        initial_std: standard deviation before squashing at the start, in (min_std, max_std).
        min_std: lower limit of the standard deviation, > 0.
        max_std: upper limit of the standard deviation.

    Raises:
        ValueError: ``initial_std`` is out of its range.
    """

    def __init__(
        self,
        feat_size: int,
        action_size: int,
        *,
        hidden_size: int = 128,
        initial_std: float = 0.5,
        min_std: float = 0.05,
        max_std: float = 1.0,
    ) -> None:
        super().__init__()
        if not 0 < min_std < initial_std < max_std:
            raise ValueError(
                f"initial_std: got {initial_std}; allowed between min_std={min_std} (> 0) and "
                f"max_std={max_std}; change one of the three"
            )
        self.action_size, self.min_std, self.max_std = action_size, min_std, max_std
        self.layers = hidden_layers(feat_size, hidden_size)
        self.output = nn.Linear(hidden_size, 2 * action_size)
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)
        share = torch.tensor((initial_std - min_std) / (max_std - min_std))
        nn.init.constant_(self.output.bias[action_size:], float(torch.logit(share)))

    def forward(
        self, feat: Float[Tensor, "*batch feat"], weights: Weights | None = None
    ) -> tuple[Float[Tensor, "*batch action"], Float[Tensor, "*batch action"]]:
        """Compute mean and standard deviation before squashing.

        Args:
            feat: latent features; with ``weights``, ``[member, batch, feat]``.
            weights: copies of the parameters, see ``stack_parameters``: one for each member, or
                several, which share the member's batch in equal parts.
        """
        output = self.output(self.layers(feat)) if weights is None else stacked(feat, weights)
        mean, raw = output.chunk(2, dim=-1)
        return mean, self.min_std + (self.max_std - self.min_std) * torch.sigmoid(raw)

    def mode(self, feat: Float[Tensor, "*batch feat"]) -> Float[Tensor, "*batch action"]:
        """Return the action without noise."""
        return torch.tanh(self(feat)[0])

    def sample(
        self,
        feat: Float[Tensor, "*batch feat"],
        noise: Tensor,
        *,
        scale: float = 1.0,
        weights: Weights | None = None,
    ) -> ActionSample:
        """Draw a reparameterised action.

        Args:
            feat: latent features.
            noise: standard normal, broadcast against ``[*batch, action]``.
            scale: factor on the standard deviation.
            weights: copies of the parameters, as above.

        Returns:
            The action and its log-density.
        """
        mean, std = self(feat, weights)
        std = scale * std
        raw = torch.addcmul(mean, std, noise)
        # log(1 - tanh(x)^2) = 2 (log 2 - x - softplus(-2x)), exact for large |x|.
        squash = 2 * (0.6931471805599453 - raw - F.softplus(-2 * raw))
        log_prob = (-0.5 * noise.square() - std.log() - 0.9189385332046727 - squash).sum(-1)
        return ActionSample(torch.tanh(raw), log_prob)

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Compile ``sample``, which imagination calls at every step; see ``torch.compile``."""
        self.sample = cast(Any, torch).compile(self.sample, *args, **kwargs)


def hidden_layers(feat_size: int, hidden_size: int) -> nn.Sequential:
    """Build the hidden layers of an actor, its ``layers``."""
    return nn.Sequential(
        nn.Linear(feat_size, hidden_size),
        nn.LayerNorm(hidden_size),
        nn.SiLU(),
        nn.Linear(hidden_size, hidden_size),
        nn.LayerNorm(hidden_size),
        nn.SiLU(),
    )


def stacked(
    feat: Float[Tensor, "member batch feat"], weights: Weights
) -> Float[Tensor, "member batch output"]:
    """Compute the linear ``output`` on ``layers`` of an actor, each part by its copy.

    Args:
        feat: latent features.
        weights: copies of the parameters, see ``stack_parameters``: one for each member, or
            several, which share the member's batch in equal parts.

    Raises:
        ValueError: the batch does not divide among the copies.
    """
    copies, (members, batch) = len(weights["output.bias"]), feat.shape[:2]
    if copies % members or batch % (copies // members):
        raise ValueError(
            f"weights: got {copies} copies; allowed a multiple of the {members} members that "
            f"divides each one's batch of {batch}; give one copy for each member"
        )

    def linear(x: Tensor, name: str) -> Tensor:
        return torch.baddbmm(weights[f"{name}.bias"].unsqueeze(1), x, weights[f"{name}.weight"].mT)

    def normalised(x: Tensor, name: str) -> Tensor:
        scale, bias = (weights[f"{name}.{kind}"].unsqueeze(1) for kind in ("weight", "bias"))
        return F.silu(torch.addcmul(bias, F.layer_norm(x, x.shape[-1:]), scale))

    parts = feat.reshape(copies, -1, feat.shape[-1])
    hidden = normalised(linear(parts, "layers.0"), "layers.1")
    output = linear(normalised(linear(hidden, "layers.3"), "layers.4"), "output")
    return output.reshape(members, batch, -1)
