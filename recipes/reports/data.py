"""Reads run folders for a report: what each finished run came to, and why others are left out."""

import math
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from recipes.runs.atomic_files import read_json
from recipes.runs.errors import RunError
from recipes.runs.folder import DESCRIPTION, MAY_DIFFER, RunFolder

A_RUN_HOLDS = ("config.json", "metrics.jsonl", "summary.json")
COUNTS = (
    "environment_steps",
    "episodes",
    "policies",
    "policy_violations",
    "episode_violations",
    "guard_episodes",
)
COSTS = ("cost_rate", "cost_regret", "worst_episode_cost", "final_cost", "episode_budget")
LARGEST = 1e300  # what a float holds, with room to add up
COUNTED_AMONG = {
    "policy_violations": "policies",
    "episode_violations": "episodes",
    "guard_episodes": "episodes",
}
NOT_SETTINGS = (*DESCRIPTION, *MAY_DIFFER, "task", "seed", "steps", "episode_budget")


class Curve(NamedTuple):
    """Every episode of a run."""

    steps: np.ndarray  # environment steps at its end
    returns: np.ndarray  # undiscounted
    costs: np.ndarray  # undiscounted


@dataclass(frozen=True)
class Run:
    """One finished run."""

    path: Path
    recipe: str
    task: str
    seed: int
    steps: int  # environment steps asked for
    episode_budget: float  # cost allowed per episode
    settings: dict[str, Any]  # every other hyper-parameter
    commit: str  # of the code; "" if unknown
    figures: dict[str, float]  # the summary's counts, costs and final return
    curve: Curve | None = None  # None where only the summary is there

    @property
    def budget_rate(self) -> float:
        """Cost allowed per environment step; an episode is as long as the longest of the run."""
        if self.curve is None:
            length = self.figures["environment_steps"] / self.figures["episodes"]
        else:
            length = np.diff(self.curve.steps, prepend=0).max()
        return self.episode_budget / float(length)


class LeftOut(NamedTuple):
    """A run that is in no average, and why."""

    path: Path
    reason: str


def read_runs(paths: Sequence[Path], by_commit: bool = False) -> tuple[list[Run], list[LeftOut]]:
    """Every run in or beneath the paths; a path may also be a summary file alone.

    Args:
        paths: run folders, folders that contain some, or summary files (`*.json`).
        by_commit: the commit of the code counts as a setting.

    Raises:
        RunError: if a path does not exist or holds no run.
    """
    runs, left_out = [], []
    for path in find_runs(paths):
        try:
            runs.append(_read_run(path, by_commit))
        except RunError as error:
            left_out.append(LeftOut(path, str(error)))
    return runs, left_out


def find_runs(paths: Sequence[Path]) -> list[Path]:
    """Every run folder, finished or not, in or beneath the paths, and every summary file named."""
    found: dict[Path, Path] = {}
    for path in paths:
        if path.name == "summary.json" and (path.parent / "config.json").exists():
            beneath = [path.parent]
        elif path.is_file() and path.suffix == ".json":
            beneath = [path]
        elif path.is_dir():
            beneath = _beneath(path)
        else:
            raise RunError(f"there is no run folder {path}")
        if not beneath:
            raise RunError(f"{path} holds no run (none of {', '.join(A_RUN_HOLDS)})")
        for run in beneath:
            found.setdefault(run.resolve(), run)
    return list(found.values())


def _beneath(folder: Path) -> list[Path]:
    found = []
    for here, folders, files in os.walk(folder):
        folders.sort()
        if not set(files).isdisjoint(A_RUN_HOLDS):
            found.append(Path(here))
            folders.clear()  # what a run holds is no run
    return found


def _read_run(path: Path, by_commit: bool) -> Run:
    """One run; a RunError says why it cannot be counted."""
    if path.is_file():
        summary = _mapping(read_json(path), path.name)
        settings = {key: summary.get(key) for key in ("members", "guard_share")}
        figures = _figures(summary)
        return _run(path, summary, figures["environment_steps"], settings, "", figures, None)
    folder = RunFolder(path)
    config = _mapping(folder.read_config(), "config.json")
    if not (path / "summary.json").exists():
        raise RunError(f"no summary.json: unfinished or still running{_progress(folder, config)}")
    summary = _mapping(folder.read_summary(), "summary.json")
    for key in ("recipe", "task", "seed", "episode_budget"):
        if config.get(key) != summary.get(key):
            raise RunError(
                f"{key} is {config.get(key)} in config.json, {summary.get(key)} in summary.json"
            )
    figures = _figures(summary)
    steps = config.get("steps")
    if not isinstance(steps, int):
        raise RunError(f"steps in config.json is {steps}, not a number")
    if figures["environment_steps"] < steps:
        raise RunError(f"ended after {figures['environment_steps']:,} of {steps:,} steps")
    commit = _commit(config)
    settings = {key: value for key, value in config.items() if key not in NOT_SETTINGS}
    if by_commit:
        settings["commit"] = commit or "unknown"
    return _run(path, summary, steps, settings, commit, figures, _curve(folder, figures))


