"""View of a study while it runs, read from the runs' folders."""

from __future__ import annotations

import time
import warnings
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.progress import BarColumn, Progress, TimeRemainingColumn

from blocks import EpisodeRecord, safety_summary
from recipes.runs.errors import RunError
from recipes.runs.folder import RunFolder
from recipes.studies.planned_run import PlannedRun
from recipes.training.progress import PLAIN_INTERVAL

REFRESH = 1.0  # seconds between updates in a terminal
SPEED_WINDOW = 600.0  # seconds over which speeds are averaged


class StudyTable:
    """Prints each change of a run's state, and how far the study is.

    A terminal shows that below, in place, with a row for each running run; elsewhere it is a line
    every 30 seconds.

        with StudyTable(runs) as table:
            table.show()

    Args:
        runs: all runs of the study; the caller keeps their states up to date.
    """

    def __init__(self, runs: Sequence[PlannedRun], console: Console | None = None) -> None:
        self._console = console or Console()
        self._rows = Progress(
            *("{task.description}", BarColumn(20), TimeRemainingColumn(), "{task.fields[results]}"),
            console=self._console,
            auto_refresh=False,
            speed_estimate_period=SPEED_WINDOW,
            disable=not self._console.is_terminal,
        )
        self._study = self._rows.add_task("", total=len(runs), results="")
        self._tasks = {run: self._rows.add_task(run.name, visible=False) for run in runs}
        self._states = {run: run.state for run in runs}
        self._next_refresh = 0.0
        for run in runs:
            self._read(run)

    def __enter__(self) -> StudyTable:
        self._rows.start()
        self.show()
        return self

    def __exit__(self, *_: object) -> None:
        self._next_refresh = 0.0
        self.show()
        self._rows.stop()

    def show(self) -> None:
        """Print changes; update the rows or print a line if that is due."""
        for run, state in self._states.items():
            if run.state != state:
                self._states[run] = run.state
                note = run.reason or self._read(run)
                line = f"{run.name} {run.state}" + (f": {note}" if note else "")
                self._console.print(line, soft_wrap=True, highlight=False, markup=False)
        now = time.monotonic()
        if now >= self._next_refresh:
            self._next_refresh = now + (REFRESH if self._console.is_terminal else PLAIN_INTERVAL)
            self._refresh()

    def _refresh(self) -> None:
        for run in self._tasks:
            if run.state == "running":
                self._read(run)
        counts = Counter(self._states.values())
        text = f"{counts['done']} of {len(self._tasks)} runs done"
        for state in ("running", "failed", "waiting"):
            text += f", {counts[state]} {state}" if counts[state] else ""
        study, *tasks = self._rows.tasks
        done = sum(task.percentage for task in tasks) / 100
        self._rows.update(self._study, description=text, completed=done, refresh=True)
        if not self._console.is_terminal:
            self._console.print(self._rows.make_tasks_table([study]))

    def _read(self, run: PlannedRun) -> str:
        """Update the run's row; return its results."""
        progress = read_progress(run.folder)
        self._rows.update(
            self._tasks[run], visible=run.state == "running", **progress._asdict()
        )
        return progress.results


class RunProgress(NamedTuple):
    """How far a run is."""

    completed: int = 0
    """Environment steps so far."""
    total: int | None = None
    results: str = ""
    """Steps, return and cost of the last episode, and policy violations so far."""


def read_progress(folder: Path) -> RunProgress:
    """Read how far the run in `folder` is; a missing run has made no progress."""
    run = RunFolder(folder)
    try:
        config = run.read_config()
        total, budget = config["steps"], config["episode_budget"]
        with warnings.catch_warnings():  # the last line may be half written
            warnings.simplefilter("ignore")
            rows = run.read_metrics("episode")
    except (RunError, OSError, KeyError):
        return RunProgress()
    if not rows:
        return RunProgress(total=total)
    step, cost = rows[-1]["step"], rows[-1]["episode_cost"]
    results = (
        f"{step:,}/{total:,} steps, return {rows[-1]['episode_return']:.1f}, "
        f"cost {cost:.1f}/{budget:g}, violations {_violations(rows, budget)}"
    )
    return RunProgress(step, total, results)


def _violations(rows: list[dict[str, Any]], episode_budget: float) -> int:
    steps = [after - before for before, after in pairwise([0, *(row["step"] for row in rows)])]
    records = [
        EpisodeRecord(row["iterate"], row["episode_cost"], row["episode_return"], length)
        for row, length in zip(rows, steps, strict=True)
    ]
    summary = safety_summary(records, episode_budget=episode_budget, episode_length=max(steps))
    return summary.policy_violations
