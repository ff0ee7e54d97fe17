"""The tables and notes of a report, and the raw figures of each run."""

import csv
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.stats import trim_mean

from recipes.reports.data import AUDITED, COSTS, COUNTS, ReportedRun
from recipes.reports.groups import COMPARED, Group, Pairs, collect, differing, over_tasks
from recipes.reports.published import METHODS, normalised
from recipes.reports.statistics import Estimate, interquartile_mean, rate

Form = Callable[[float], str]
SCORES = ("normalised return", "normalised violation")
NOT_AUDITED = "not audited"


class Cell(NamedTuple):
    """A figure as text, and the small text beside it, usually its interval."""

    text: str
    beside: str = ""


Row = dict[str, Cell]


def markdown(rows: Sequence[Row]) -> str:
    """Format rows as a Markdown table."""
    lines = [f"| {' | '.join(rows[0])} |", "|---|" + "---:|" * (len(rows[0]) - 1)]
    for row in rows:
        cells = [f"{text} ({beside})" if beside else text for text, beside in row.values()]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)


# Groups -------------------------------------------------------------------------------------------


def group_row(group: Group, audited: bool = False) -> Row:
    """A group's figures; normalised scores only where the task has a reference.

    Args:
        group: the runs.
        audited: include the columns of audits; True if any run of the task has one.
    """
    runs = group.runs
    with_violation = sum(run.figures["policy_violations"] > 0 for run in runs)
    regrets = group.values("cost_regret")  # a plain mean: an interquartile one hides one bad run
    guarded, episodes = group.total("guard_episodes"), group.total("episodes")
    return {
        "recipe": Cell(group.recipe),
        "seeds": Cell(str(len(runs)), _seeds(runs)),
        "steps": Cell(f"{group.steps:,}"),
        "final return": _averaged(_number, group.values("final_return")),
        "final cost": _averaged(_number, group.values("final_cost")),
        "policy violations": _share([group], "policy_violations", "policies"),
        "runs with one": _counted(with_violation, len(runs)),
        **(_audit_cells(group) if audited else {}),
        "episode violations": _share([group], "episode_violations", "episodes"),
        "worst episode": Cell(_number(group.values("worst_episode_cost").max())),
        "cost rate": _averaged("{:.4f}".format, group.values("cost_rate")),
        "cost regret": Cell(
            _number(regrets.mean()), f"at most {_number(regrets.max())}" if len(runs) > 1 else ""
        ),
        "guard episodes": Cell(f"{guarded:,} of {episodes:,}", f"{guarded / episodes:.1%}"),
        **_score_cells([group]),
    }


def any_audited(groups: Iterable[Group]) -> bool:
    """Whether any run has an audit."""
    return any(_is_audited(run) for group in groups for run in group.runs)


def _is_audited(run: ReportedRun) -> bool:
    return "audited_policies" in run.figures


def _audit_cells(group: Group) -> Row:
    """Means over the audited runs: violations with the claim about all policies of a run."""
    runs = [run.figures for run in group.runs if _is_audited(run)]
    names = ("audited violations per run", "without guard", "audited cost regret")
    if not runs:
        return dict.fromkeys(names, Cell(NOT_AUDITED))
    mean = {name: float(np.mean([run[f"audited_{name}"] for run in runs])) for name in AUDITED}
    some = f", {len(runs)} of {len(group.runs)} runs" if len(runs) < len(group.runs) else ""
    bounds = f"{_number(mean['at_least'])} to {_number(mean['at_most'])}{some}"
    of = f" of {_number(mean['policies'])}"
    return {
        names[0]: Cell(_number(mean["violations"]) + of, bounds),
        names[1]: Cell(_number(mean["unguarded_violations"]) + of),
        names[2]: Cell(_number(mean["cost_regret"])),
    }


def pooled_row(groups: Sequence[Group]) -> Row:
    """The figures of one recipe on several tasks; intervals are stratified by task."""
    rates = [[run.figures["cost_rate"] / run.budget_rate for run in group.runs] for group in groups]
    return {
        "recipe": Cell(groups[0].recipe),
        "steps": Cell(f"{groups[0].steps:,}"),
        "tasks": Cell(str(len(groups)), f"{sum(map(bool, map(_scores, groups)))} with scores"),
        "runs": Cell(str(sum(len(group.runs) for group in groups))),
        "policy violations": _share(groups, "policy_violations", "policies"),
        "episode violations": _share(groups, "episode_violations", "episodes"),
        "cost rate / budget's": _averaged(_score, *rates),
        **(dict.fromkeys(SCORES, Cell("-")) | _score_cells(groups)),
    }