def _commit(config: dict[str, Any]) -> str:
    """As `git describe --dirty` would have it; "" if unknown."""
    told = config.get("commit")
    if not isinstance(told, dict) or not told.get("hash"):
        return ""
    return str(told["hash"])[:7] + ("-dirty" if told.get("dirty") else "")


def _run(
    path: Path,
    summary: dict[str, Any],
    steps: float,
    settings: dict[str, Any],
    commit: str,
    figures: dict[str, float],
    curve: Curve | None,
) -> Run:
    recipe, task, seed = (summary.get(key) for key in ("recipe", "task", "seed"))
    if not (isinstance(recipe, str) and isinstance(task, str) and type(seed) is int):
        raise RunError("summary.json does not say recipe, task and seed")
    budget = figures["episode_budget"]
    return Run(path, recipe, task, seed, int(steps), budget, settings, commit, figures, curve)


def _figures(summary: dict[str, Any]) -> dict[str, float]:
    """The summary's numbers, each possible by itself and beside the others."""
    figures: dict[str, float] = {}
    for key in (*COUNTS, *COSTS, "final_return"):
        value = summary.get(key)
        right = isinstance(value, int if key in COUNTS else (int, float))
        if not right or isinstance(value, bool) or not abs(value) < LARGEST:
            raise RunError(f"{key} in summary.json is {value}, not a number")
        if value < 0 and key != "final_return":
            raise RunError(f"{key} in summary.json is {value}, below 0")
        figures[key] = value
    for part, whole in COUNTED_AMONG.items():
        if figures[part] > figures[whole]:
            told = f"{figures[part]} {part} of {figures[whole]} {whole}"
            raise RunError(f"summary.json has {told}")
    if not figures["episodes"]:
        raise RunError("summary.json has no episodes")
    return figures


def _curve(folder: RunFolder, figures: dict[str, float]) -> Curve:
    """The episodes, if they are as many, as long and as costly as the summary says."""
    if not (folder.path / "metrics.jsonl").exists():
        raise RunError("no metrics.jsonl")
    rows = _episodes(folder)
    try:
        columns = [[row[k] for row in rows] for k in ("step", "episode_return", "episode_cost")]
        curve = Curve(*(np.array(column, dtype=float) for column in columns))
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(f"metrics.jsonl has an episode without its figures ({error})") from error
    if not np.isfinite(curve).all() or (np.diff(curve.steps, prepend=0) <= 0).any():
        raise RunError("metrics.jsonl has episodes out of order, or figures that are not finite")
    told = {
        "episodes": (len(rows), figures["episodes"]),
        "environment steps": (curve.steps[-1] if rows else 0, figures["environment_steps"]),
        "cost": (curve.costs.sum(), figures["cost_rate"] * figures["environment_steps"]),
    }
    for what, (lines, summary) in told.items():
        if not math.isclose(lines, summary, rel_tol=1e-6, abs_tol=1e-6):
            raise RunError(f"metrics.jsonl has {lines:g} {what}, summary.json {summary:g}")
    return curve


def _episodes(folder: RunFolder) -> list[dict[str, Any]]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            return folder.read_metrics("episode")
    except UserWarning:
        raise RunError("metrics.jsonl ends in a half-written line") from None
    except OSError as error:
        raise RunError(f"metrics.jsonl cannot be read: {error.strerror}") from error
    except (KeyError, TypeError) as error:
        raise RunError("metrics.jsonl has a line that is no metric") from error


def _progress(folder: RunFolder, config: dict[str, Any]) -> str:
    """How far an unfinished run is, if its lines say."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # a line may be half-written just now
            steps = folder.read_metrics("episode")[-1]["step"]
        return f" ({steps:,} of {config['steps']:,} steps)"
    except (OSError, IndexError, KeyError, TypeError, ValueError):
        return ""


def _mapping(content: Any, name: str) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise RunError(f"{name} is not a JSON object")
    return content
