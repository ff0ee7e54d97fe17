"""Runs of tasks whose episodes are a few steps long."""

from itertools import groupby
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from gymnasium.spaces import Box

from blocks import make_environment
from recipes.agents import Config
from recipes.agents.builders import build_replay
from recipes.cerl_full import CERL
from recipes.runs import Run
from recipes.training import train
from recipes.training.loop import Training

# At this action repeat two episodes have fewer rows than start states need.
HOPPER = Config(
    smoke=True, task="SafetyHopperVelocity-v1", steps=3000, action_repeat=4, snapshots="always"
)


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes longer than the runs."""
    monkeypatch.setattr("recipes.training.loop.record_video", lambda *_, **__: "none: not drawn")
    for figure in ("learning_figure", "calibration_figure", "steps_figure"):
        monkeypatch.setattr(f"recipes.training.loop.{figure}", lambda _: None)


@pytest.fixture(scope="module")
def needs_hopper() -> None:
    try:
        make_environment(HOPPER.task).reset()
    except RuntimeError as error:
        pytest.skip(str(error))


def lines(run: Run, kind: str) -> list[dict[str, Any]]:
    """A kind of metrics, without the time."""
    return [{k: v for k, v in row.items() if k != "time"} for row in run.metrics(kind)]


@pytest.mark.usefixtures("needs_hopper")
def test_a_hopper_that_falls_is_trained_and_goes_on_after_a_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed = train(CERL(), HOPPER, out=tmp_path / "undisturbed")
    episodes = lines(undisturbed, "episode")
    assert max(row["episode_steps"] for row in episodes) < 1000
    groups = [
        [row["episode_steps"] for row in group]
        for _, group in groupby(episodes, lambda row: row["iterate"])
    ]
    assert 1900 < sum(groups[0]) < 2100  # of two scales
    assert undisturbed["policies"] == len(groups) >= 2
    assert len(undisturbed.metrics("update")) == len(groups) - 1
    kept = sorted(file.name for file in (undisturbed.path / "snapshots").iterdir())
    assert kept == [f"{iterate:04d}.pt" for iterate in range(len(groups))]

    learn, middle_of_an_iterate = Training.learn, len(groups[0]) + len(groups[1]) // 2

    def stopped(self: Training) -> None:
        if len(self.records) == middle_of_an_iterate:
            raise KeyboardInterrupt
        learn(self)

    with monkeypatch.context() as patch:
        patch.setattr(Training, "learn", stopped)
        with pytest.raises(KeyboardInterrupt):
            train(CERL(), HOPPER, out=tmp_path / "stopped")
    resumed = train(CERL(), HOPPER.replace(resume=tmp_path / "stopped"))
    for kind in ("episode", "update", "evaluation"):
        assert lines(resumed, kind) == lines(undisturbed, kind)


def test_a_run_s_replay_keeps_every_row_of_the_shortest_episodes() -> None:
    """One step each: twice as many rows as steps."""
    steps = 3000
    spaces: Any = SimpleNamespace(observation_space=Box(0, 1, (2,)), action_space=Box(-1, 1, (1,)))
    replay = build_replay(Config(smoke=True, steps=steps, action_repeat=1), spaces)
    for row in range(2 * steps):
        replay.add([0.0, 1.0], [0.0], reward=0.0, cost=0.0, is_first=row % 2 == 0)
    assert len(replay) == 2 * steps
