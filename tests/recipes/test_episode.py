"""One episode: what the environment is given, and what is remembered."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from gymnasium.spaces import Box

from blocks import SequenceReplay, make_environment
from recipes.training.episode import run_episode, within_bounds

FASTEST = np.array([1.0, -0.5], np.float32)


def driver() -> Any:
    """An agent that always does the same."""
    replay = SequenceReplay(1000, observation_shape=(1,), action_size=2)
    return SimpleNamespace(
        replay=replay,
        remember=replay.add,
        start_episode=lambda: None,
        act=lambda observation, scale: FASTEST,
    )


def test_a_policy_has_the_whole_range_of_every_actuator(monkeypatch: pytest.MonkeyPatch) -> None:
    """A racecar's velocity goes from -20 to 20, its steering to 0.785 either way."""
    environment = make_environment("SafetyRacecarRun0-v0", action_repeat=100)
    given: list[np.ndarray] = []
    step = environment.step

    def observed_step(action: np.ndarray) -> Any:
        given.append(action)
        _, *outcome = step(action)
        return np.zeros(1, np.float32), *outcome

    monkeypatch.setattr(environment, "step", observed_step)
    monkeypatch.setattr(environment, "reset", lambda reset=environment.reset: ([0.0], reset()[1]))
    agent = driver()
    episode = run_episode(agent, environment, 1.0)
    assert episode.steps == 500
    np.testing.assert_allclose(np.stack(given), np.tile([20, -0.3925], (5, 1)), rtol=1e-3)
    remembered = agent.replay.newest_episode().action[0].numpy()
    np.testing.assert_array_equal(remembered, [[0, 0], *[FASTEST] * 5])  # the policy's own


def test_bounds_need_not_be_symmetric() -> None:
    space = Box(np.array([-1, 2], np.float32), np.array([1, 6], np.float32))
    for action, given in (((-1, -1), (-1, 2)), ((1, 1), (1, 6)), ((0.3, 0), (0.3, 4))):
        np.testing.assert_array_equal(within_bounds(np.float32(action), space), np.float32(given))
