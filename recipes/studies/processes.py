"""Processes of runs, and an executor that runs a few of them at once on this machine."""

import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path

from recipes.studies.planned_run import PlannedRun, RunEnd

START_RUN = Path(__file__).parent / "start_run.py"
AUDIT = Path(__file__).parents[1] / "audit.py"
ONE_THREAD = ("--threads", "1")
NO_VIDEO = {"MUJOCO_GL": "disabled"}  # drawing one takes longer than a tiny run


def launch(run: PlannedRun, arguments: Sequence[str] = ()) -> subprocess.Popen[bytes]:
    """Start or resume the run, or the audit of a finished one, in a new process.

    The process appends its output to the run's log.
    """
    task, recipe = "train", (run.script, "--task", run.task, "--seed", run.seed, *run.settings)
    if run.audit and run.has_summary():
        processes = 1 if arguments == ONE_THREAD else 2
        task, recipe = "audit", (AUDIT, "--rollouts", run.audit, "--processes", processes)
        arguments = ()
    words = ("-I", "-S", START_RUN, os.getpid(), task, run.folder, *recipe, *arguments)
    run.log.parent.mkdir(parents=True, exist_ok=True)
    with Path(f"{run.log}.out").open("ab") as out, Path(f"{run.log}.err").open("ab") as err:
        return subprocess.Popen(
            [sys.executable, *map(str, words)],
            env=os.environ | (NO_VIDEO if "--smoke" in run.settings else {}),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            start_new_session=True,  # so that a Ctrl-C reaches it only through us
        )


def interrupt(processes: Sequence[subprocess.Popen[bytes]], grace: float = 30.0) -> None:
    """Interrupt runs so that they save their data; kill those still alive after `grace` seconds."""
    try:
        for process in processes:
            process.send_signal(signal.SIGINT)  # does nothing if the process has ended
        deadline = time.monotonic() + grace
        for process in processes:
            process.wait(max(0.0, deadline - time.monotonic()))
    except (KeyboardInterrupt, subprocess.TimeoutExpired):  # a second Ctrl-C kills at once
        pass
    finally:
        for process in processes:
            process.kill()
            process.wait()


def available_cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class LocalExecutor:
    """Runs at most `jobs` runs at once on this machine."""

    def __init__(self, jobs: int) -> None:
        self.jobs = jobs
        # A run uses two threads by default.
        self._arguments = ONE_THREAD if 2 * jobs > available_cores() else ()
        self._queue: deque[PlannedRun] = deque()
        self._processes: dict[PlannedRun, subprocess.Popen[bytes]] = {}

    def submit(self, run: PlannedRun) -> None:
        self._queue.append(run)

    def ended(self) -> list[RunEnd]:
        while self._queue and len(self._processes) < self.jobs:
            run = self._queue.popleft()
            self._processes[run] = launch(run, self._arguments)
        codes = {run: process.poll() for run, process in self._processes.items()}
        ends = [RunEnd(run, code) for run, code in codes.items() if code is not None]
        for end in ends:
            del self._processes[end.run]
        return ends

    def interrupt(self) -> None:
        self._queue.clear()
        interrupt(list(self._processes.values()))
