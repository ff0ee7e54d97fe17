"""The report has known numbers; runs that must not be averaged are left out or are errors."""

import csv
import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from processes import said
from scipy.stats import mannwhitneyu

from blocks import EpisodeRecord, safety_summary
from blocks.safety_metrics import violation_interval
from recipes import report
from recipes.reports import figures as report_figures
from recipes.reports import statistics as report_statistics
from recipes.reports import tables as report_tables
from recipes.reports.data import ReportedRun, read_runs
from recipes.reports.groups import (
    check,
    compare,
    differing,
    group_runs,
    over_tasks,
    read_groups,
)
from recipes.reports.page import write_report
from recipes.reports.published import UNCONSTRAINED_PPO, normalised
from recipes.reports.statistics import band, improvement, interquartile_mean, rate
from recipes.reports.tables import notes, pairs_table
from recipes.runs import folder as run_folder
from recipes.runs.errors import RunError
from recipes.runs.folder import RunFolder

TASK = "SafetyPointGoal1-v0"
EPISODES = 12
Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Write a finished run as a recipe does, without TensorBoard: its import takes seconds."""
    monkeypatch.setattr(run_folder, "_tensorboard", lambda *_: False)
    monkeypatch.setattr(report_statistics, "RESAMPLES", 300)
    monkeypatch.setattr(run_folder, "git_commit", lambda: {"hash": "0123456789", "dirty": False})
    return lambda name, **changes: write_run(tmp_path / "runs" / name, **changes)


def write_run(
    path: Path,
    *,
    recipe: str = "cerl_full",
    task: str = TASK,
    seed: int = 0,
    budget: float = 25.0,
    final_return: float = 10.0,
    costs: tuple[float, ...] = (5.0,) * EPISODES,
    finished: bool = True,
    **hyper: Any,
) -> Path:
    run = RunFolder.create(recipe, task, seed, path)
    steps = 1000 * len(costs)
    config = {"preset": "cpu", "members": 5, "guard_share": 0.6, "threads": seed} | hyper
    run.write_config(
        {"task": task, "seed": seed, "steps": steps, "episode_budget": budget} | config
    )
    records = [EpisodeRecord(i, cost, 1.0 * i, 1000) for i, cost in enumerate(costs)]
    for i, record in enumerate(records):
        run.log(
            "episode",
            1000 * (i + 1),
            episode_return=record.episode_return + seed,
            episode_cost=record.cost,
        )
    safety = safety_summary(records, episode_budget=budget, episode_length=1000)
    if finished:
        run.write_summary(
            {"recipe": recipe, "task": task, "seed": seed, "episode_budget": budget}
            | {"members": config["members"], "guard_share": config["guard_share"]}
            | safety._asdict()
            | {"guard_episodes": 2, "final_return": final_return, "final_cost": costs[-1]}
        )
    run.close()
    return path


def make_report(*paths: Path, out: Path) -> Path:
    return write_report(*read_groups(paths), out)


def rows(path: Path) -> dict[str, dict[str, report_tables.Cell]]:
    """The table's rows by recipe, of the only task."""
    runs, _ = read_runs([path])
    (groups,) = group_runs(runs).values()
    return {group.recipe: report_tables.group_row(group) for group in groups}


# Statistics ---------------------------------------------------------------------------------------


def test_rate_of_none_in_500_is_the_textbook_interval() -> None:
    assert rate(0, 500).value == 0
    assert rate(0, 500).lower == 0
    assert rate(0, 500).upper == pytest.approx(1 - 0.025 ** (1 / 500), rel=1e-9)
    assert np.isnan(rate(0, 0).upper)


@given(st.integers(1, 300).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_rate_agrees_with_the_safety_metrics_block(counted: tuple[int, int]) -> None:
    assert rate(*counted)[1:] == pytest.approx(violation_interval(*counted), abs=1e-9)


def test_interquartile_mean_leaves_out_a_quarter_at_either_end() -> None:
    assert interquartile_mean([-900, 1, 2, 3, 4, 5, 6, 900]).value == 3.5
    assert interquartile_mean([1, 5]).value == 3
    assert interquartile_mean([7.0])[0] == 7
    assert np.isnan(interquartile_mean([7.0])[1:]).all()


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=12))
def test_interval_holds_the_estimate_within_the_sample(sample: list[float]) -> None:
    value, lower, upper = interquartile_mean(sample)
    slack = 1e-6 * max(map(abs, sample))
    assert min(sample) - slack <= lower <= value + slack
    assert value - slack <= upper <= max(sample) + slack


