"""Tests the model-free reference: OmniSafe's PPO-Lagrangian, with every step counted."""

import csv
import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from processes import said

RECIPE = "reference_ppo_lagrangian"
needs_omnisafe = pytest.mark.skipif(
    find_spec("omnisafe") is None, reason="OmniSafe is not installed: make test-model-free"
)


def episodes(run: Path) -> list[dict[str, Any]]:
    rows = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [row for row in rows if row["kind"] == "episode"]


@needs_omnisafe
def test_counts_what_omnisafe_counts_and_can_be_reported(launch, tmp_path):
    run = tmp_path / "run"
    sizes = ("--steps", 4000, "--steps-per-epoch", 2000, "--evaluation-episodes", 2)
    ended = launch(RECIPE, "--task", "SafetyPointCircle1-v0", *sizes, "--out", run)
    assert ended.returncode == 0, ended.stderr
    assert "final cost (budget 25)" in ended.stdout
    assert "EpRet" not in ended.stdout  # OmniSafe's tables go to a file
    ours = episodes(run)
    assert [row["step"] for row in ours] == list(range(500, 4001, 500))
    assert [row["iterate"] for row in ours] == [1] * 4 + [2] * 4
    (progress,) = run.glob("omnisafe/*/*/progress.csv")
    theirs = list(csv.DictReader(progress.read_text().splitlines()))
    for epoch, row in enumerate(theirs):  # means over all episodes so far
        so_far = ours[: 4 * (epoch + 1)]
        for name, key in (("Metrics/EpRet", "episode_return"), ("Metrics/EpCost", "episode_cost")):
            assert np.mean([e[key] for e in so_far]) == pytest.approx(float(row[name]), rel=1e-4)
    summary = json.loads((run / "summary.json").read_text())
    assert summary["environment_steps"] == 4000
    assert summary["policies"] == 2
    assert len(summary["final_returns"]) == len(summary["final_costs"]) == 2
    assert summary["cost_rate"] * 4000 == pytest.approx(sum(e["episode_cost"] for e in ours))
    assert summary["cost_rate"] > 0
    assert launch("report", run, "--out", tmp_path / "report").returncode == 0
    assert RECIPE in (tmp_path / "report" / "report.md").read_text()


@needs_omnisafe
def test_an_epoch_that_ends_within_an_episode_loses_no_step_and_a_seed_repeats(launch, tmp_path):
    runs = [tmp_path / name for name in ("first", "second")]
    sizes = ("--steps", 3000, "--steps-per-epoch", 1500, "--evaluation-episodes", 1, "--seed", 3)
    for run in runs:
        ended = launch(RECIPE, *sizes, "--out", run)
        assert ended.returncode == 0, ended.stderr
    first, second = ([(e["step"], e["episode_return"]) for e in episodes(run)] for run in runs)
    assert [step for step, _ in first] == [1000, 1500, 2500, 3000]
    assert first == second
    returns = [json.loads((run / "summary.json").read_text())["final_returns"] for run in runs]
    assert returns[0] == returns[1]


@pytest.mark.parametrize(
    ("arguments", "refusal"),
    [
        (("--steps", 30_000), "steps: got 30000; allowed: multiples of steps_per_epoch=20000."),
        (("--episode-budget", 0), "episode_budget: got 0.0; allowed: above 0."),
        (("--threads", 0), "threads: got 0; allowed: at least 1."),
        (("--gamma", 0.9), "--gamma"),
    ],
)
def test_refuses_settings_in_one_box_and_leaves_no_folder(launch, tmp_path, arguments, refusal):
    ended = launch(RECIPE, *arguments, "--out", tmp_path / "run")
    assert ended.returncode == 2
    assert refusal in said(ended.stderr)
    assert ended.stderr.count("╭") == 1
    assert "Traceback" not in ended.stderr
    assert not (tmp_path / "run").exists()


@needs_omnisafe
@pytest.mark.parametrize(
    ("arguments", "refusal"),
    [
        (("--task", "SafetyPointNowhere1-v0"), "SafetyPointNowhere1-v0"),
        (
            ("--steps", 500, "--steps-per-epoch", 500),
            "steps_per_epoch: got 500; allowed: at least 1000, an episode of SafetyHalfCheetah",
        ),
    ],
)
def test_refuses_what_the_task_does_not_allow(launch, tmp_path, arguments, refusal):
    ended = launch(RECIPE, *arguments, "--out", tmp_path / "run")
    assert ended.returncode == 2
    assert refusal in ended.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(find_spec("omnisafe") is not None, reason="OmniSafe is installed")
def test_says_what_to_install(launch, tmp_path):
    ended = launch(RECIPE, "--out", tmp_path / "run")
    assert ended.returncode == 2
    assert "No module named 'omnisafe'" in ended.stderr
    assert "make model-free" in ended.stderr
    assert not (tmp_path / "run").exists()
