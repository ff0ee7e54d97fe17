"""The seams of an agent that a user may fill."""

from collections.abc import Callable, Mapping
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
    """What the training loop asks of an agent.

    Actions are float32 ``[action]`` in [-1, 1]; the loop maps them to the actuators' bounds.
    """

    def start_episode(self) -> None:
        """Forget the episode before."""
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
        cost: float,
        is_first: bool,
        terminated: bool = False,
    ) -> None:
        """Store one row: an observation with the action, reward and cost that led to it.

        At ``is_first`` an episode begins: action, reward and cost are zero.
        """
        ...

    def begin(self) -> Metrics:
        """Learn from the prefill; returns metrics as ``learn`` does."""
        ...

    def learn(self, progress: float) -> Metrics:
        """Learn after an episode, with a share ``progress`` of the run done.

        Returns:
            Metrics. The loop reads ``slack``, ``cost_mean``, ``cost_worst`` and ``pessimism`` where
            they are given: slack, the members' mean and largest predicted cost of an episode, and
            their difference, in units of the episode budget. They make the calibration figure.
        """
        ...

    def illustrate(self, folder: Path) -> None:
        """Write pictures of what was learned into the run's folder, if there is anything to see."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """All that a resumed run needs: tensors, numbers, strings and containers of these."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue exactly where ``state_dict`` was taken."""
        ...


@runtime_checkable
class Guard(Protocol):
    """Decides, before each action, whether the policy may go on; ``BudgetGuard`` is one."""

    def allows(self, episode_cost: float) -> bool:
        """Whether the policy may act after the episode has cost this much."""
        ...


def zero_action(environment: Environment) -> Policy:
    """The fallback that keeps still: the middle of every actuator's range."""
    rest = np.zeros(environment.action_space.shape or (), np.float32)
    return lambda observation: rest