def test_interval_shrinks_with_seeds() -> None:
    noise = np.random.default_rng(0).normal(size=400)
    widths = [np.ptp(interquartile_mean(noise[:n])[1:]) for n in (5, 20, 400)]
    assert widths[0] > widths[1] > widths[2]


def test_stratified_interval_keeps_the_tasks_apart() -> None:
    """Runs without noise on two very different tasks: pooled, there is nothing to doubt."""
    flat = interquartile_mean([0.0] * 4, [100.0] * 4)
    assert flat == (50.0, 50.0, 50.0)
    assert np.ptp(interquartile_mean([0.0] * 4 + [100.0] * 4)[1:]) > 0


def test_probability_of_improvement_of_known_cases() -> None:
    same, better = [1.0, 2.0, 3.0], [4.0, 5.0, 6.0]
    assert improvement([same], [same]).value == 0.5
    assert improvement([better], [same]) == (1.0, 1.0, 1.0)
    assert improvement([same], [better]).value == 0.0
    assert improvement([better, same], [same, better]).value == 0.5  # a mean over tasks
    assert np.isnan(improvement([[1.0]], [same]).lower)


numbers = st.lists(st.integers(-5, 5).map(float), min_size=2, max_size=8)


@settings(max_examples=25)
@given(numbers, numbers)
def test_probability_of_improvement_is_mann_whitneys(x: list[float], y: list[float]) -> None:
    u = mannwhitneyu(x, y).statistic if len({*x, *y}) > 1 else len(x) * len(y) / 2
    found = improvement([x], [y])
    assert found.value == pytest.approx(u / (len(x) * len(y)))
    assert 0 <= found.lower <= found.upper <= 1
    assert improvement([y], [x]).value == pytest.approx(1 - found.value)


def test_band_is_the_interquartile_mean_at_each_point() -> None:
    curves = np.array([[0.0, 10.0], [1.0, 11.0], [2.0, 12.0], [300.0, 13.0]])
    middle, lower, upper = band(curves)
    assert middle.tolist() == [1.5, 11.5]
    assert (lower <= middle).all()
    assert (middle <= upper).all()
    assert (band(curves[:1])[1] == curves[0]).all()


def test_scores_are_relative_to_unconstrained_ppo() -> None:
    ppo = UNCONSTRAINED_PPO[TASK]
    assert normalised(TASK, ppo["return"], ppo["cost"], 25.0) == (1, 1)
    assert normalised(TASK, ppo["return"] / 2, 24.0, 25.0) == (0.5, 0)
    assert normalised(TASK, 1.0, 24.0, 60.0) is None  # PPO keeps so large a budget
    assert normalised("SafetyDoggoGoal1-v0", 1.0, 24.0, 25.0) is None


# Rows ---------------------------------------------------------------------------------------------


def test_a_row_has_the_known_numbers(write: Write, tmp_path: Path) -> None:
    for seed, value in enumerate((10.0, 20.0, 30.0, 40.0, 9000.0)):
        costs = (5.0,) * (EPISODES - 1) + (45.0 if seed == 0 else 5.0,)
        write(f"seed{seed}", seed=seed, final_return=value, costs=costs)
    (row,) = rows(tmp_path).values()
    assert row["seeds"] == ("5", "0-4")
    assert row["steps"].text == "12,000"
    assert row["final return"].text == "30.0"  # neither 10 nor 9000 counts
    assert row["policy violations"].text == "1 of 60"
    assert row["runs with one"].text == "1 of 5"
    assert row["episode violations"] == ("1 of 60", "0.04% to 8.9%")
    assert row["worst episode"].text == "45.0"
    assert row["cost rate"].text == "0.0050"
    assert row["cost regret"] == ("4.0", "at most 20.0")
    assert row["guard episodes"].text == "10 of 60"
    assert row["normalised return"].text == f"{30 / 25.44:.2f}"
    assert row["normalised violation"].text == "0.00"


