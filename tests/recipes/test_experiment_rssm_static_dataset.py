"""Tests open-loop prediction of a static dataset: measures, split, and the experiment as run."""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from blocks import State, Transitions
from blocks.environments.safety_gymnasium import SafetyEnvironment
from blocks.latents import Gaussian
from recipes.experiments import static_dataset
from recipes.experiments.open_loop import (
    SIGNALS,
    Start,
    call_rows,
    error_rows,
    last_value,
    normalised_error,
    open_loop,
    precision_recall,
    starts_of,
    training_mean,
    truth,
)
from recipes.experiments.rssm_static_dataset.__main__ import Options, acceptance, main
from recipes.experiments.static_dataset import collect, read_dataset
from recipes.runs.errors import RunError

Launch = Callable[..., subprocess.CompletedProcess[str]]
RECIPE = "experiment_rssm_static_dataset"
DATASET = Path("runs/datasets/SafetyHalfCheetahVelocity-v1-seed0-5000-smoke")


def episode(observation: list[float], **signals: list[float]) -> Transitions:
    """Build an episode ``[1, time, ...]`` of one-dimensional observations."""
    rows = torch.arange(len(observation)).unsqueeze(0)
    zeros = torch.zeros(1, len(observation))

    def signal(name: str) -> Tensor:
        return torch.tensor([signals[name]]) if name in signals else zeros

    return Transitions(
        observation=torch.tensor([observation]).unsqueeze(-1),
        action=signal("action").unsqueeze(-1),
        reward=signal("reward"),
        cost=signal("cost").unsqueeze(-1),
        is_first=rows == 0,
        terminated=rows < 0,
        row=rows,
    )


class Adder:
    """A model of a world in which each action is added to the observation.

    The reward is the new observation, the cost its square; the second member adds ``off`` more.
    """

    members = 2

    def __init__(self, off: float = 0.0) -> None:
        self.off = torch.tensor([[[0.0]], [[off]]])
        self.parameter_posterior = SimpleNamespace(sample=dict)

    def normalizer(self, observation: Tensor) -> Tensor:
        return observation

    def filter(self, data: Transitions, generator: torch.Generator) -> Any:
        state = State(data.observation, torch.zeros_like(data.observation))
        return SimpleNamespace(state=state)

    def transition(self, weights: Any) -> Any:
        def step(state: State, action: Tensor) -> tuple[Tensor, Gaussian]:
            deter = state.deter + action + self.off
            return deter, Gaussian(torch.zeros_like(deter), torch.zeros_like(deter))

        return step

    def decoder(self, feat: Tensor) -> Tensor:
        return feat[..., :1]

    def reward(self, feat: Tensor) -> Tensor:
        return feat[..., 0]

    def cost(self, feat: Tensor, weights: Any) -> Tensor:
        return feat[..., :1].square()


def added(rows: int = 40) -> Transitions:
    """Record an episode of that world."""
    action = torch.randn(rows, generator=torch.Generator().manual_seed(0))
    action[0] = 0.0
    seen = action.cumsum(0)
    reward, cost = seen.tolist(), seen.square().tolist()
    return episode(seen.tolist(), action=action.tolist(), reward=reward, cost=cost)


# ---- prediction ----------------------------------------------------------------------------------


def test_open_loop_is_exact_where_the_model_is() -> None:
    """A shift by one of rows, actions, horizons or start rows would fail."""
    model: Any = Adder()
    starts = starts_of([added(), added(30)], 7)
    assert [part.rows.tolist() for part in starts] == [list(range(8, 33)), list(range(8, 23))]
    predicted, target = open_loop(model, starts, 7, seed=0), truth(model, starts, 7)
    for name in SIGNALS:
        torch.testing.assert_close(getattr(predicted, name), getattr(target, name))
        errors = normalised_error(getattr(predicted, name), getattr(target, name))
        assert errors == pytest.approx([0.0] * 7, abs=1e-9)