def _scores(group: Group) -> list[tuple[float, float]]:
    """Each run's normalised return and violation; empty if the task has no reference."""
    keys = ("final_return", "final_cost", "episode_budget")
    found = [normalised(run.task, *(run.figures[key] for key in keys)) for run in group.runs]
    return [pair for pair in found if pair]


def _score_cells(groups: Sequence[Group]) -> Row:
    found = [np.transpose(scores) for scores in map(_scores, groups) if scores]
    by_score = zip(SCORES, *found, strict=True) if found else ()
    return {name: _averaged(_score, *samples) for name, *samples in by_score}


def pairs_table(pairs: Sequence[Pairs]) -> list[Row]:
    """One row per pair of recipes."""
    return [
        {"recipe": Cell(same.names[i]), "against": Cell(same.names[j])}
        | {COMPARED[key]: _estimate(_score, found[i, j]) for key, found in same.better.items()}
        for same in pairs
        for i, j in same.better["final_return"]
        if i < j
    ]


def published_table(task: str) -> list[Row]:
    """What published methods reach on the task; empty if we know of none."""
    return [
        {"method": Cell(method)}
        | {f"final {key}": Cell(_number(value)) for key, value in tasks[task].items()}
        for method, tasks in METHODS.items()
        if task in tasks
    ]


# Runs ---------------------------------------------------------------------------------------------


def _middle(values: Sequence[float]) -> float:
    return float(trim_mean(values, 0.25))


def _number(value: float) -> str:
    """About three digits: 2,309 or 25.8 or 0.04."""
    size = abs(value)
    return f"{value:,.0f}" if size >= 100 else f"{value:.1f}" if size >= 1 else f"{value:.2g}"


class Column(NamedTuple):
    """A column of the tables of runs."""

    figure: str
    together: Callable[[Sequence[float]], float]  # of several seeds
    form: Form


RUNS = {
    "steps": Column("environment_steps", _middle, "{:,.0f}".format),
    "policy violations": Column("policy_violations", sum, "{:,}".format),
    "episode violations": Column("episode_violations", sum, "{:,}".format),
    "worst episode": Column("worst_episode_cost", max, "{:.0f}".format),
    "cost rate": Column("cost_rate", _middle, "{:.4f}".format),
    "guard stepped in": Column("guard_episodes", sum, "{:,}".format),
    "final return": Column("final_return", _middle, _number),
    "final cost": Column("final_cost", _middle, "{:.1f}".format),
    "minutes": Column("wall_seconds", _middle, lambda seconds: f"{seconds / 60:.1f}"),
}
AUDITS = {
    "audited violations": Column("audited_violations", sum, "{:,.0f}".format),
    "at least": Column("audited_at_least", sum, "{:,.0f}".format),
    "at most": Column("audited_at_most", sum, "{:,.0f}".format),
    "without guard": Column("audited_unguarded_violations", sum, "{:,.0f}".format),
}
"""Policies over the budget in the audit; the bounds hold at 95% for the policies of each run."""
PESSIMISM = {"steps": RUNS["steps"]} | {
    f"{column}, {when}": Column(f"{figure}_{when}", _middle, form.format)
    for column, figure, form in (
        ("share of the slack", "pessimism_share", "{:.0%}"),
        ("recent states", "disagreement_recent", "{:.2f}"),
        ("far states", "disagreement_far", "{:.2f}"),
        ("new episode", "disagreement_new", "{:.2f}"),
        ("the same, learned", "disagreement_learned", "{:.2f}"),
    )
    for when in ("early", "late")
}
"""The members' disagreement over the first (early) and the last (late) ten updates."""


def runs_table(groups: Sequence[Group]) -> list[Row]:
    """One row per run, and one row for all seeds of a group."""
    columns = RUNS | (AUDITS if any_audited(groups) else {})
    rows = []
    for group in groups:
        runs = sorted(group.runs, key=lambda run: run.seed)
        rows += [_run_row(columns, group, str(run.seed), [run]) for run in runs]
        if len(runs) > 1:
            rows.append(_run_row(columns, group, f"all {len(runs)}", runs))
    return rows


def pessimism_table(groups: Sequence[Group]) -> list[Row]:
    """One row per run of several members whose disagreement was measured."""
    return [
        _run_row(PESSIMISM, group, str(run.seed), [run])
        for group in groups
        for run in sorted(group.runs, key=lambda run: run.seed)
        if run.settings.get("members") != 1 and "disagreement_far_early" in run.figures
    ]


