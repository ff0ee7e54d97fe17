"""One episode of an agent in its environment, with the guard between them."""

from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch.profiler import record_function

from blocks import Environment
from blocks.environments.protocol import Space
from recipes.agents import Agent, Guard, Policy, zero_action


class Episode(NamedTuple):
    """One episode as it was lived; undiscounted sums over environment steps."""

    episode_return: float
    cost: float
    steps: int
    fallback_steps: int
    frames: list[NDArray[np.uint8]]


def run_episode(
    agent: Agent,
    environment: Environment,
    scale: float,
    *,
    guard: Guard | None = None,
    fallback: Policy | None = None,
    remember: bool = True,
    frames: int | None = None,
) -> Episode:
    """Live one whole episode; once the guard refuses, the fallback acts to its end.

    What the fallback does is counted but not remembered: the world model is to know the policy's
    world, and a body at rest teaches little.

    Args:
        agent: acts, and remembers.
        environment: of the episode; its ``reset`` starts it.
        scale: of the exploration noise; 0 gives the mean action.
        guard: None trusts the agent to the end.
        fallback: acts once the guard refuses; None: the zero action.
        remember: hand what happens to the agent.
        frames: draw the episode, and leave it after so many actions.
    """
    observation, _ = environment.reset()
    agent.start_episode()
    space = environment.action_space
    if remember:
        start = np.zeros(space.shape or (), np.float32)
        agent.remember(observation, start, reward=0.0, cost=0.0, is_first=True)
    total = cost = 0.0
    steps = fallback_steps = 0
    pictures: list[NDArray[np.uint8]] = []
    fallback = fallback or zero_action(environment)
    act = partial(agent.act, scale=scale)
    over = False
    while not over:
        trusted = guard is None or guard.allows(cost)
        policy = act if trusted else fallback
        with record_function("acting"):
            action = policy(observation)
        with record_function("environment"):
            observation, reward, terminated, truncated, info = environment.step(
                within_bounds(action, space)
            )
        total, cost, steps = total + reward, cost + info["cost"], steps + info["inner_steps"]
        if trusted and remember:
            with record_function("replay"):
                agent.remember(
                    observation,
                    action,
                    reward=reward,
                    cost=info["cost"],
                    is_first=False,
                    terminated=terminated,
                )
        fallback_steps += 0 if trusted else info["inner_steps"]
        if frames is not None:
            pictures.append(environment.render())
        over = terminated or truncated or len(pictures) == frames
    return Episode(total, cost, steps, fallback_steps, pictures)


def within_bounds(action: NDArray[Any], space: Space) -> NDArray[Any]:
    """The environment's action for a policy's.

    Args:
        action: ``[action]``, from -1 to 1.
        space: the environment's ``action_space``; -1 is its ``low`` and 1 its ``high``.
    """
    return (space.high + space.low) / 2 + (space.high - space.low) / 2 * action
