"""Lambda-returns over an imagined horizon, and the budget for a discounted cost return."""

import math

import torch
from jaxtyping import Float
from torch import Tensor


def lambda_returns(
    rewards: Float[Tensor, "horizon *batch"],
    values: Float[Tensor, "horizon_plus_one ..."],
    *,
    discount: float | int | Float[Tensor, "horizon *batch"],
    lambda_: float | int,
) -> Float[Tensor, "horizon *batch"]:
    r"""Compute the exponentially weighted mean of all n-step returns, at every step.

    .. math::
        G_t = r_t + \gamma \left[(1 - \lambda)\, v_{t+1} + \lambda\, G_{t+1}\right],
        \qquad G_H = v_H

    (Sutton and Barto 2018, chapter 12; the target of Dreamer's critics and actor.) It works for
    rewards and costs. ``lambda_=0`` is the one-step target, ``lambda_=1`` the discounted sum over
    the horizon plus the discounted last value.

    Args:
        rewards: reward of step t, ``[horizon, ...]``; the horizon is at least 1.
        values: value estimates, ``[horizon + 1, ...]``; ``values[0]`` belongs to the start state
            and is not used, return t bootstraps from ``values[t + 1]``.
        discount: per step, in [0, 1]. A tensor shaped like ``rewards`` may hold discount times the
            probability of continuing.
        lambda_: weight of the longer returns, in [0, 1].

    Returns:
        The returns of steps 0 to horizon - 1, ``[horizon, ...]``, differentiable in every tensor.

    Raises:
        ValueError: the shapes do not fit.

    Example:
        >>> rewards, values = torch.ones(3), torch.tensor([9.0, 9.0, 9.0, 4.0])
        >>> lambda_returns(rewards, values, discount=0.5, lambda_=1.0)
        tensor([2.2500, 2.5000, 3.0000])
        >>> lambda_returns(rewards, values, discount=0.5, lambda_=0.0)
        tensor([5.5000, 5.5000, 3.0000])
    """
    horizon = rewards.shape[0]
    if horizon < 1 or values.shape[0] != horizon + 1 or values.shape[1:] != rewards.shape[1:]:
        raise ValueError(
            f"values: got shape {list(values.shape)}; allowed {[horizon + 1, *rewards.shape[1:]]} "
            f"for rewards {list(rewards.shape)} (one more than rewards, horizon >= 1); "
            "pass the values of the start state and of every state reached"
        )
    one_step = rewards + (1.0 - lambda_) * discount * values[1:]
    decay = lambda_ * discount
    if not isinstance(decay, Tensor):
        decay = values.new_full((), decay)  # a copy from the CPU would stall the GPU
    decay = decay.to(values).expand_as(one_step)
    following = values[-1]
    returns: list[Tensor] = []
    for step in reversed(range(horizon)):
        following = torch.addcmul(one_step[step], decay[step], following)
        returns.append(following)
    return torch.stack(returns[::-1])


def discounted_budget(
    episode_budget: float | int = 25.0,
    episode_length: int = 1000,
    discount: float | int = 0.99,
    action_repeat: int = 1,
) -> float:
    r"""Convert an undiscounted episode budget to the bound on a discounted cost return.

    .. math::
        d_\gamma = \frac{d \cdot \text{action repeat}}{T\,(1 - \gamma)}

    If costs arrive evenly at rate d / T per environment step, each decision costs
    ``action_repeat * d / T``, because costs are summed over repeated steps. The discounted sum of
    that constant is the value above. So whether a policy meets its constraint does not depend on
    the action repeat. (Without the factor the constraint would be d / action_repeat.)

    Args:
        episode_budget: cost allowed per episode, undiscounted, > 0.
        episode_length: environment steps in an episode, T >= 1.
        discount: the cost return's discount per decision, in [0, 1).
        action_repeat: environment steps per decision, >= 1.

    Returns:
        The budget in units of the discounted cost return.

    Raises:
        ValueError: an argument is out of its range.

    Example:
        >>> round(discounted_budget(25, 1000, 0.99), 6)
        2.5
        >>> round(discounted_budget(25, 1000, 0.99, action_repeat=2), 6)
        5.0
    """
    if not (math.isfinite(episode_budget) and episode_budget > 0):
        raise ValueError(
            f"episode_budget: got {episode_budget}; allowed finite and > 0, since a policy must be "
            "strictly feasible; give a small budget for no cost at all"
        )
    if not 0.0 <= discount < 1.0:
        raise ValueError(
            f"discount: got {discount}; allowed in [0, 1); "
            "use the episode budget itself for an undiscounted return"
        )
    for name, value in (("episode_length", episode_length), ("action_repeat", action_repeat)):
        if value < 1:
            raise ValueError(
                f"{name}: got {value}; allowed 1 and above; give at least 1 environment step"
            )
    return episode_budget * action_repeat / (episode_length * (1.0 - discount))
