"""Read finished runs for a report, and say why the others are left out."""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from recipes.runs.atomic_files import read_json
from recipes.runs.errors import RunError
from recipes.runs.find import find_runs
from recipes.runs.folder import DESCRIPTION, MAY_DIFFER, RunFolder

COUNTED_AMONG = {
    "policy_violations": "policies",
    "episode_violations": "episodes",
    "guard_episodes": "episodes",
}
COUNTS = ("environment_steps", "episodes", "policies", *COUNTED_AMONG)
COSTS = ("cost_rate", "cost_regret", "worst_episode_cost", "final_cost", "episode_budget")
AUDITED = ("policies", "violations", "at_least", "at_most", "cost_regret", "unguarded_violations")
"""Figures of an audit, with "audited_" before their names; runs without an audit lack them."""
LARGEST = 1e300  # well within a float, so that sums are finite
NOT_SETTINGS = (*DESCRIPTION, *MAY_DIFFER, "task", "seed", "steps", "episode_budget")


class Curve(NamedTuple):
    """Every episode of a run."""

    steps: np.ndarray  # environment steps at its end
    returns: np.ndarray  # undiscounted
    costs: np.ndarray  # undiscounted


@dataclass(frozen=True)
class ReportedRun:
    """One finished run."""

    path: Path
    recipe: str
    task: str
    seed: int
    steps: int  # environment steps asked for
    episode_budget: float  # cost allowed per episode
    settings: dict[str, Any]  # every other hyper-parameter
    commit: str  # of the code; "" if unknown
    figures: dict[str, float]  # every number in the summary; COUNTS, COSTS, final_return always
    curve: Curve | None = None  # None if only the summary is known

    @property
    def family(self) -> tuple[str, bool]:
        """Recipe, and whether only the summary is known: runs whose settings are comparable."""
        return self.recipe, self.curve is None

    @property
    def budget_rate(self) -> float:
        """Cost allowed per environment step; an episode is as long as the longest of the run."""
        if self.curve is None:
            length = self.figures["environment_steps"] / self.figures["episodes"]
        else:
            length = np.diff(self.curve.steps, prepend=0).max()
        return self.episode_budget / float(length)


def read_runs(
    paths: Sequence[Path], by_commit: bool = False
) -> tuple[list[ReportedRun], dict[Path, str]]:
    """Read every run in or beneath the paths; a path may also be a summary file alone.

    Args:
        paths: run folders, folders that contain them, or summary files (`*.json`).
        by_commit: count the commit of the code as a setting.

    Returns:
        The finished runs, and why each of the others is left out.

    Raises:
        RunError: if a path does not exist or holds no run.
    """
    runs, left_out = [], {}
    for path in find_runs(paths):
        try:
            runs.append(_read_run(path, by_commit))
        except RunError as error:
            left_out[path] = str(error)
    return runs, left_out


def _read_run(path: Path, by_commit: bool) -> ReportedRun:
    """Read one run; a RunError says why it cannot be counted."""
    if path.is_file():
        summary = _read_object(path)
        figures, curve = _figures(summary), None
        steps = figures["environment_steps"]
        config = {key: summary.get(key) for key in ("members", "guard_share")}
    else:
        config = _read_object(path / "config.json")
        if not (path / "summary.json").exists():
            progress = _progress(path, config)
            raise RunError(f"no summary.json: unfinished or still running{progress}")
        summary = _read_object(path / "summary.json")
        for key in ("recipe", "task", "seed", "episode_budget"):
            here, there = config.get(key), summary.get(key)
            if here != there:
                raise RunError(f"{key} is {here} in config.json, {there} in summary.json")
        figures, steps = _figures(summary), config.get("steps")
        if not isinstance(steps, int):
            raise RunError(f"steps in config.json is {steps}, not a number")
        if figures["environment_steps"] < steps:
            raise RunError(f"ended after {figures['environment_steps']:,} of {steps:,} steps")
        curve = _curve(path, figures)
        figures |= _audited(path)
    recipe, task, seed = (summary.get(key) for key in ("recipe", "task", "seed"))
    if not (isinstance(recipe, str) and isinstance(task, str) and type(seed) is int):
        raise RunError("summary.json does not say recipe, task and seed")
    commit = _commit(config)
    settings = {key: value for key, value in config.items() if key not in NOT_SETTINGS}
    if by_commit:
        settings["commit"] = commit or "unknown"
    budget = figures["episode_budget"]
    return ReportedRun(
        path, recipe, task, seed, int(steps), budget, settings, commit, figures, curve
    )


