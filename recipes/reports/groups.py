"""Group runs that differ only in the seed, and compare the groups pair by pair."""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np

from recipes.reports.data import ReportedRun, read_runs
from recipes.reports.statistics import Estimate, improvement
from recipes.runs.errors import RunError

COMPARED = {
    "final_return": "higher final return",
    "policy_violations": "fewer policy violations",
    "cost_rate": "lower cost rate",
}
"""The figures on which recipes are compared, and which direction is better."""
Item = TypeVar("Item")
Key = TypeVar("Key")


@dataclass(frozen=True)
class Group:
    """Runs that differ only in the seed: one row of the report."""

    task: str
    recipe: str  # with the settings that distinguish it from others of the same recipe
    steps: int
    name: str  # the recipe, with the steps if runs of the task have different lengths
    runs: tuple[ReportedRun, ...]

    def values(self, figure: str) -> np.ndarray:
        return np.array([run.figures[figure] for run in self.runs], dtype=float)

    def total(self, figure: str) -> int:
        return int(self.values(figure).sum())


class Pairs(NamedTuple):
    """Recipes of one length: for each figure in `COMPARED`, the probability that one is better."""

    names: tuple[str, ...]
    steps: int
    better: dict[str, dict[tuple[int, int], Estimate]]  # by positions in `names`


def read_groups(
    paths: Sequence[Path], by_commit: bool = False
) -> tuple[dict[str, list[Group]], dict[Path, str]]:
    """Read, check and group all runs in or beneath the paths.

    Returns:
        The groups of each task, and why each of the other runs is left out.

    Raises:
        RunError: if there is no finished run, or runs must not be averaged (see `check`).
    """
    runs, left_out = read_runs(paths, by_commit)
    if not runs:
        reasons = "; ".join(f"{path}: {reason}" for path, reason in left_out.items())
        raise RunError(f"no finished run to report on: {reasons or 'no path was given'}")
    check(runs)
    return group_runs(runs), left_out


def check(runs: Sequence[ReportedRun]) -> None:
    """Refuse runs that must not be in one report.

    Raises:
        RunError: if runs of one task have different episode budgets, or one run is there twice.
    """
    for task, (first, *others) in collect(runs, lambda run: run.task).items():
        for run in others:
            if run.episode_budget != first.episode_budget:
                raise RunError(
                    f"{task}: {first.path} has an episode budget of {first.episode_budget:g}, "
                    f"{run.path} of {run.episode_budget:g}: make one report for each budget"
                )
    for first, *others in collect(runs, _identity).values():
        if others:
            commits = {run.commit for run in (first, *others)}
            advice = ": --by-commit separates them" if len(commits) > 1 else ""
            raise RunError(
                f"{first.path} and {others[0].path} are the same run: {first.recipe}, "
                f"{first.task}, seed {first.seed} and every setting{advice}"
            )


def group_runs(runs: Sequence[ReportedRun]) -> dict[str, list[Group]]:
    """The groups of each task, in the order of the runs."""
    groups: dict[str, list[Group]] = {}
    named = zip(_names(runs), runs, strict=True)
    for task, of_task in collect(named, lambda pair: pair[1].task).items():
        rows = collect(of_task, lambda pair: (pair[0], pair[1].steps))
        several = len({steps for _, steps in rows}) > 1
        groups[task] = [
            Group(
                task,
                recipe,
                steps,
                f"{recipe}, {steps / 1000:g}k steps" if several else recipe,
                tuple(run for _, run in members),
            )
            for (recipe, steps), members in rows.items()
        ]
    return groups


def over_tasks(groups: dict[str, list[Group]]) -> list[list[Group]]:
    """For each recipe and length that was run on several tasks, the groups, one for each task."""
    every = (group for rows in groups.values() for group in rows)
    recipes = collect(every, lambda group: (group.recipe, group.steps))
    return [rows for rows in recipes.values() if len(rows) > 1]


def compare(entrants: Sequence[Sequence[Group]]) -> list[Pairs]:
    """Compare recipes, with one `Pairs` for each length that at least two of them have.

    Args:
        entrants: each recipe's groups, one for each task, all of the same number of steps.
    """
    return [
        Pairs(
            tuple(groups[0].recipe for groups in rivals),
            steps,
            {figure: _improvements(rivals, figure) for figure in COMPARED},
        )
        for steps, rivals in collect(entrants, lambda groups: groups[0].steps).items()
        if len(rivals) > 1
    ]


def differing(runs: Sequence[ReportedRun]) -> list[str]:
    """The settings in which the runs differ, in the order of the configuration."""
    keys = dict.fromkeys(key for run in runs for key in run.settings)
    return [key for key in keys if len({_shown(run, key) for run in runs}) > 1]


def collect(items: Iterable[Item], key: Callable[[Item], Key]) -> dict[Key, list[Item]]:
    """The items of each key; keys and items keep their order."""
    found: dict[Key, list[Item]] = {}
    for item in items:
        found.setdefault(key(item), []).append(item)
    return found


def _identity(run: ReportedRun) -> tuple[object, ...]:
    settings = sorted((key, _shown(run, key)) for key in run.settings)
    return run.recipe, run.task, run.seed, run.steps, *settings


def _names(runs: Sequence[ReportedRun]) -> list[str]:
    """The recipe, and the fewest settings that distinguish runs of one task."""
    keys: dict[tuple[str, bool], dict[str, None]] = {}
    for (_, family), same in collect(runs, lambda run: (run.task, run.family)).items():
        keys.setdefault(family, {}).update(dict.fromkeys(_distinguishing(same)))
    mixed = len({run.curve is None for run in runs}) > 1
    names = []
    for run in runs:
        words = [run.recipe, *(f"{key}={_shown(run, key)}" for key in keys[run.family])]
        if mixed and run.curve is None:
            words.append("summary only")
        names.append(", ".join(words))
    return names


def _distinguishing(runs: Sequence[ReportedRun]) -> list[str]:
    """Settings, taken in order, each of which separates runs that those before it do not."""
    chosen: list[str] = []
    kinds = 1
    for key in differing(runs):
        found = len({tuple(_shown(run, k) for k in (*chosen, key)) for run in runs})
        if found > kinds:
            chosen, kinds = [*chosen, key], found
    return chosen


def _shown(run: ReportedRun, key: str) -> str:
    """A setting as text; 1.0 is shown as 1, since configurations have either."""
    value = run.settings.get(key, "not recorded")
    if isinstance(value, str):
        return value
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return json.dumps(value, sort_keys=True)


def _improvements(
    rivals: Sequence[Sequence[Group]], figure: str
) -> dict[tuple[int, int], Estimate]:
    """Every pair in both directions, except pairs without a common task."""
    higher = COMPARED[figure].startswith("higher")
    found = {}
    for i, j in combinations(range(len(rivals)), 2):
        first, second = ({g.task: g.values(figure) for g in rivals[k]} for k in (i, j))
        common = [task for task in first if task in second]
        if common:
            over = improvement([first[t] for t in common], [second[t] for t in common])
            under = Estimate(1 - over.value, 1 - over.upper, 1 - over.lower)
            found[i, j], found[j, i] = (over, under) if higher else (under, over)
    return found
