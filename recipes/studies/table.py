"""View of a study while it runs, read from the runs' folders."""

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


class StudyTable(Progress):
    """Prints each change of a run's state, and how far the study is.

    In a terminal a table below shows the study and each running run; elsewhere a line about the
    study is printed every 30 seconds.

        with StudyTable(runs) as table:
            table.show()

    Args:
        runs: all runs of the study; the caller keeps their states up to date.
    """

    def __init__(self, runs: Sequence[PlannedRun], console: Console | None = None) -> None:
        console = console or Console()
        super().__init__(
            *("{task.description}", BarColumn(20), TimeRemainingColumn(), "{task.fields[results]}"),
            console=console,
            auto_refresh=False,
            speed_estimate_period=SPEED_WINDOW,
            disable=not console.is_terminal,
        )
        self._study = self.add_task("", total=len(runs), results="")
        self._rows = {run: self.add_task(run.name, visible=False) for run in runs}
        self._shown = {run: (run.state, run.reason) for run in runs}
        self._next_refresh = 0.0
        for run in runs:
            self._read(run)

    def show(self) -> None:
        """Print changes; update the table or print a line if that is due."""
        due = time.monotonic() >= self._next_refresh
        for run, shown in self._shown.items():
            if shown != (run.state, run.reason):
                self._shown[run] = run.state, run.reason
                results = self._read(run)
                line = f"{run.name} {run.state}: {run.reason or results}".removesuffix(": ")
                self.console.print(line, soft_wrap=True, highlight=False, markup=False)
            elif due and run.state == "running":
                self._read(run)
        if due:
            interval = PLAIN_INTERVAL if self.disable else REFRESH
            self._next_refresh = time.monotonic() + interval
            self._show_study()

    def _show_study(self) -> None:
        counts = Counter(run.state for run in self._rows)
        text = f"{counts.pop('done', 0)} of {len(self._rows)} runs done"
        text += "".join(f", {count} {state}" for state, count in sorted(counts.items()))
        study, *rows = self.tasks
        done = sum(row.percentage for row in rows) / 100
        self.update(self._study, description=text, completed=done, refresh=True)
        if self.disable:
            self.console.print(self.make_tasks_table([study]))

    def _read(self, run: PlannedRun) -> str:
        """Update the run's row; return its results."""
        progress = read_progress(run.folder)
        self.update(self._rows[run], visible=run.state == "running", **progress._asdict())
        return progress.results


class RunProgress(NamedTuple):
    """How far a run is."""

    completed: int = 0  # environment steps
    total: int | None = None
    results: str = ""  # steps, return and cost of the last episode, policy violations


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
        EpisodeRecord(
            row["iterate"],
            row["episode_cost"],
            row["episode_return"],
            length,
            terminated=row.get("terminated", False),
        )
        for row, length in zip(rows, steps, strict=True)
    ]
    summary = safety_summary(records, episode_budget=episode_budget, episode_length=max(steps))
    return summary.policy_violations