def _read_object(file: Path) -> dict[str, Any]:
    content: Any = read_json(file)
    if not isinstance(content, dict):
        raise RunError(f"{file.name} is not a JSON object")
    return content


def _commit(config: dict[str, Any]) -> str:
    """Format the commit like `git describe --dirty`; "" if unknown."""
    commit = config.get("commit")
    if not isinstance(commit, dict) or not commit.get("hash"):
        return ""
    return str(commit["hash"])[:7] + ("-dirty" if commit.get("dirty") else "")


def _figures(summary: dict[str, Any]) -> dict[str, float]:
    """The summary's numbers; a RunError if a required one is missing or impossible."""
    figures: dict[str, float] = {
        key: value
        for key, value in summary.items()
        if type(value) in (int, float) and abs(value) < LARGEST
    }
    for key in (*COUNTS, *COSTS, "final_return"):
        value = figures.get(key)
        if value is None or (key in COUNTS and not isinstance(value, int)):
            raise RunError(f"{key} in summary.json is {summary.get(key)}, not a number")
        if value < 0 and key != "final_return":
            raise RunError(f"{key} in summary.json is {value}, below 0")
    for part, whole in COUNTED_AMONG.items():
        if figures[part] > figures[whole]:
            raise RunError(f"summary.json has {figures[part]} {part} of {figures[whole]} {whole}")
    if not figures["episodes"]:
        raise RunError("summary.json has no episodes")
    return figures


def _audited(path: Path) -> dict[str, float]:
    """The figures of the run's audit; empty without one."""
    if not (path / "audit.json").exists():
        return {}
    audit = _read_object(path / "audit.json")
    try:
        deployed = audit["deployed"]
        bounds = deployed["claim_expected_cost"]
        values = (
            *(audit["policies"], deployed["violations"], bounds["at_least"], bounds["at_most"]),
            *(deployed["cost_regret"], audit["unguarded"]["violations"]),
        )
        return {f"audited_{name}": float(v) for name, v in zip(AUDITED, values, strict=True)}
    except (KeyError, TypeError, ValueError) as error:
        raise RunError("audit.json lacks a figure; audit the run again") from error


def _curve(path: Path, figures: dict[str, float]) -> Curve:
    """The episodes, if their number, length and cost agree with the summary."""
    if not (path / "metrics.jsonl").exists():
        raise RunError("no metrics.jsonl")
    try:
        with warnings.catch_warnings(action="error", category=UserWarning):
            rows = RunFolder(path).read_metrics("episode")
    except UserWarning:
        raise RunError("metrics.jsonl ends in a half-written line") from None
    except OSError as error:
        raise RunError(f"metrics.jsonl cannot be read: {error.strerror}") from error
    except (KeyError, TypeError) as error:
        raise RunError("metrics.jsonl has a line that is no metric") from error
    try:
        columns = [[row[k] for row in rows] for k in ("step", "episode_return", "episode_cost")]
        curve = Curve(*(np.array(column, dtype=float) for column in columns))
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(f"metrics.jsonl has an episode without its figures ({error})") from error
    if not np.isfinite(curve).all() or (np.diff(curve.steps, prepend=0) <= 0).any():
        raise RunError("metrics.jsonl has episodes out of order, or figures that are not finite")
    steps = figures["environment_steps"]
    for what, found, expected in (
        ("episodes", len(rows), figures["episodes"]),
        ("environment steps", curve.steps[-1] if rows else 0, steps),
        ("cost", curve.costs.sum(), figures["cost_rate"] * steps),
    ):
        if not math.isclose(found, expected, rel_tol=1e-6, abs_tol=1e-6):
            raise RunError(f"metrics.jsonl has {found:g} {what}, summary.json {expected:g}")
    return curve


def _progress(path: Path, config: dict[str, Any]) -> str:
    """How far an unfinished run has come, if known."""
    try:
        with warnings.catch_warnings(action="ignore", category=UserWarning):
            steps = RunFolder(path).read_metrics("episode")[-1]["step"]
        return f" ({steps:,} of {config['steps']:,} steps)"
    except (OSError, IndexError, KeyError, TypeError, ValueError):
        return ""
