"""Run a study: submit its runs, retry killed ones, and make the report at the end."""

import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Protocol

from recipes.studies.definitions import Study
from recipes.studies.folder import write_study
from recipes.studies.planned_run import PlannedRun, RunEnd
from recipes.studies.table import StudyTable

INTERVAL = 0.2  # seconds between two checks of the runs


class Executor(Protocol):
    """Where runs are computed. It queues runs and never retries one."""

    def submit(self, run: PlannedRun) -> None:
        """Start or resume the run as soon as there is room."""

    def running(self) -> set[PlannedRun]:
        """Return the runs that have a process now."""
        ...

    def ended(self) -> list[RunEnd]:
        """Return the runs that ended since the last call."""
        ...

    def interrupt(self) -> None:
        """Interrupt every run, so that it saves its data, and wait until all have ended."""


def run_study(
    study: Study,
    folder: Path,
    executor: Callable[[int], Executor],
    *,
    retries: int,
    report: bool = True,
) -> int:
    """Run what is not done yet, and print where it is; return the exit code, 1 if runs failed.

    Args:
        study: which runs.
        folder: where they go.
        executor: makes an executor for a number of runs.
        retries: see `run_all`.
        report: make the report at the end; otherwise only print the command for it.
    """
    runs = study.runs(folder)
    for run in runs:
        run.state = "done" if run.has_summary() else "waiting"
    save = partial(write_study, folder, study, runs)
    save()
    waiting = sum(run.state == "waiting" for run in runs)
    if waiting:
        executor_of_runs = executor(waiting)
        with StudyTable(runs) as table:
            run_all(runs, executor_of_runs, retries=retries, save=save, show=table.show)
    print(f"the study is in {folder}")
    if any(run.state == "done" for run in runs):
        make_report(folder, report)
    failed = [run for run in runs if run.state == "failed"]
    for run in failed:
        attempts = f"{run.attempts} attempt{'s' * (run.attempts > 1)}"
        message = f"failed: {run.name} after {attempts}: {run.reason}; see {run.log}.err"
        print(message, file=sys.stderr)
    return 1 if failed else 0


def run_all(
    runs: Sequence[PlannedRun],
    executor: Executor,
    *,
    retries: int,
    save: Callable[[], None],
    show: Callable[[], None],
) -> None:
    """Run every waiting run until it is done or failed, and keep the runs' states up to date.

    Args:
        runs: all runs of the study.
        executor: where they are computed.
        retries: how often to retry a run that a signal killed or whose node was lost, >= 0. A run
            that exits with an error is not retried: it would fail again.
        save: called after states have changed.
        show: called several times a second.
    """
    pending = [run for run in runs if run.state == "waiting"]
    for run in pending:
        executor.submit(run)
    try:
        while pending:
            if _update_states(executor, retries):
                save()
            show()
            pending = [run for run in pending if run.state in ("waiting", "running")]
            time.sleep(INTERVAL)
    except BaseException:
        executor.interrupt()
        for run in pending:
            run.state = "done" if run.has_summary() else "waiting"
        save()
        raise


def _update_states(executor: Executor, retries: int) -> bool:
    """Update the runs that started or ended, resubmit killed ones; return whether any changed."""
    running, ended = executor.running(), executor.ended()
    started = [run for run in {*running, *(end.run for end in ended)} if run.state == "waiting"]
    for run in started:
        run.state, run.attempts, run.reason = "running", run.attempts + 1, ""
    for end in ended:
        run = end.run
        if end.code == 0 and run.has_summary():
            run.state = "done"
        elif end.killed and run.attempts <= retries:
            run.state, run.reason = "waiting", end.describe()
            executor.submit(run)
        else:
            run.state, run.reason = "failed", end.describe()
    return bool(started or ended)


def make_report(folder: Path, report: bool) -> None:
    """Print the command that makes the study's report and, if asked, run it."""
    command = ["-m", "recipes.report", str(folder), "--out", str(folder / "report")]
    print(f"its report: python {shlex.join(command)}", flush=True)
    if report and subprocess.run([sys.executable, *command], check=False).returncode:
        print("the report was not made", file=sys.stderr)