def test_open_loop_is_the_mean_over_members() -> None:
    """One member drifts by 0.5 a step: the mean observation by half of that, the cost is E[c]."""
    model: Any = Adder(off=0.5)
    starts = starts_of([added()], 4)
    predicted, target = open_loop(model, starts, 4, seed=0), truth(model, starts, 4)
    drift = 0.5 * torch.arange(1.0, 5.0).unsqueeze(-1)
    torch.testing.assert_close(predicted.reward, target.reward + drift / 2)
    expected = (target.reward.square() + (target.reward + drift).square()) / 2
    torch.testing.assert_close(predicted.cost, expected)


def test_open_loop_does_not_look_ahead() -> None:
    """Observations after the start row change no prediction."""
    model: Any = Adder()
    seen = added()
    blind = seen._replace(observation=seen.observation.clone())
    blind.observation[:, 9:] = 100.0
    rows = torch.tensor([8])
    one, other = (open_loop(model, [Start(e, rows)], 5, seed=0) for e in (seen, blind))
    torch.testing.assert_close(one, other)


def test_trivial_predictors_by_hand() -> None:
    model: Any = Adder()
    seen = episode([1.0, 2.0, 4.0, 8.0], reward=[0.0, 3.0, 5.0, 7.0], cost=[0.0, 0.0, 2.0, 1.0])
    starts = [Start(seen, torch.tensor([1]))]
    target = truth(model, starts, 2)
    assert target.reward.tolist() == [[5.0], [7.0]]
    held = last_value(model, starts, 2)
    assert held.observation.tolist() == [[[2.0]], [[2.0]]]
    assert held.reward.tolist() == [[3.0], [3.0]]
    assert held.cost.tolist() == [[0.0], [0.0]]
    mean = training_mean(model, seen, target)  # the first row has no reward or cost
    assert mean.observation.tolist() == [[[3.75]], [[3.75]]]
    assert mean.reward.tolist() == [[5.0], [5.0]]
    assert mean.cost.tolist() == [[1.0], [1.0]]


# ---- measures ------------------------------------------------------------------------------------


def test_normalised_error_by_hand() -> None:
    target = torch.tensor([[0.0, 2.0], [4.0, 6.0]])  # mean 3, variance 5
    predicted = torch.tensor([[1.0, 4.0], [4.0, 3.0]])  # squared errors 1, 4 and 0, 9
    assert normalised_error(predicted, target) == pytest.approx([2.5 / 5, 4.5 / 5])
    mean = normalised_error(torch.full_like(target, 3.0), target)
    assert sum(value or 0 for value in mean) / 2 == pytest.approx(1.0)
    # A second entry of variance 0, predicted exactly, changes nothing.
    pair = torch.stack([target, torch.ones_like(target)], -1)
    guess = torch.stack([predicted, torch.ones_like(target)], -1)
    assert normalised_error(guess, pair) == pytest.approx([2.5 / 5, 4.5 / 5])


def test_a_signal_that_never_changes_has_no_error() -> None:
    assert normalised_error(torch.rand(3, 5), torch.zeros(3, 5)) == [None, None, None]
    row = {"updates": 1, "signal": "cost", "horizon": 2, "last_value": None, "mean": None}
    assert acceptance([row | {"model": None}], 2)[0]["beats_both"] is None


@pytest.mark.parametrize(("model", "beats"), [(0.4, True), (0.5, False), (0.9, False)])
def test_acceptance_requires_both_to_be_beaten_at_the_end(model: float, beats: bool) -> None:
    row = {"signal": "cost", "horizon": 2, "last_value": 0.5, "mean": 1.0}
    early = row | {"updates": 1, "model": 0.1}
    (verdict,) = acceptance([early, row | {"updates": 2, "model": model}], 2)
    assert verdict["beats_both"] is beats


def test_precision_and_recall_by_hand() -> None:
    predicted = torch.tensor([0.9, 0.8, 0.1, 0.2, 0.5])
    cost = torch.tensor([1.0, 0.0, 2.0, 0.0, 1.0])
    rates = precision_recall(predicted, cost, 0.5)  # 0.5 itself is not above
    assert rates == {"called": 2, "costly": 3, "precision": 1 / 2, "recall": 1 / 3}
    none = torch.zeros(5)
    assert precision_recall(none, cost, 0.5)["precision"] is None
    assert precision_recall(predicted, none, 0.5)["recall"] is None


