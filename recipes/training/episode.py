"""One episode of an agent in its environment, behind the guard."""

from itertools import count
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.profiler import record_function

from blocks import Environment, EpisodeRecord
from blocks.environments.costs import cost_names_of, costs_of
from blocks.environments.protocol import Space
from recipes.agents import Agent, Guard, Policy, zero_action


def run_episode(
    agent: Agent,
    environment: Environment,
    scale: float,
    *,
    iterate: int = 0,
    guard: Guard | None = None,
    fallback: Policy | None = None,
    policy: Policy | None = None,
    remember: bool = True,
    frames: list[NDArray[np.uint8]] | None = None,
    actions: int | None = None,
) -> EpisodeRecord:
    """Run one whole episode; once the guard refuses, the fallback acts to its end.

    Steps of the fallback count but are not remembered: the world model learns from the policy's
    states, and a body at rest teaches little.

    Args:
        agent: acts, and remembers.
        environment: is reset first.
        scale: scale of the exploration noise; 0 gives the mean action.
        iterate: number of the policy, for the record.
        guard: None trusts the agent to the end.
        fallback: acts once the guard refuses; None: the zero action.
        policy: acts in the agent's place, which remembers all the same; None: the agent.
        remember: whether the agent remembers the episode.
        frames: list to which a picture is added after each action; None: no pictures.
        actions: end the episode after this many actions, if it is not over before.
    """
    observation, _ = environment.reset()
    agent.start_episode()
    space = environment.action_space
    start = np.zeros(space.shape or (), np.float32)
    names = cost_names_of(environment)
    costs = np.zeros(len(names))
    if remember:
        agent.remember(observation, start, reward=0.0, cost=costs, is_first=True)
    total = 0.0
    steps = fallback_steps = 0
    terminated = False
    fallback = fallback or zero_action(environment)
    for taken in count(1):
        trusted = guard is None or guard.allows(costs.tolist())
        with record_function("acting"):
            if not trusted:
                action = fallback(observation)
            elif policy is not None:
                action = _in_range(policy(observation), start)
            else:
                action = agent.act(observation, scale)
        with record_function("environment"):
            observation, reward, terminated, truncated, info = environment.step(
                within_bounds(action, space)
            )
        added = costs_of(info, names)
        total, costs, steps = total + reward, costs + added, steps + info["inner_steps"]
        if not trusted:
            fallback_steps += info["inner_steps"]
        elif remember and info["inner_steps"]:  # 0: the simulation failed, nothing came of it
            with record_function("replay"):
                agent.remember(
                    observation,
                    action,
                    reward=reward,
                    cost=added,
                    is_first=False,
                    terminated=terminated,
                )
        if frames is not None:
            frames.append(environment.render())
        if terminated or truncated or taken == actions:
            break
    steps = max(1, steps)  # the first one may have failed
    each = tuple(costs.tolist()) if len(names) > 1 else ()
    record = EpisodeRecord(iterate, float(costs.sum()), total, steps, fallback_steps)
    return record._replace(terminated=bool(terminated), costs=each)


def _in_range(action: NDArray[Any], like: NDArray[np.float32]) -> NDArray[np.float32]:
    """Check the action of a policy that is not the agent's."""
    action = np.asarray(action, np.float32)
    if action.shape != like.shape or not (np.abs(action) <= 1).all():
        raise ValueError(
            f"policy: got the action {action.tolist()}; allowed {like.shape} numbers in [-1, 1], "
            "which map to the environment's bounds; scale it"
        )
    return action


def within_bounds(action: NDArray[Any], space: Space) -> NDArray[Any]:
    """Map a policy's action to the environment's.

    Args:
        action: ``[action]``, from -1 to 1.
        space: the environment's ``action_space``; -1 maps to its ``low`` and 1 to its ``high``.
    """
    return (space.high + space.low) / 2 + (space.high - space.low) / 2 * action
