"""Runs as processes of this machine, a few at a time."""

from __future__ import annotations

import os
import subprocess
from collections import deque
from collections.abc import Mapping

from recipes.studies.planned_run import Ended, PlannedRun, interrupt, launch


def cores() -> int:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class LocalExecutor:
    """At most `jobs` runs at once.

    Args:
        jobs: >= 1; more than there are cores slow each other down.
        arguments: for every run, such as ("--threads", "1").
        environment: variables that the runs' processes get besides ours.
    """

    def __init__(
        self,
        jobs: int,
        *,
        arguments: tuple[str, ...] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.jobs = jobs
        self.arguments = arguments
        self.environment = dict(environment or {})
        self._queue: deque[PlannedRun] = deque()
        self._processes: dict[PlannedRun, subprocess.Popen[bytes]] = {}

    def submit(self, run: PlannedRun) -> None:
        self._queue.append(run)

    def running(self) -> set[PlannedRun]:
        while self._queue and len(self._processes) < self.jobs:
            run = self._queue.popleft()
            self._processes[run] = launch(run.arguments(*self.arguments), self.environment)
        return set(self._processes)

    def ended(self) -> list[Ended]:
        codes = {run: process.poll() for run, process in self._processes.items()}
        over = [Ended(run, code) for run, code in codes.items() if code is not None]
        for event in over:
            del self._processes[event.run]
        return over

    def interrupt(self) -> None:
        self._queue.clear()
        interrupt(list(self._processes.values()))
