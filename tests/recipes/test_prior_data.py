"""A run that starts from recorded episodes, or from a safe policy."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from blocks import Environment, Episode, make_environment, save_episode
from blocks.environments.safety_gymnasium import SafetyEnvironment
from recipes.agents import Config, Policy
from recipes.cerl_full import CERL
from recipes.runs import Run, RunFolder
from recipes.runs.snapshots import snapshot_file
from recipes.training import train


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes longer than the runs."""
    monkeypatch.setattr("recipes.training.loop.record_video", lambda *_, **__: "none: not drawn")
    for figure in ("learning_figure", "calibration_figure", "steps_figure"):
        monkeypatch.setattr(f"recipes.training.loop.{figure}", lambda _: None)


def point(seed: int) -> SafetyEnvironment:
    return make_environment("SafetyPointCircle1-v0", seed=seed, action_repeat=10)


POINT = Config(smoke=True, steps=1500, guard_share=0.0, snapshots="always")
PRIOR = np.array([0.25, -0.5], np.float32)


def rows_of(run: Run) -> dict[str, Any]:
    return RunFolder(run.path).read_checkpoint()["agent"]["replay"]["rows"]


def test_a_prior_policy_acts_in_the_prefill_and_not_after(tmp_path: Path) -> None:
    made: list[int] = []

    def prior(environment: Environment) -> Policy:
        made.append(environment.episode_index)
        return lambda observation: PRIOR

    run = train(CERL(prefill=prior), POINT, environment=point, out=tmp_path / "run")
    stored = rows_of(run)
    actions = stored["action"][~stored["is_first"]].reshape(3, 50, 2).numpy()
    assert (actions[:2] == PRIOR).all()
    assert not (actions[2] == PRIOR).any()
    assert made == [0, 1]
    assert [row["exploration_scale"] for row in run.metrics("episode")] == [0.0, 0.0, 1.0]
    assert not snapshot_file(run.path, 0).exists()  # the agent's policy did not act
    assert snapshot_file(run.path, 1).exists()


@pytest.mark.parametrize("wrong", [[20.0, 0.0], [0.5], [np.nan, 0.0]])
def test_a_prior_policy_outside_its_range_is_refused(tmp_path: Path, wrong: list[float]) -> None:
    agent = CERL(prefill=lambda environment: lambda observation: np.float32(wrong))
    with pytest.raises(ValueError, match=r"^policy: got the action .*\(2,\) numbers in \[-1, 1\]"):
        train(agent, POINT, environment=point, out=tmp_path / "run")


def stop(*_: Any) -> None:
    raise KeyboardInterrupt


def dataset(folder: Path, size: int = 28, steps: int = 7) -> Path:
    source = np.random.default_rng(0)
    for _ in range(2):
        actions = source.uniform(-1, 1, (steps, 2))
        observations = source.normal(size=(steps + 1, size))
        save_episode(folder, Episode(observations, actions, np.ones(steps), np.ones(steps)))
    return folder


def test_a_dataset_is_remembered_counts_as_no_steps_and_survives_a_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = point(0).observation_space.shape[0]
    config = POINT.replace(dataset=dataset(tmp_path / "data", size))
    run = train(CERL(), config, environment=point, out=tmp_path / "run")
    assert run["environment_steps"] == 1500
    stored = rows_of(run)
    assert len(stored["reward"]) == 2 * 8 + 3 * 51
    assert (stored["cost"][:16, 0] == (~stored["is_first"][:16]).float()).all()
    assert stored["is_first"].nonzero().flatten().tolist() == [0, 8, 16, 67, 118]

    with monkeypatch.context() as patch:
        patch.setattr("recipes.training.loop.learning_figure", stop)
        with pytest.raises(KeyboardInterrupt):
            train(CERL(), config, environment=point, out=tmp_path / "again")
    for file in (tmp_path / "data").iterdir():  # a run that goes on does not need them
        file.unlink()
    settings = Config.of_run(RunFolder(tmp_path / "again"))
    assert settings.dataset == tmp_path / "data"
    resumed = train(CERL(), settings.replace(resume=tmp_path / "again"), environment=point)
    assert all((rows_of(resumed)[name] == stored[name]).all() for name in stored)


@pytest.mark.parametrize(
    ("size", "message"),
    [
        (
            3,
            r"^dataset: got observations \(3,\) and actions \(2,\) in episode 0 .*of the task",
        ),
        (None, "^folder: got .* which has no episodes"),
    ],
)
def test_a_dataset_that_does_not_fit_makes_no_run(
    tmp_path: Path, size: int | None, message: str
) -> None:
    folder = dataset(tmp_path / "data", size) if size else tmp_path
    with pytest.raises(ValueError, match=message):
        train(CERL(), POINT.replace(dataset=folder), environment=point, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
