"""Critics: feat -> discounted return, one value function for each member's world."""

import copy
import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class Critic(nn.Module):
    """Value functions ``[member, *batch, feat] -> [member, *batch]``, one network a member.

    Under member k's dynamics the policy has its own value, so a pessimistic choice between
    members must not bootstrap from a value they share. The network predicts the value in ``unit``s,
    so that what matters is of order one: use the discounted budget for costs, and
    ``1 / (1 - discount)`` times a typical reward for rewards.

    Args:
        feat_size: size of the latent features.
        members: number of value functions.
        unit: size of a value that matters, > 0.
        hidden_size: width of the hidden layers.
        target_rate: step of the slow copy towards the trained weights at ``update_target``.
    """

    def __init__(
        self,
        feat_size: int,
        *,
        members: int = 1,
        unit: float = 1.0,
        hidden_size: int = 128,
        target_rate: float = 0.02,
    ) -> None:
        super().__init__()
        if not unit > 0:
            raise ValueError(f"unit: got {unit}; it must be above 0.")
        self.unit = unit
        self.target_rate = target_rate
        self.weights = nn.ParameterDict(
            {
                "hidden1": torch.randn(members, feat_size, hidden_size) / math.sqrt(feat_size),
                "bias1": torch.zeros(members, 1, hidden_size),
                "hidden2": torch.randn(members, hidden_size, hidden_size) / math.sqrt(hidden_size),
                "bias2": torch.zeros(members, 1, hidden_size),
                "output": torch.zeros(members, hidden_size, 1),
                "bias3": torch.zeros(members, 1, 1),
            }
        )
        self.target = copy.deepcopy(self.weights).requires_grad_(False)

    def forward(self, feat: Float[Tensor, "member *batch feat"]) -> Float[Tensor, "member *batch"]:
        """Value, in units of the return itself."""
        return self.unit * self._scaled(feat, self.weights)

    def target_value(
        self, feat: Float[Tensor, "member *batch feat"]
    ) -> Float[Tensor, "member *batch"]:
        """Value by the slow copy; gradients reach ``feat`` but not the weights."""
        return self.unit * self._scaled(feat, self.target)

    def loss(
        self,
        feat: Float[Tensor, "member *batch feat"],
        target: Float[Tensor, "member *batch"],
    ) -> Tensor:
        """Huber error of the value in ``unit``s, averaged over members and samples."""
        value = self._scaled(feat.detach(), self.weights)
        return F.smooth_l1_loss(value, target.detach() / self.unit)

    @torch.no_grad()
    def update_target(self) -> None:
        """Move the slow copy a step towards the trained weights."""
        for name, slow in self.target.items():
            slow.lerp_(self.weights[name], self.target_rate)

    def _scaled(self, feat: Tensor, weights: nn.ParameterDict) -> Tensor:
        flat = feat.flatten(1, -2)
        hidden = torch.baddbmm(weights["bias1"], flat, weights["hidden1"])
        hidden = F.silu(F.layer_norm(hidden, hidden.shape[-1:]))
        hidden = torch.baddbmm(weights["bias2"], hidden, weights["hidden2"])
        hidden = F.silu(F.layer_norm(hidden, hidden.shape[-1:]))
        return torch.baddbmm(weights["bias3"], hidden, weights["output"]).view(feat.shape[:-1])