def test_a_task_without_reference_has_no_scores(write: Write, tmp_path: Path) -> None:
    write("a", task="SafetyDoggoGoal1-v0")
    (row,) = rows(tmp_path).values()
    assert "normalised return" not in row


def test_different_settings_get_separate_rows(write: Write, tmp_path: Path) -> None:
    write("a")
    write("b", seed=1)  # and another number of threads, which changes no result
    write("c", members=1, preset="paper", guard_share=0.0)
    write("d", recipe="ablation")
    found = rows(tmp_path)
    assert list(found) == ["cerl_full, preset=cpu", "cerl_full, preset=paper", "ablation"]
    assert found["cerl_full, preset=cpu"]["seeds"].text == "2"


def test_different_lengths_get_separate_rows_and_a_note(write: Write, tmp_path: Path) -> None:
    for seed in range(2):
        write(f"short{seed}", seed=seed, costs=(1.0,) * 4)
        write(f"long{seed}", seed=seed)
    page = make_report(tmp_path / "runs", out=tmp_path / "out")
    text = (tmp_path / "out" / "report.md").read_text()
    assert "| cerl_full | 2 (0, 1) | 4,000 |" in text
    assert "| cerl_full | 2 (0, 1) | 12,000 |" in text
    assert "has runs of different lengths (4,000, 12,000 steps)" in text
    assert "Probability of improvement" not in text  # one row per length: nothing to compare
    assert "cerl_full, 4k steps" in (page.parent / "runs.csv").read_text()