def _run_row(
    columns: dict[str, Column], group: Group, seed: str, runs: Sequence[ReportedRun]
) -> Row:
    row = {"recipe": Cell(group.recipe), "seed": Cell(seed)}
    for name, (figure, together, form) in columns.items():
        values = [run.figures[figure] for run in runs if figure in run.figures]
        absent = NOT_AUDITED if figure.startswith("audited") else "-"
        row[name] = Cell(form(together(values)) if len(values) == len(runs) else absent)
    return row


def write_csv(file: Path, groups: dict[str, list[Group]]) -> None:
    """Write the raw figures, one row per run."""
    keys = ("recipe", "task", "seed", "steps", "episode_budget", "path", "commit")
    figures = [key for key in (*COUNTS, *COSTS, "final_return") if key not in keys]
    audits = [f"audited_{name}" for name in AUDITED]
    with file.open("w", newline="") as stream:
        writer = csv.writer(stream)
        scores_of = [name.replace(" ", "_") for name in SCORES]
        writer.writerow(["row", *keys, *figures, *scores_of, *audits])
        for group in (group for rows in groups.values() for group in rows):
            scores = _scores(group) or [("", "")] * len(group.runs)
            for run, pair in zip(group.runs, scores, strict=True):
                described = [getattr(run, key) for key in keys]
                counted = [run.figures[key] for key in figures]
                audited = [run.figures.get(key, NOT_AUDITED) for key in audits]
                writer.writerow([group.name, *described, *counted, *pair, *audited])


# Notes --------------------------------------------------------------------------------------------


def notes(groups: dict[str, list[Group]], left_out: dict[Path, str]) -> list[str]:
    """What was left out, what differs between rows, and what a row pools or lacks."""
    found = [f"Left out of every figure: {path}: {reason}." for path, reason in left_out.items()]
    alone: list[Path] = []
    for task, rows in groups.items():
        runs = [run for group in rows for run in group.runs]
        alone += [run.path for run in runs if run.curve is None]
        lengths = [f"{steps:,}" for steps in sorted({group.steps for group in rows})]
        if len(lengths) > 1:
            found.append(
                f"{task} has runs of different lengths ({', '.join(lengths)} steps): each length "
                "has separate rows, and recipes are compared pairwise only at the same length."
            )
        for (recipe, _), same in sorted(collect(runs, lambda run: run.family).items()):
            if keys := differing(same):
                found.append(f"{task}: the rows of {recipe} differ in {', '.join(keys)}.")
        for group in rows:
            name = f"{task}: {group.name}"
            commits = sorted({run.commit or "unknown" for run in group.runs})
            if len(commits) > 1:
                found.append(f"{name} pools runs of several commits: {', '.join(commits)}.")
            if len(group.runs) == 1:
                found.append(f"{name} has one seed, so averages lack intervals.")
    for rows in over_tasks(groups):
        if keys := differing([run for group in rows for run in group.runs]):
            found.append(
                f"All tasks together: {rows[0].recipe} has different settings on different tasks: "
                f"{', '.join(keys)}."
            )
    if alone:
        found.append(
            f"Given as summaries alone: {len(alone)}, from {alone[0]} on. These have no curve, and "
            "their settings other than members and guard_share are unknown."
        )
    return found


# Cells --------------------------------------------------------------------------------------------


def _averaged(form: Form, *samples: Sequence[float] | np.ndarray) -> Cell:
    return _estimate(form, interquartile_mean(*samples))


def _share(groups: Sequence[Group], part: str, whole: str) -> Cell:
    return _counted(*(sum(group.total(key) for group in groups) for key in (part, whole)))


def _counted(count: int, trials: int) -> Cell:
    return Cell(f"{count:,} of {trials:,}", _estimate(_percent, rate(count, trials)).beside)


def _estimate(form: Form, estimate: Estimate) -> Cell:
    if np.isnan(estimate.lower):
        return Cell(form(estimate.value))
    return Cell(form(estimate.value), f"{form(estimate.lower)} to {form(estimate.upper)}")


def _score(value: float) -> str:
    return f"{value:.2f}"


def _percent(value: float) -> str:
    """Two digits below 1%, where the bounds of rare violations lie."""
    return f"{value:.2%}" if 0 < value < 0.01 else f"{value:.1%}"


def _seeds(runs: Iterable[ReportedRun]) -> str:
    """0-4 rather than 0, 1, 2, 3, 4."""
    seeds = sorted(run.seed for run in runs)
    if len(seeds) > 2 and seeds == list(range(seeds[0], seeds[-1] + 1)):
        return f"{seeds[0]}-{seeds[-1]}"
    return ", ".join(map(str, seeds))