def test_rows_hold_every_horizon_and_the_two_ends() -> None:
    model: Any = Adder()
    starts = starts_of([added()], 6)
    target = truth(model, starts, 6)
    predictions = {"model": target, "last_value": last_value(model, starts, 6)}
    rows = error_rows(3, predictions, target)
    assert [(r["signal"], r["horizon"]) for r in rows] == [
        (name, h) for name in SIGNALS for h in range(1, 7)
    ]
    assert all(row["model"] == 0.0 < row["last_value"] for row in rows)
    calls = call_rows(3, predictions, target, 0.5)
    assert {(row["horizon"], row["predictor"]) for row in calls} == {
        (h, name) for h in (1, 6) for name in ("model", "last_value")
    }


def test_a_horizon_beyond_the_episodes_is_refused() -> None:
    with pytest.raises(ValueError, match=r"horizon: got 21; at most 20 is possible"):
        starts_of([added(29), added(12)], 21)
    (start,) = starts_of([added(29), added(12)], 20)  # the shorter one has no start row
    assert start.rows.tolist() == [8]


# ---- the dataset and the recipe ------------------------------------------------------------------


@pytest.fixture(scope="module")
def smoked(
    tmp_path_factory: pytest.TempPathFactory,
    launch: Launch,
) -> Path:
    """Run the experiment once, dataset included; return the folder that it ran in."""
    folder = tmp_path_factory.mktemp("static")
    run = launch(RECIPE, "--smoke", "--out", "run", cwd=folder)
    assert run.returncode == 0, run.stderr[-2000:]
    assert "held-out error" in run.stdout
    assert "costly rows foreseen" in run.stdout
    return folder


def summary_of(folder: Path) -> dict[str, Any]:
    def refuse(constant: str) -> None:
        raise AssertionError(f"summary.json holds {constant}")

    return json.loads((folder / "summary.json").read_text(), parse_constant=refuse)


def test_smoke_leaves_figure_summary_and_provenance(smoked: Path) -> None:
    assert (smoked / "run/open_loop.png").stat().st_size > 10_000
    config = json.loads((smoked / "run/config.json").read_text())
    assert config["run"] == str(DATASET)
    assert "torch" in config["versions"]
    summary = summary_of(smoked / "run")
    assert summary["dataset"] == {
        "path": str(DATASET),
        "episodes": 5,
        "rows": 5 * 501,
        "held_out": [4],
        "held_out_rows": 501,
    }
    assert len(summary["rows"]) == 3 * 3 * 5  # stages, signals, horizons
    assert [row["signal"] for row in summary["acceptance"]] == list(SIGNALS)
    assert all(row["horizon"] == 5 for row in summary["acceptance"])
    assert '"nan"' not in (smoked / "run/summary.json").read_text()


