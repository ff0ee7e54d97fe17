"""Imagined rollouts: the policy in the world model, under all posterior samples at once."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from blocks.latents import LatentDistribution
from blocks.types import State


class Imagined(NamedTuple):
    """Trajectories ``[member, horizon, batch, ...]``; states have ``horizon + 1`` rows.

    ``action[:, h]`` is taken in ``state[:, h]`` and leads to ``state[:, h + 1]``.
    """

    state: State
    action: Float[Tensor, "member horizon batch action"]
    log_prob: Float[Tensor, "member horizon batch"]


def imagine(
    transition: Callable[[State, Tensor], tuple[Tensor, LatentDistribution]],
    policy: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]],
    start: State,
    horizon: int,
    *,
    action_size: int,
    generator: torch.Generator | None = None,
) -> Imagined:
    """Roll the policy through the transition prior for ``horizon`` steps.

    Each member generates a whole trajectory ("TS-infinity", Chua et al. 2018) from the same
    histories. All members share the noise, which is independent across start states, so members
    differ only by their weights. The policy sees detached features; gradients reach it through the
    actions and the dynamics.

    Args:
        transition: ``(state, action) -> (deter, prior)`` under stacked weights.
        policy: ``(feat, noise) -> (action, log_prob)``; the noise is standard normal,
            ``[batch, action]``.
        start: start states ``[member, batch, ...]``.
        horizon: number of steps H >= 1.
        action_size: size of the action.
        generator: source of the noise.

    Returns:
        The imagined trajectories.

    Raises:
        ValueError: the horizon is below 1, or ``start`` has no member axis.
    """
    if horizon < 1:
        raise ValueError(f"horizon: got {horizon}; allowed 1 and above; imagine at least 1 step")
    if start.deter.dim() != 3:
        raise ValueError(
            f"start: got deter of shape {tuple(start.deter.shape)}; allowed "
            "[member, batch, deter]; expand the start states over members"
        )
    batch, stoch = start.stoch.shape[1:]
    device = start.stoch.device
    source = generator.device if generator else None
    action_noise = torch.randn(horizon, batch, action_size, generator=generator, device=source).to(
        device
    )
    states = [start]
    actions: list[Tensor] = []
    log_probs: list[Tensor] = []
    state_noise = None
    for step in range(horizon):
        state = states[-1]
        action, log_prob = policy(state.feat.detach(), action_noise[step])
        deter, prior = transition(state, action)
        if state_noise is None:
            state_noise = prior.noise((horizon, batch, stoch), generator).to(device)
        states.append(State(deter, prior.rsample(state_noise[step])))
        actions.append(action)
        log_probs.append(log_prob)
    return Imagined(
        State(
            torch.stack([s.deter for s in states], dim=1),
            torch.stack([s.stoch for s in states], dim=1),
        ),
        torch.stack(actions, dim=1),
        torch.stack(log_probs, dim=1),
    )


def recorded_actions(
    actions: Float[Tensor, "horizon *start action"],
) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Make a policy for ``imagine`` that replays recorded actions in order.

    Args:
        actions: ``[horizon, action]``, or ``[horizon, batch, action]``.

    Returns:
        A policy for one rollout of ``horizon`` steps; its log-densities are not valid.
    """
    following = iter(actions)
    return lambda feat, noise: (next(following).expand(*feat.shape[:2], -1), feat[..., 0])