def test_commits_are_noted_and_separated_on_demand(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write("a")
    monkeypatch.setattr(run_folder, "git_commit", lambda: {"hash": "fedcba9876", "dirty": False})
    write("b", seed=1)
    runs, _ = read_runs([tmp_path])
    groups = group_runs(runs)
    assert "pools runs of several commits: 0123456, fedcba9" in " ".join(notes(groups, {}))
    runs, _ = read_runs([tmp_path], by_commit=True)
    (groups,) = group_runs(runs).values()
    assert [group.recipe for group in groups] == [
        "cerl_full, commit=0123456",
        "cerl_full, commit=fedcba9",
    ]


def test_tasks_are_pooled_stratified(write: Write, tmp_path: Path) -> None:
    for seed in range(3):
        write(f"a{seed}", seed=seed, final_return=25.44)
        car = {"task": "SafetyCarGoal1-v0", "action_repeat": 4}
        write(f"b{seed}", seed=seed, final_return=2 * 33.41, **car)
        write(f"c{seed}", seed=seed, task="SafetyDoggoGoal1-v0")
    runs, _ = read_runs([tmp_path])
    groups = group_runs(runs)
    row = report_tables.pooled_row(over_tasks(groups)[0])
    assert row["tasks"] == ("3", "2 with scores")
    assert row["runs"].text == "9"
    assert row["policy violations"].text == "0 of 108"
    assert row["cost rate / budget's"] == ("0.20", "0.20 to 0.20")
    assert row["normalised return"] == ("1.50", "1.50 to 1.50")
    assert notes(groups, {}) == [
        "All tasks together: cerl_full has different settings on different tasks: action_repeat."
    ]


def test_recipes_are_compared_over_their_common_tasks(write: Write, tmp_path: Path) -> None:
    for seed in range(2):
        for task in (TASK, "SafetyCarGoal1-v0"):
            write(f"a{task}{seed}", task=task, seed=seed, final_return=1.0)
            better = 2.0 if task == TASK else 1.0
            write(f"b{task}{seed}", task=task, seed=seed, recipe="other", final_return=better)
    groups = group_runs(read_runs([tmp_path])[0])
    (pairs,) = compare(over_tasks(groups))
    assert pairs.names == ("cerl_full", "other")
    assert pairs.better["final_return"][0, 1] == (0.25, 0.25, 0.25)  # 0 and 0.5
    assert pairs.better["final_return"][1, 0] == (0.75, 0.75, 0.75)
    assert pairs.better["cost_rate"][0, 1].value == 0.5
    (row,) = pairs_table([pairs])
    assert row["higher final return"] == ("0.25", "0.25 to 0.25")


def test_fewer_violations_and_less_cost_are_better(write: Write, tmp_path: Path) -> None:
    for seed in range(2):
        write(f"a{seed}", seed=seed)
        write(f"b{seed}", seed=seed, recipe="other", costs=(5.0,) * (EPISODES - 1) + (30.0,))
    (rows_,) = group_runs(read_runs([tmp_path])[0]).values()
    (pairs,) = compare([[group] for group in rows_])
    for figure in ("policy_violations", "cost_rate"):
        assert pairs.better[figure][0, 1].value == 1.0
        assert pairs.better[figure][1, 0].value == 0.0
    assert pairs_table([pairs])[0]["fewer policy violations"].text == "1.00"


def test_every_run_has_a_row_and_the_seeds_have_one_together(write: Write, tmp_path: Path) -> None:
    for seed, value in enumerate((100.0, 200.0, 300.0, 400.0, 9000.0)):
        costs = (5.0,) * (EPISODES - 1) + (12.0 * seed,)
        write(f"seed{seed}", seed=seed, final_return=value, costs=costs)
        if seed:
            change(wall_seconds=60.0)(tmp_path / "runs" / f"seed{seed}")
    groups = group_runs(read_runs([tmp_path])[0])
    *single, together = report_tables.runs_table(groups[TASK])
    assert [row["seed"].text for row in single] == ["0", "1", "2", "3", "4"]
    assert [row["minutes"].text for row in single] == ["-", "1.0", "1.0", "1.0", "1.0"]
    assert {name: cell.text for name, cell in together.items()} == {
        "recipe": "cerl_full",
        "seed": "all 5",
        "steps": "12,000",
        "policy violations": "2",
        "episode violations": "2",
        "worst episode": "48",
        "cost rate": "0.0066",
        "guard stepped in": "10",
        "final return": "300",  # the outliers at either end do not count
        "final cost": "24.0",
        "minutes": "-",  # an old run does not record it
    }


def test_disagreement_is_shown_where_it_was_measured(write: Write, tmp_path: Path) -> None:
    names = [column.figure for column in report_tables.PESSIMISM.values()][1:]
    measured = dict.fromkeys(names, 0.25)
    change(**measured)(write("a"))
    change(**measured | {"pessimism_share_late": None})(write("b", seed=1))
    change(**measured)(write("c", seed=2, members=1))
    write("d", seed=3)
    (groups,) = group_runs(read_runs([tmp_path])[0]).values()
    first, second = (
        [cell.text for cell in row.values()][1:6] for row in report_tables.pessimism_table(groups)
    )
    assert first == ["0", "12,000", "25%", "25%", "0.25"]
    assert second == ["1", "12,000", "25%", "-", "0.25"]


def test_markdown_is_printed_and_nothing_is_written(
    write: Write,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    files = [write(f"seed{seed}", seed=seed) / "summary.json" for seed in range(2)]
    alone = [shutil.move(file, tmp_path / f"{file.parent.name}.json") for file in files]
    write("other", task="SafetyCarGoal1-v0")
    left_out = write("running", seed=2, finished=False)
    monkeypatch.chdir(tmp_path)
    before = set(tmp_path.rglob("*"))
    report.main([*map(str, alone), "--markdown"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("| recipe | seed | steps | policy violations |")
    assert [line.split("|")[2].strip() for line in lines[2:]] == ["0", "1", "all 2"]
    shutil.rmtree(tmp_path / "runs" / "seed0")
    shutil.rmtree(tmp_path / "runs" / "seed1")
    report.main([*map(str, alone), "runs", "--markdown"])
    printed = capsys.readouterr()
    assert "\n\n## SafetyCarGoal1-v0\n\n| recipe |" in printed.out
    assert f"left out: runs/{left_out.name}: no summary.json" in printed.err
    assert set(tmp_path.rglob("*")) <= before


hyper_parameters = st.dictionaries(st.sampled_from("abcd"), st.sampled_from([0, 1, 1.5, "x", [2]]))


@settings(max_examples=25)
@given(st.lists(hyper_parameters, min_size=1, max_size=12))
def test_no_group_mixes_settings(found: list[dict[str, Any]]) -> None:
    zeros = dict.fromkeys((*report_tables.COUNTS, *report_tables.COSTS), 0.0)
    runs = [
        ReportedRun(Path(), "r", TASK, seed, 1000, 25.0, values, "", zeros | {"episodes": 1.0})
        for seed, values in enumerate(found)
    ]
    (groups,) = group_runs(runs).values()
    assert all(not differing(group.runs) for group in groups)
    assert len(groups) == len({json.dumps(values, sort_keys=True) for values in found})
    assert sum(len(group.runs) for group in groups) == len(runs)


def test_csv_has_the_raw_figures_of_each_run(write: Write, tmp_path: Path) -> None:
    write("a", final_return=1234.5678)
    write("b", seed=1, costs=(30.0,) * EPISODES)
    make_report(tmp_path / "runs", out=tmp_path / "out")
    with (tmp_path / "out" / "runs.csv").open() as stream:
        first, second = csv.DictReader(stream)
    assert float(first["final_return"]) == 1234.5678
    assert (second["seed"], second["policy_violations"], second["policies"]) == ("1", "12", "12")
    assert float(second["cost_regret"]) == 60.0
    assert float(first["normalised_return"]) == pytest.approx(1234.5678 / 25.44)


# What is refused ----------------------------------------------------------------------------------


def test_mixed_budgets_are_refused_by_name(write: Write, tmp_path: Path) -> None:
    a, b = write("a"), write("b", seed=1, budget=10.0)
    with pytest.raises(RunError, match=rf"{a} has an episode budget of 25, {b} of 10"):
        check(read_runs([tmp_path])[0])
    write("c", task="SafetyCarGoal1-v0", budget=10.0)
    check(read_runs([a, tmp_path / "runs" / "c"])[0])  # another task may have a different budget


def test_a_run_twice_is_refused_by_name(write: Write, tmp_path: Path) -> None:
    a, b = write("a"), write("b", threads=7)
    with pytest.raises(RunError, match=rf"{a} and {b} are the same run: cerl_full, {TASK}, seed 0"):
        check(read_runs([tmp_path])[0])
    runs, _ = read_runs([a, a, a / ".." / "a", a / "summary.json"])
    assert len(runs) == 1  # one folder named in many ways is one run


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "there is no run folder nowhere"),
        (["."], r"\. holds no run"),
        ([], "no finished run to report on: no path was given"),
    ],
)
def test_errors_are_one_line(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="2"):
        report.main(arguments)
    assert re.fullmatch(rf"error: {message}.*\n", capsys.readouterr().err)
    assert not list(tmp_path.iterdir())


def test_unknown_options_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        report.main(["--sideways"])
    assert "Unrecognized options: --sideways" in said(capsys.readouterr().err)


def test_only_unfinished_runs_are_an_error_and_a_file_in_the_way_as_well(
    write: Write, tmp_path: Path
) -> None:
    a = write("a", finished=False)
    with pytest.raises(RunError, match=rf"no finished run to report on: {a}: no summary.json"):
        make_report(a, out=tmp_path / "out")
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="cannot write the report"):
        make_report(write("b"), out=tmp_path / "file")


