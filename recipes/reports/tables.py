"""The tables of a report: rows of text from groups of runs, and the raw figures of each run."""

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from recipes.reports.data import COSTS, COUNTS, Run
from recipes.reports.groups import Group, over_tasks
from recipes.reports.references import normalised_return, normalised_violation, published
from recipes.reports.statistics import Estimate, interquartile_mean, rate


class Cell(NamedTuple):
    """A figure as it is shown, and what stands small beside it: mostly its interval."""

    text: str
    beside: str = ""


Row = dict[str, Cell]


def task_table(groups: Sequence[Group]) -> list[Row]:
    """A row a group; normalised scores only where the task has a reference."""
    return [_row(group) for group in groups]


def _row(group: Group) -> Row:
    runs = group.runs
    broken = sum(run.figures["policy_violations"] > 0 for run in runs)
    row = {
        "recipe": Cell(group.recipe),
        "seeds": Cell(str(len(runs)), _seeds(runs)),
        "steps": Cell(f"{group.steps:,}"),
        "final return": _averaged(group, "final_return", _number),
        "final cost": _averaged(group, "final_cost", _number),
        "policy violations": _counted(group, "policy_violations", "policies"),
        "runs with one": _share(broken, len(runs)),
        "episode violations": _counted(group, "episode_violations", "episodes"),
        "worst episode": Cell(_number(group.values("worst_episode_cost").max())),
        "cost rate": _averaged(group, "cost_rate", "{:.4f}".format),
        "cost regret": _regret(group),
        "guard episodes": Cell(
            f"{group.total('guard_episodes'):,} of {group.total('episodes'):,}",
            f"{group.total('guard_episodes') / group.total('episodes'):.1%}",
        ),
    }
    scores = normalised(group)
    if scores is not None:
        row["normalised return"] = shown(interquartile_mean(scores[0]))
        row["normalised violation"] = shown(interquartile_mean(scores[1]))
    return row


def normalised(group: Group) -> tuple[list[float], list[float]] | None:
    """Each run's normalised return and violation; None where no reference exists."""
    returns, violations = [], []
    for run in group.runs:
        score = normalised_return(group.task, run.figures["final_return"])
        excess = normalised_violation(group.task, run.figures["final_cost"], run.episode_budget)
        if score is None or excess is None:
            return None
        returns.append(score)
        violations.append(excess)
    return returns, violations


def pooled_table(groups: dict[str, list[Group]]) -> list[Row]:
    """A row for each recipe and length that was run on several tasks; intervals are stratified."""
    return [_pooled_row(rows) for rows in over_tasks(groups)]


def _pooled_row(groups: Sequence[Group]) -> Row:
    def pooled(numerator: str, denominator: str) -> Cell:
        return _share(
            sum(group.total(numerator) for group in groups),
            sum(group.total(denominator) for group in groups),
        )

    rates = [[run.figures["cost_rate"] / run.budget_rate for run in group.runs] for group in groups]
    scored = [scores for scores in map(normalised, groups) if scores is not None]
    row = {
        "recipe": Cell(groups[0].recipe),
        "steps": Cell(f"{groups[0].steps:,}"),
        "tasks": Cell(str(len(groups)), f"{len(scored)} with scores"),
        "runs": Cell(str(sum(len(group.runs) for group in groups))),
        "policy violations": pooled("policy_violations", "policies"),
        "episode violations": pooled("episode_violations", "episodes"),
        "cost rate / budget's": shown(interquartile_mean(*rates)),
        "normalised return": Cell("-"),
        "normalised violation": Cell("-"),
    }
    if scored:
        for name, scores in zip(list(row)[-2:], zip(*scored, strict=True), strict=True):
            row[name] = shown(interquartile_mean(*scores))
    return row


def published_table(task: str) -> list[Row]:
    """What published methods reach on the task; empty where we know of none."""
    return [
        {
            "method": Cell(method),
            "final return": Cell(_number(figures.episode_return)),
            "final cost": Cell(_number(figures.episode_cost)),
        }
        for method, figures in published(task).items()
    ]


def write_csv(file: Path, groups: dict[str, list[Group]]) -> None:
    """The raw figures, a row a run."""
    keys = ["row", "recipe", "task", "seed", "steps", "episode_budget", "path", "commit"]
    figures = [key for key in (*COUNTS, *COSTS, "final_return") if key not in keys]
    scores = ["normalised_return", "normalised_violation"]
    with file.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, [*keys, *figures, *scores])
        writer.writeheader()
        for group in (group for rows in groups.values() for group in rows):
            found = normalised(group) or ([""] * len(group.runs), [""] * len(group.runs))
            for run, *pair in zip(group.runs, *found, strict=True):
                told: dict[str, Any] = {key: getattr(run, key) for key in keys[1:]}
                told |= {key: run.figures[key] for key in figures}
                writer.writerow({"row": group.name} | told | dict(zip(scores, pair, strict=True)))


def _averaged(group: Group, figure: str, form: Any) -> Cell:
    return shown(interquartile_mean(group.values(figure)), form)


def _counted(group: Group, figure: str, among: str) -> Cell:
    return _share(group.total(figure), group.total(among))


def _share(count: int, trials: int) -> Cell:
    estimate = rate(count, trials)
    return Cell(f"{count:,} of {trials:,}", _interval(estimate, _percent))


def _regret(group: Group) -> Cell:
    """A mean, not an interquartile one, which would hide that one run of five went wrong."""
    values = group.values("cost_regret")
    worst = f"at most {_number(values.max())}" if len(values) > 1 else ""
    return Cell(_number(values.mean()), worst)


def shown(estimate: Estimate, form: Any = "{:.2f}".format) -> Cell:
    """An estimate with its interval, each number as `form` has it."""
    return Cell(form(estimate.value), _interval(estimate, form))


def _interval(estimate: Estimate, form: Any) -> str:
    if np.isnan(estimate.lower):
        return ""
    return f"{form(estimate.lower)} to {form(estimate.upper)}"


def _number(value: float) -> str:
    """Three digits or so: 2,309 or 25.8 or 0.04."""
    size = abs(value)
    return f"{value:,.0f}" if size >= 100 else f"{value:.1f}" if size >= 1 else f"{value:.2g}"


def _percent(value: float) -> str:
    """Two digits below 1%, where the bounds of rare violations lie."""
    return f"{value:.2%}" if 0 < value < 0.01 else f"{value:.1%}"


def _seeds(runs: Iterable[Run]) -> str:
    """0-4 rather than 0, 1, 2, 3, 4."""
    seeds = sorted(run.seed for run in runs)
    if len(seeds) > 2 and seeds == list(range(seeds[0], seeds[-1] + 1)):
        return f"{seeds[0]}-{seeds[-1]}"
    return ", ".join(map(str, seeds))
