"""Policy over discrete actions: feat -> one-hot action with straight-through gradients."""

from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from blocks.actor import ActionSample, hidden_layers, stacked
from blocks.types import Weights


class CategoricalActor(nn.Module):
    r"""Policy that chooses one of n actions, as a one-hot vector in {-1, 1}^n.

    With the probabilities :math:`p = (1 - u)\,\text{softmax}(l(\text{feat})) + u / n`, it chooses
    ``argmax p / E`` for exponential waiting times ``E``: action i with probability ``p_i`` (the
    Gumbel-max trick). The same noise gives the same action.

    The gradient of an action is that of its mean, ``2 p - 1`` (straight-through, Bengio et al.
    2013; as DreamerV2's latents). It is biased: it takes what follows an action for a linear
    function of the action. The share u of the uniform distribution (DreamerV3) keeps
    log-probabilities finite.

    The output layer starts at zero: the first policy is uniform, and its mode the first action.

    Args:
        feat_size: size of the latent features.
        action_size: number n of actions, >= 1.
        hidden_size: width of the hidden layers.
        uniform: share u of the uniform distribution, in (0, 1).

    Raises:
        ValueError: ``uniform`` is out of its range.

    Example:
        >>> actor, feat = CategoricalActor(4, 3), torch.zeros(4)
        >>> actor.sample(feat, torch.tensor([2.0, -1.0, 0.5])).action
        tensor([ 1., -1., -1.], grad_fn=<SubBackward0>)
    """

    def __init__(
        self, feat_size: int, action_size: int, *, hidden_size: int = 128, uniform: float = 0.01
    ) -> None:
        super().__init__()
        if not 0 < uniform < 1:
            raise ValueError(f"uniform: got {uniform}; allowed in (0, 1); take 0.01")
        self.action_size, self.uniform = action_size, uniform
        self.layers = hidden_layers(feat_size, hidden_size)
        self.output = nn.Linear(hidden_size, action_size)
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def forward(
        self, feat: Float[Tensor, "*batch feat"], weights: Weights | None = None
    ) -> Float[Tensor, "*batch action"]:
        """Compute the probability of each action.

        Args:
            feat: latent features; with ``weights``, ``[member, batch, feat]``.
            weights: copies of the parameters, see ``stack_parameters``: one for each member, or
                several, which share the member's batch in equal parts.
        """
        logits = self.output(self.layers(feat)) if weights is None else stacked(feat, weights)
        return (1 - self.uniform) * logits.softmax(-1) + self.uniform / self.action_size

    def mode(self, feat: Float[Tensor, "*batch feat"]) -> Float[Tensor, "*batch action"]:
        """Return the most likely action, the first of equally likely ones; without gradient."""
        return 2 * _one_hot(self(feat)) - 1

    def sample(
        self,
        feat: Float[Tensor, "*batch feat"],
        noise: Tensor,
        *,
        scale: float = 1.0,
        weights: Weights | None = None,
    ) -> ActionSample:
        """Draw an action with straight-through gradients.

        Args:
            feat: latent features.
            noise: standard normal, broadcast against ``[*batch, action]``.
            scale: probability, in [0, 1], to act by the policy and not by its mode. (A temperature
                would leave a uniform policy as it is, so that exploration could not grow from the
                first action.)
            weights: copies of the parameters, as above.

        Returns:
            The action and its log-probability. The gradient of the latter is that of the negative
            entropy. (The gradient of ``log p_i`` itself is zero on average.)

        Raises:
            ValueError: ``scale`` is out of its range.
        """
        if not 0 <= scale <= 1:
            raise ValueError(f"scale: got {scale}; allowed in [0, 1]; take 1 for the policy")
        probs = self(feat, weights)
        if scale < 1:
            probs = scale * probs + (1 - scale) * _one_hot(probs)
        known = probs.detach()
        # Exponential: minus the logarithm of the noise's uniform quantile, exact in both tails.
        waiting: Tensor = -cast(Any, torch.special).log_ndtr(noise)
        chosen = _one_hot(known / waiting.clamp_min(1e-30))
        chosen = chosen + (probs - known)  # adds exactly zero
        log_prob = (chosen * known.clamp_min(1e-30).log()).sum(-1)
        return ActionSample(2 * chosen - 1, log_prob)

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Compile ``sample``, which imagination calls at every step; see ``torch.compile``."""
        self.sample = cast(Any, torch).compile(self.sample, *args, **kwargs)


def _one_hot(scores: Tensor) -> Tensor:
    """Mark the largest score, the first of equal ones; unlike ``F.one_hot``, without checks."""
    best = scores.detach().argmax(-1, keepdim=True)
    return torch.zeros_like(scores).scatter(-1, best, 1.0)
