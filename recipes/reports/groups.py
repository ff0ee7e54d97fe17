"""Which runs may be averaged: those that differ in nothing but the seed.

`check` refuses runs that must not stand in one report at all.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from recipes.reports.data import Run
from recipes.runs.errors import RunError


@dataclass(frozen=True)
class Group:
    """Runs that differ in nothing but the seed: a row of the report."""

    task: str
    recipe: str  # and what tells it from others of the same recipe
    steps: int
    name: str  # the recipe, and the steps where a task has runs of several lengths
    runs: tuple[Run, ...]

    def values(self, figure: str) -> np.ndarray:
        return np.array([run.figures[figure] for run in self.runs], dtype=float)

    def total(self, figure: str) -> int:
        return int(self.values(figure).sum())


def check(runs: Sequence[Run]) -> None:
    """Refuse runs that must not stand in one report.

    Raises:
        RunError: if runs of one task have different episode budgets, or one run is there twice.
    """
    budgets: dict[str, Run] = {}
    seen: dict[tuple[object, ...], Run] = {}
    for run in runs:
        first = budgets.setdefault(run.task, run)
        if run.episode_budget != first.episode_budget:
            raise RunError(
                f"{run.task}: {first.path} has an episode budget of {first.episode_budget:g}, "
                f"{run.path} of {run.episode_budget:g}: report each budget by itself"
            )
        settings = sorted((key, _shown(run, key)) for key in run.settings)
        identity = (run.recipe, run.task, run.seed, run.steps, *settings)
        twin = seen.setdefault(identity, run)
        if twin is not run:
            commits = {run.commit, twin.commit}
            advice = ": --by-commit tells them apart" if len(commits) > 1 else ""
            raise RunError(
                f"{twin.path} and {run.path} are the same run: {run.recipe}, {run.task}, seed "
                f"{run.seed} and every setting{advice}"
            )


def group_runs(runs: Sequence[Run]) -> dict[str, list[Group]]:
    """The rows of each task, in the order in which the runs came."""
    names = _names(runs)
    tasks: dict[str, dict[tuple[str, int], list[Run]]] = {}
    for run, name in zip(runs, names, strict=True):
        tasks.setdefault(run.task, {}).setdefault((name, run.steps), []).append(run)
    groups: dict[str, list[Group]] = {}
    for task, rows in tasks.items():
        lengths = {steps for _, steps in rows}
        groups[task] = [
            Group(task, name, steps, _with_length(name, steps, len(lengths) > 1), tuple(members))
            for (name, steps), members in rows.items()
        ]
    return groups


def over_tasks(groups: dict[str, list[Group]]) -> list[list[Group]]:
    """The groups, one a task, of each recipe that was run for as many steps on several tasks."""
    recipes: dict[tuple[str, int], list[Group]] = {}
    for group in (group for rows in groups.values() for group in rows):
        recipes.setdefault((group.recipe, group.steps), []).append(group)
    return [rows for rows in recipes.values() if len(rows) > 1]


def differing(runs: Iterable[Run]) -> list[str]:
    """The settings in which the runs differ, in the order of the configuration."""
    values: dict[str, set[str]] = {}
    runs = list(runs)
    for key in dict.fromkeys(key for run in runs for key in run.settings):
        values[key] = {_shown(run, key) for run in runs}
    return [key for key, found in values.items() if len(found) > 1]


def _names(runs: Sequence[Run]) -> list[str]:
    """The recipe, and the fewest settings that tell runs of one task with other settings apart."""
    keys: dict[tuple[str, bool], list[str]] = {}

    def family(run: Run) -> tuple[str, bool]:
        return run.recipe, run.curve is None

    for task in dict.fromkeys(run.task for run in runs):
        members = sorted((run for run in runs if run.task == task), key=family)
        for kind, of_kind in groupby(members, family):
            needed = keys.setdefault(kind, [])
            needed += [key for key in _distinguishing(list(of_kind)) if key not in needed]
    summaries = {run.curve is None for run in runs} == {True, False}
    return [
        ", ".join(
            [
                run.recipe,
                *(f"{key}={_shown(run, key)}" for key in keys[family(run)]),
                *(["summary only"] if summaries and run.curve is None else []),
            ]
        )
        for run in runs
    ]


def _distinguishing(runs: list[Run]) -> list[str]:
    """Settings, taken in order, each of which tells apart runs that those before it do not."""
    chosen: list[str] = []
    kinds = 1
    for key in differing(runs):
        told = len({tuple(_shown(run, k) for k in (*chosen, key)) for run in runs})
        if told > kinds:
            chosen, kinds = [*chosen, key], told
    return chosen


def _with_length(name: str, steps: int, several: bool) -> str:
    return f"{name}, {steps / 1000:g}k steps" if several else name


def _shown(run: Run, key: str) -> str:
    """A setting as text; 1.0 is 1, since a configuration may have been written either way."""
    value = run.settings.get(key, "not recorded")
    if isinstance(value, str):
        return value
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return json.dumps(value, sort_keys=True)