def test_a_finished_dataset_is_used_again_and_gives_the_same_figures(
    smoked: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No process is started and the environment is not stepped."""

    def forbidden(*_: object, **__: object) -> None:
        raise AssertionError("the dataset exists already")

    monkeypatch.chdir(smoked)
    monkeypatch.setattr(static_dataset, "subprocess", SimpleNamespace(run=forbidden))
    monkeypatch.setattr(SafetyEnvironment, "step", forbidden)
    main(Options(smoke=True, out=Path("again")))
    assert summary_of(smoked / "again")["rows"] == summary_of(smoked / "run")["rows"]


def test_an_unfinished_dataset_is_resumed(smoked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(smoked)
    unfinished = Path("runs/datasets/Task-seed0-5000")
    shutil.copytree(DATASET, unfinished)
    (unfinished / "summary.json").unlink()
    commands = []

    def failing(command: list[str], **_: object) -> Any:
        commands.append(command)
        return SimpleNamespace(returncode=2, stderr="a warning\nerror: the disk is full\n")

    monkeypatch.setattr(static_dataset, "subprocess", SimpleNamespace(run=failing, PIPE=-1))
    with pytest.raises(RunError, match=r"collecting .*Task-seed0-5000 failed: the disk is full$"):
        collect("Task", 0, 5000, smoke=False)
    assert commands[0][1:] == ["-m", static_dataset.COLLECTOR, "--resume", str(unfinished)]
    for checkpoint in (unfinished / "checkpoints").iterdir():
        checkpoint.unlink()
    with pytest.raises(RunError, match=r"before its first checkpoint: remove that folder"):
        collect("Task", 0, 5000, smoke=False)


def test_held_out_episodes_never_train(smoked: Path) -> None:
    """Each row is in exactly one part; changed held-out rows change no training sample."""
    data = read_dataset(smoked / DATASET, seed=0)
    (held_out,) = data.held_out
    rows = torch.cat([data.training_rows.observation, held_out.observation], 1)[0]
    assert len(rows.unique(dim=0)) == 5 * 501
    assert held_out.is_first[0].nonzero().flatten().tolist() == [0]
    assert data.training_rows.is_first[0].nonzero().flatten().tolist() == [0, 501, 1002, 1503]

    spoiled = smoked / "spoiled"
    shutil.copytree(smoked / DATASET, spoiled)
    (newest, *_) = sorted((spoiled / "checkpoints").iterdir(), reverse=True)
    saved = torch.load(newest, weights_only=True)
    stored = saved["state"]["agent"]["replay"]["rows"]
    for name in ("observation", "action", "reward", "cost"):
        stored[name][4 * 501 :] = 7.0
    torch.save(saved, newest)
    again = read_dataset(spoiled, seed=0)
    assert again.held_out[0].reward.eq(7.0).all()
    torch.testing.assert_close(again.training_rows, data.training_rows)
    torch.testing.assert_close(again.training.sample(8, 12), data.training.sample(8, 12))


def test_too_few_episodes_are_refused(smoked: Path) -> None:
    few = smoked / "few"
    shutil.copytree(smoked / DATASET, few)
    newest, older = sorted((few / "checkpoints").iterdir(), reverse=True)
    newest.unlink()
    assert older.name == "step-000000004000.pt"
    with pytest.raises(
        RunError, match=r"few: got 4 episodes; every fifth is held out, so at least 5"
    ):
        read_dataset(few, seed=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"horizon": 0}, r"horizon: got 0; allowed: at least 1\."),
        ({"updates": (10, 5)}, r"updates: got \(10, 5\); give rising numbers, each at least 0\."),
        ({"updates": ()}, r"updates: got \(\); give rising numbers, each at least 0\."),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Options(**options)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--run", "nowhere"), "error: cannot read nowhere/config.json"),
        (("--run", "empty"), "error: no readable checkpoint: empty/checkpoints is empty"),
        (("--task", "SafetyHalfCheetahVelosity-v1", "--smoke"), "SafetyHalfCheetahVelocity-v1"),
    ],
)
def test_a_run_that_cannot_be_read_or_made_is_an_error_in_one_line(
    arguments: tuple[str, ...], message: str, smoked: Path, launch: Launch
) -> None:
    (smoked / "empty").mkdir(exist_ok=True)
    shutil.copy(smoked / DATASET / "config.json", smoked / "empty")
    run = launch(RECIPE, *arguments, "--out", "refused", cwd=smoked)
    assert run.returncode == 2
    (line,) = run.stderr.splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert not (smoked / "refused").exists()


# ---- cost_off_data, on the same dataset ----------------------------------------------------------


def test_cost_off_data_has_a_row_for_each_judged_episode(smoked: Path, launch: Launch) -> None:
    sizes = ("--length-scales", 1, "--known", 2, 4, "--ahead", 0, 1, 2, "--updates-per-episode", 1)
    run = launch("experiment_cost_off_data", DATASET, *sizes, cwd=smoked)
    assert run.returncode == 0, run.stderr[-2000:]
    rows = [line.split("│") for line in run.stdout.splitlines() if line.startswith("│")]
    assert [(row[2].strip(), row[3].strip()) for row in rows] == [
        *(("2", "newest known"), ("2", "1 ahead"), ("2", "2 ahead")),
        *(("4", "newest known"), ("4", "1 ahead")),  # the run has only five episodes
    ]


def test_cost_off_data_refuses_more_episodes_than_the_run_has(smoked: Path, launch: Launch) -> None:
    run = launch("experiment_cost_off_data", DATASET, "--known", 6, cwd=smoked)
    assert run.returncode == 2
    assert run.stderr == "error: known: got (6,); allowed: 1 to 5, the run's episodes.\n"
