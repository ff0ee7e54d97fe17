"""Imagined rollouts: the policy inside the world model, under every posterior sample at once."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from blocks.latents import LatentDistribution
from blocks.types import State


class Imagined(NamedTuple):
    """Trajectories ``[member, horizon, batch, ...]``; states have ``horizon + 1`` rows.

    ``state[:, h]`` is where ``action[:, h]`` is taken; it leads to ``state[:, h + 1]``.
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

    Each member drives its own whole trajectory ("TS-infinity", Chua et al. 2018) from the same
    histories. Noise is common across members and independent across start states, so that
    members differ by their weights alone. The policy sees detached features; gradients reach it
    through the actions and the dynamics.

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
        raise ValueError(f"horizon: got {horizon}; imagine at least 1 step.")
    if start.deter.dim() != 3:
        raise ValueError(
            f"start: got deter of shape {tuple(start.deter.shape)}; it takes "
            "[member, batch, deter]: expand the start states over members."
        )
    batch, stoch = start.stoch.shape[1:]
    device = start.stoch.device
    source = generator.device if generator else None
    action_noise = torch.randn(horizon, batch, action_size, generator=generator, device=source).to(
        device
    )
    states, actions, log_probs = [start], [], []
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
