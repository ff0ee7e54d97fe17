"""One episode of an agent in its environment, with the budget guard between them."""

from typing import Any, NamedTuple, Protocol

import numpy as np

from blocks import BudgetGuard, SequenceReplay, WorldModel
from blocks.environments.safety_gymnasium import SafetyEnvironment


class Agent(Protocol):
    """What a recipe hands to `training.run`."""

    model: WorldModel
    replay: SequenceReplay

    def start_episode(self) -> None:
        """Forget the episode before."""

    def act(self, observation: np.ndarray, scale: float) -> np.ndarray:
        """The action for an observation; ``scale`` 1 as the policy samples, 0 its mean."""
        ...

    def begin(self) -> dict[str, float]:
        """What is learned from the prefill; returns metrics."""
        ...

    def learn(self, done: float) -> dict[str, float]:
        """What is learned after an episode, with the share ``done`` of the run behind it."""
        ...

    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class Episode(NamedTuple):
    """One episode as it was lived; undiscounted sums over environment steps."""

    episode_return: float
    cost: float
    steps: int
    fallback_steps: int
    frames: list[np.ndarray]


def run_episode(
    agent: Agent,
    environment: SafetyEnvironment,
    guard: BudgetGuard | None,
    scale: float,
    *,
    remember: bool = True,
    frames: int | None = None,
) -> Episode:
    """One whole episode; once the guard says no, the zero action sees it to its end.

    What the base policy does after that is counted but not remembered: the world model is to know
    the policy's world, and a body at rest teaches little. With ``frames`` the episode is drawn, and
    left after so many actions. Zero is the middle of every actuator's range.
    """
    observation, _ = environment.reset()
    agent.start_episode()
    rest = np.zeros(environment.action_space.shape or (), np.float32)
    if remember:
        agent.replay.add(observation, rest, reward=0.0, cost=0.0, is_first=True)
    total = cost = 0.0
    steps = fallback_steps = 0
    pictures: list[np.ndarray] = []
    over = False
    while not over:
        trusted = guard is None or guard.allows(cost)
        action = agent.act(observation, scale) if trusted else rest
        observation, reward, terminated, truncated, info = environment.step(
            within_bounds(action, environment.action_space)
        )
        total, cost, steps = total + reward, cost + info["cost"], steps + info["inner_steps"]
        if trusted and remember:
            agent.replay.add(
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


def within_bounds(action: np.ndarray, space: Any) -> np.ndarray:
    """The environment's action for a policy's.

    Args:
        action: ``[action]``, from -1 to 1.
        space: the environment's ``action_space``; -1 is its ``low`` and 1 its ``high``.
    """
    return (space.high + space.low) / 2 + (space.high - space.low) / 2 * action
