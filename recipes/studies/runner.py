"""Run a study: submit its runs, retry killed ones, and make the report at the end."""

import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from recipes.studies.definitions import Study
from recipes.studies.planned_run import PlannedRun, RunEnd
from recipes.studies.table import StudyTable

INTERVAL = 0.2  # seconds between two checks of the runs


class Executor(Protocol):
    """Where runs are computed. It queues runs and never retries one."""

    def submit(self, run: PlannedRun) -> None:
        """Start or resume the run as soon as there is room."""

    def ended(self) -> list[RunEnd]:
        """Start runs if there is room; return those that ended since the last call."""
        ...

    def interrupt(self) -> None:
        """Interrupt every run, so that it saves its data, and wait until all have ended."""


def run_study(
    study: Study,
    folder: Path,
    executor_for: Callable[[int], Executor],
    *,
    retries: int,
    report: bool = True,
    audit: int = 0,
) -> int:
    """Run what is not done yet, and print where it is; return the exit code, 1 if runs failed.

    Args:
        executor_for: returns the executor for a number of runs.
        report: make the report at the end; otherwise only print the command for it.
        audit: rollouts of each policy in an audit after each run; 0: no audits.
    """
    runs = study.runs(folder, audit)
    for run in runs:
        run.state = "done" if run.is_done() else "waiting"
    waiting = sum(run.state == "waiting" for run in runs)
    if waiting:
        executor = executor_for(waiting)
        with StudyTable(runs) as table:
            run_all(runs, executor, retries=retries, show=table.show)
    print(f"the study is in {folder}")
    if any(run.has_summary() for run in runs):
        make_report(folder, report)
    failed = [run for run in runs if run.state == "failed"]
    for run in failed:
        attempts = f"{run.attempts} attempt{'s' * (run.attempts > 1)}"
        message = f"failed: {run.name} after {attempts}: {run.reason}; see {run.log}.err"
        print(message, file=sys.stderr)
    return 1 if failed else 0


def run_all(
    runs: Sequence[PlannedRun], executor: Executor, *, retries: int, show: Callable[[], None]
) -> None:
    """Run every waiting run until it is done or failed, and keep the runs' states up to date.

    Args:
        retries: how often to retry a run that a signal killed or whose node was lost, >= 0. A run
            that exits with an error is not retried: it would fail again.
        show: called several times a second.
    """
    pending = [run for run in runs if run.state == "waiting"]
    for run in pending:
        submit(run, executor)
    try:
        while pending:
            for end in executor.ended():
                settle(end, executor, retries)
            for run in pending:  # a run's process first writes where it runs
                if run.state == "waiting" and run.log_size() > run.earlier_log:
                    run.state, run.reason = "running", ""
            show()
            pending = [run for run in pending if run.state in ("waiting", "running")]
            time.sleep(INTERVAL)
    except BaseException:
        executor.interrupt()
        raise


def submit(run: PlannedRun, executor: Executor) -> None:
    run.attempts, run.earlier_log = run.attempts + 1, run.log_size()
    run.auditing = run.has_summary()
    executor.submit(run)


def settle(end: RunEnd, executor: Executor, retries: int) -> None:
    """Update the state of a run that has ended; resubmit a killed one."""
    run = end.run
    if end.code == 0 and run.is_done():
        run.state, run.reason = "done", ""
    elif end.code == 0 and run.has_summary() and not run.auditing:
        run.state, run.reason, run.attempts = "waiting", "finished, to be audited", 0
        submit(run, executor)
    elif end.killed and run.attempts <= retries:
        run.state, run.reason = "waiting", end.describe()
        submit(run, executor)
    else:
        run.state, run.reason = "failed", end.describe()


def make_report(folder: Path, report: bool) -> None:
    """Print the command that makes the study's report and, if asked, run it."""
    command = ["-m", "recipes.report", str(folder), "--out", str(folder / "report")]
    print(f"its report: python {shlex.join(command)}", flush=True)
    if report and subprocess.run([sys.executable, *command], check=False).returncode:
        print("the report was not made", file=sys.stderr)
