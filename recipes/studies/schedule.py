"""The loop of a study: hand runs out, see how they end, try again what was disturbed."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from recipes.studies.planned_run import Ended, PlannedRun, RunState

INTERVAL = 0.2  # seconds
OVER = ("done", "failed")


class Executor(Protocol):
    """Where runs are computed. It has a queue of its own and tries nothing twice."""

    def submit(self, run: PlannedRun) -> None:
        """Begin the run, or go on with it, as soon as there is room."""
        ...

    def running(self) -> set[PlannedRun]:
        """The runs that have a process now."""
        ...

    def ended(self) -> list[Ended]:
        """The runs that ended since this was last asked."""
        ...

    def interrupt(self) -> None:
        """Have every run write what it has and end; returns when all have."""
        ...


def carry_out(
    runs: Sequence[PlannedRun],
    executor: Executor,
    states: Mapping[str, RunState],
    *,
    retries: int,
    changed: Callable[[], None],
    show: Callable[[], None],
) -> None:
    """Carry out every run that is not done yet; afterwards each is done or failed.

    Args:
        runs: the whole study.
        executor: where.
        states: of each run by its name; kept up to date here.
        retries: how often a run is tried again that a signal killed or whose node was lost, >= 0.
            One that ended by itself with an error would do so again, and is not.
        changed: called after states have changed.
        show: called several times a second.
    """
    todo = [run for run in runs if states[run.name].state != "done"]
    for run in todo:
        executor.submit(run)
    try:
        while todo:
            if _look(todo, executor, states, retries):
                changed()
            show()
            todo = [run for run in todo if states[run.name].state not in OVER]
            if todo:
                time.sleep(INTERVAL)
    except BaseException:
        executor.interrupt()
        for run in todo:
            states[run.name].state = "done" if run.done else "waiting"
        changed()
        raise


def _look(
    todo: Sequence[PlannedRun], executor: Executor, states: Mapping[str, RunState], retries: int
) -> bool:
    """Note what has begun and ended since the last look; whether there was anything."""
    running, ended = executor.running(), executor.ended()
    for event in ended:
        _end(event, states[event.run.name], retries)
        if states[event.run.name].state == "waiting":
            executor.submit(event.run)
    over = {event.run for event in ended}
    begun = [_begin(states[run.name]) for run in todo if run in running - over]
    return any(begun) or bool(ended)


def _begin(state: RunState) -> bool:
    """Note that a run is running; whether that is new."""
    new = state.state == "waiting"
    if new:
        state.state, state.attempts, state.reason = "running", state.attempts + 1, ""
    return new


def _end(event: Ended, state: RunState, retries: int) -> None:
    """Note how a run's process ended: done, failed, or waiting for another attempt."""
    if state.state == "waiting":  # it was over before anyone had seen it run
        state.attempts += 1
    if event.code == 0 and event.run.done:
        state.state, state.reason = "done", ""
    else:
        again = event.disturbed and state.attempts <= retries
        state.state, state.reason = "waiting" if again else "failed", event.describe()