# What is left out ---------------------------------------------------------------------------------


def cut_last_line(path: Path) -> None:
    file = path / "metrics.jsonl"
    file.write_bytes(file.read_bytes()[:-20])


def lose_last_line(path: Path) -> None:
    file = path / "metrics.jsonl"
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:-1]))


def write_file(name: str, text: str) -> Callable[[Path], None]:
    return lambda path: (path / name).write_text(text) and None


def change(**figures: Any) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        summary = json.loads((path / "summary.json").read_text()) | figures
        (path / "summary.json").write_text(json.dumps(summary))

    return write


def append(line: str) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        with (path / "metrics.jsonl").open("a") as stream:
            stream.write(line)

    return write


CONFIG = {"recipe": "cerl_full", "task": TASK, "episode_budget": 25.0}
DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "unfinished": (
        lambda path: (path / "summary.json").unlink(),
        r"no summary.json: unfinished or still running \(12,000 of 12,000 steps\)",
    ),
    "half a line": (cut_last_line, "metrics.jsonl ends in a half-written line"),
    "a line lost": (lose_last_line, "metrics.jsonl has 11 episodes, summary.json 12"),
    "no lines": (write_file("metrics.jsonl", "\n"), "line 1 is not JSON"),
    "no metrics": (lambda path: (path / "metrics.jsonl").unlink(), "no metrics.jsonl"),
    "a line not JSON": (append("{]\n"), "line 13 is not JSON"),
    "a line of no kind": (append('{"step": 3}\n'), "a line that is no metric"),
    "a line of a list": (append("[3]\n"), "a line that is no metric"),
    "an empty episode": (append('{"kind": "episode"}\n'), "an episode without its figures"),
    "another summary": (change(cost_rate=0.5), r"metrics.jsonl has 60 cost, summary.json 6000"),
    "summary not JSON": (write_file("summary.json", "{"), "cannot read .*summary.json"),
    "summary a list": (write_file("summary.json", "[]"), "summary.json is not a JSON object"),
    "config not JSON": (write_file("config.json", '{"task": '), "cannot read .*config.json"),
    "config a number": (write_file("config.json", "3"), "config.json is not a JSON object"),
    "no config": (lambda path: (path / "config.json").unlink(), "cannot read .*config.json"),
    "nan": (change(final_return="nan"), "final_return in summary.json is nan, not a number"),
    "a word": (change(episodes="many"), "episodes in summary.json is many, not a number"),
    "a list": (change(final_cost=[1.0]), r"final_cost in summary.json is \[1.0\], not a number"),
    "half an episode": (change(episodes=1.5), "episodes in summary.json is 1.5, not a number"),
    "true": (change(cost_rate=True), "cost_rate in summary.json is True, not a number"),
    "too large": (
        change(final_return=10**400),
        "final_return in summary.json is 10+, not a number",
    ),
    "missing": (change(policies=None), "policies in summary.json is None, not a number"),
    "negative": (change(cost_rate=-1.0), "cost_rate in summary.json is -1.0, below 0"),
    "too many": (change(policy_violations=99), "99 policy_violations of 12 policies"),
    "steps a word": (
        write_file("config.json", json.dumps(CONFIG | {"seed": 1, "steps": "many"})),
        "steps in config.json is many, not a number",
    ),
    "a folder for a file": (
        lambda path: (path / "metrics.jsonl").unlink() or (path / "metrics.jsonl").mkdir(),
        "metrics.jsonl cannot be read: Is a directory",
    ),
    "another seed": (change(seed=5), "seed is 1 in config.json, 5 in summary.json"),
    "ended early": (change(environment_steps=3000), "ended after 3,000 of 12,000 steps"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_run_is_named_with_its_reason_and_left_out(
    damage: str, write: Write, tmp_path: Path
) -> None:
    write("good", final_return=77.0)
    bad = write("bad", seed=1)
    do, reason = DAMAGES[damage]
    do(bad)
    runs, left_out = read_runs([tmp_path])
    assert [run.figures["final_return"] for run in runs] == [77.0]
    ((path, found),) = left_out.items()
    assert path == bad
    assert re.search(reason, found)
    assert f"Left out of every figure: {bad}: {found}." in notes({}, left_out)


json_values = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3)
json_values = json_values | st.lists(json_values, max_size=2) | st.just({})


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), name=st.sampled_from(["config.json", "summary.json"]), value=json_values)
def test_whatever_a_field_holds_a_run_is_read_or_left_out(
    data: st.DataObject, name: str, value: Any, write: Write, tmp_path: Path
) -> None:
    path = tmp_path / "runs" / "a"
    if not path.exists():
        write("a")
    intact = (path / name).read_text()
    field = data.draw(st.sampled_from(sorted(json.loads(intact))))
    try:
        (path / name).write_text(json.dumps(json.loads(intact) | {field: value}))
        runs, left_out = read_runs([path])
    finally:
        (path / name).write_text(intact)
    assert len(runs) + len(left_out) == 1
    check(runs)
    assert len(group_runs(runs)) == len(runs)


