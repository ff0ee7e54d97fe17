"""Critics: feat -> discounted return, one value function per member."""

import copy
import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class Critic(nn.Module):
    """Value functions ``[member, *batch, feat] -> [member, *batch]``, one network per member.

    With a ``size`` it predicts a vector of values, ``[member, *batch, size]``: one for each
    constraint.

    The policy has a different value under each member's dynamics, so a pessimistic choice between
    members must not bootstrap from a shared value. The network predicts ``value / unit``. Choose
    the unit so that this is of order one: the discounted budget for costs, ``1 / (1 - discount)``
    times a typical reward for rewards.

    Args:
        feat_size: size of the latent features.
        members: number of value functions.
        unit: a typical value, > 0.
        size: number of values; None: one, without an axis for it.
        hidden_size: width of the hidden layers.
        target_rate: step of the target weights towards the trained ones at ``update_target``.

    Raises:
        ValueError: the unit is not above 0.
    """

    def __init__(
        self,
        feat_size: int,
        *,
        members: int = 1,
        unit: float = 1.0,
        size: int | None = None,
        hidden_size: int = 128,
        target_rate: float = 0.02,
    ) -> None:
        super().__init__()
        if not unit > 0:
            raise ValueError(f"unit: got {unit}; allowed above 0; give a typical value")
        self.unit, self.size = unit, size
        self.target_rate = target_rate
        self.weights = nn.ParameterDict(
            {
                "hidden1": torch.randn(members, feat_size, hidden_size) / math.sqrt(feat_size),
                "bias1": torch.zeros(members, 1, hidden_size),
                "hidden2": torch.randn(members, hidden_size, hidden_size) / math.sqrt(hidden_size),
                "bias2": torch.zeros(members, 1, hidden_size),
                "output": torch.zeros(members, hidden_size, size or 1),
                "bias3": torch.zeros(members, 1, size or 1),
            }
        )
        self.target = copy.deepcopy(self.weights).requires_grad_(False)

    def forward(self, feat: Float[Tensor, "member *batch feat"]) -> Float[Tensor, "member *values"]:
        """Predict the value, in the unit of the return."""
        return self.unit * self._scaled(feat, self.weights)

    def target_value(
        self, feat: Float[Tensor, "member *batch feat"]
    ) -> Float[Tensor, "member *values"]:
        """Predict the value with the target weights; gradients reach ``feat`` only."""
        return self.unit * self._scaled(feat, self.target)

    def loss(
        self,
        feat: Float[Tensor, "member *batch feat"],
        target: Float[Tensor, "member *values"],
        weight: Float[Tensor, "member *batch"] | None = None,
    ) -> Tensor:
        """Compute the Huber error of ``value / unit``, averaged over members and samples.

        Args:
            feat: latent features.
            target: returns.
            weight: of each sample, such as the probability that the episode reaches it.
        """
        value = self._scaled(feat.detach(), self.weights)
        error = F.smooth_l1_loss(value, target.detach() / self.unit, reduction="none")
        if weight is None:
            return error.mean()
        return (error * (weight if self.size is None else weight.unsqueeze(-1))).mean()

    @torch.no_grad()
    def update_target(self) -> None:
        """Move the target weights one step towards the trained weights."""
        for name, slow in self.target.items():
            slow.lerp_(self.weights[name], self.target_rate)

    def _scaled(self, feat: Tensor, weights: nn.ParameterDict) -> Tensor:
        flat = feat.flatten(1, -2)
        hidden = torch.baddbmm(weights["bias1"], flat, weights["hidden1"])
        hidden = F.silu(F.layer_norm(hidden, hidden.shape[-1:]))
        hidden = torch.baddbmm(weights["bias2"], hidden, weights["hidden2"])
        hidden = F.silu(F.layer_norm(hidden, hidden.shape[-1:]))
        value = torch.baddbmm(weights["bias3"], hidden, weights["output"])
        return value.view(*feat.shape[:-1], *(() if self.size is None else (self.size,)))
