"""Protocols of an agent and of the parts around it."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from blocks import Environment

Metrics = dict[str, float]
"""Averages over a phase of learning, by name; one line of ``metrics.jsonl``."""

Policy = Callable[[NDArray[Any]], NDArray[np.float32]]
"""From an observation to an action ``[action]`` in [-1, 1]."""


@runtime_checkable
class Agent(Protocol):
    """An agent as the training loop calls it.

    Actions are float32 ``[action]`` in [-1, 1]; the loop maps them to the actuators' bounds.
    """

    def start_episode(self) -> None:
        """Forget the last episode."""
        ...

    def act(self, observation: NDArray[Any], scale: float) -> NDArray[np.float32]:
        """Choose an action; ``scale`` multiplies the exploration noise, 0 gives the mean action."""
        ...

    def remember(
        self,
        observation: NDArray[Any],
        action: NDArray[np.float32],
        *,
        reward: float,
        cost: float | NDArray[np.float64],
        is_first: bool,
        terminated: bool = False,
    ) -> None:
        """Store an observation with the action, reward and cost that led to it.

        The first row of an episode has zero action, reward and cost.
        """
        ...

    def begin(self) -> Metrics:
        """Learn from the prefill; return metrics as ``learn``."""
        ...

    def learn(self, progress: float) -> Metrics:
        """Learn after an iterate; ``progress`` is the completed share of the run, in [0, 1].

        Returns:
            Metrics. The loop uses ``slack``, ``cost_mean``, ``cost_worst`` and ``pessimism`` if
            present: slack, the members' mean and largest predicted cost of an episode, and their
            difference, in units of the episode budget.
        """
        ...

    def illustrate(self, folder: Path) -> None:
        """Write pictures of the learned model into the run's folder, or do nothing."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return the state for a checkpoint: tensors, numbers, strings, containers of these."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore ``state_dict``; the agent then gives the same results."""
        ...


@runtime_checkable
class Auditable(Protocol):
    """An agent whose policies an audit can roll out again, many episodes at once; optional."""

    def policy_state(self) -> dict[str, Any]:
        """Return what acting needs and no more: tensors, numbers, strings, containers of these."""
        ...

    def load_policy_state(self, state: Mapping[str, Any]) -> None:
        """Restore ``policy_state``."""
        ...

    def start_together(self, seeds: Sequence[int]) -> None:
        """Start an episode for each seed; all randomness of an episode comes from its seed."""
        ...

    def act_together(self, observations: NDArray[Any], scale: float) -> NDArray[np.float32]:
        """Choose an action in each episode, as ``act`` does in one.

        Args:
            observations: ``[episode, ...]``.
            scale: factor on the exploration noise.

        Returns:
            Actions ``[episode, action]`` in [-1, 1].
        """
        ...


@runtime_checkable
class Guard(Protocol):
    """Decides before each action whether the policy may act, as ``BudgetGuard`` does."""

    def allows(self, episode_cost: Sequence[float]) -> bool:
        """Decide from the costs of the episode so far, ``[constraint]``: may the policy act?"""
        ...


def zero_action(environment: Environment) -> Policy:
    """Build the default fallback: the middle of every actuator's range.

    Of discrete actions it is the first one, since all entries are equal.
    """
    rest = np.zeros(environment.action_space.shape or (), np.float32)
    return lambda observation: rest