def test_summaries_alone_get_separate_rows(write: Write, tmp_path: Path) -> None:
    file = tmp_path / "summary-of-1.json"
    shutil.copy(write("a") / "summary.json", file)
    shutil.rmtree(tmp_path / "runs")
    write("b", seed=1)
    runs, _ = read_runs([tmp_path / "runs", file])
    (groups,) = group_runs(runs).values()
    assert [group.recipe for group in groups] == ["cerl_full", "cerl_full, summary only"]
    assert "Given as summaries alone: 1, from" in " ".join(notes({TASK: groups}, {}))
    assert make_report(tmp_path / "runs", file, out=tmp_path / "out").exists()


# Figures and page ---------------------------------------------------------------------------------


def test_every_recipe_looks_different() -> None:
    look = report_figures.styles([f"recipe {i}" for i in range(21)])
    assert len(set(look.values())) == 21
    assert len({style.color for style in look.values()}) == 7


def test_the_same_runs_make_the_same_page(write: Write, tmp_path: Path) -> None:
    write("a")
    pages = [
        make_report(tmp_path / "runs", out=tmp_path / out).read_text() for out in ("one", "two")
    ]
    assert pages[0] == pages[1]


def test_names_are_escaped(write: Write, tmp_path: Path) -> None:
    write("a", recipe="<script>alert(1)</script>")
    page = make_report(tmp_path / "runs", out=tmp_path / "out").read_text()
    assert "<script" not in page


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Any]:
    """A real headless Chromium, with Debian's names or those of the PATH."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    binary = next(
        filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
    )
    driver = shutil.which("chromedriver")
    if not (binary and driver):
        pytest.skip("no Chromium with chromedriver; on Debian: apt-get install chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(flag)
    options.add_argument(f"--user-data-dir={tmp_path / 'profile'}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = webdriver.ChromeService(executable_path=driver)
    chromium = webdriver.Chrome(options=options, service=service)
    yield chromium
    chromium.quit()


def test_the_page_in_a_browser(browser: Any, write: Write, tmp_path: Path) -> None:
    recipes = [f"recipe_{i}" for i in range(8)]
    for recipe in recipes:
        for seed in range(2):
            write(f"{recipe}-{seed}", recipe=recipe, seed=seed, final_return=float(seed))
    write("other", task="SafetyDoggoGoal1-v0", costs=(5.0, 400.0))
    write("running", seed=9, finished=False)
    page = make_report(tmp_path / "runs", out=tmp_path / "out")
    browser.get(page.as_uri())
    state = SimpleNamespace(
        **browser.execute_script(
            """return {
                rows: [...document.querySelectorAll("section")].map(
                    s => s.querySelectorAll("table.task tbody tr").length),
                widths: [...document.images].map(i => i.complete ? i.naturalWidth : 0),
                alts: [...document.images].map(i => i.alt),
                pairs: document.querySelectorAll("table.improvements tbody tr").length,
                notes: document.querySelector(".notes").textContent,
                wide: document.documentElement.scrollWidth > window.innerWidth,
                loaded: performance.getEntriesByType("resource")
                    .filter(e => !e.name.startsWith("data:")).length,
            }"""
        )
    )
    assert browser.get_log("browser") == []
    assert state.rows == [1, len(recipes)]
    assert len(state.widths) == 3 + 6  # curves of return and cost, scatter; and three of pairs
    assert min(state.widths) > 0
    assert all(state.alts)
    assert state.pairs == len(recipes) * (len(recipes) - 1) / 2
    assert "no summary.json" in state.notes
    assert not state.wide, "only tables scroll sideways"
    assert state.loaded == 0, "everything is in the page"


def test_the_command_line(write: Write, tmp_path: Path, launch: Any) -> None:
    write("a")
    ended = launch("report", tmp_path / "runs", "--out", tmp_path / "out")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert {f.name for f in (tmp_path / "out").iterdir()} == {
        "report.html",
        "report.md",
        "runs.csv",
    }
