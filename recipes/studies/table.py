"""What a person sees of a study: every run, how far it is, and when all will be over."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import median

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from recipes.studies.planned_run import PlannedRun, RunState, Seen, look
from recipes.training.progress import LIVE_INTERVAL, PLAIN_INTERVAL, clock

STYLES = {"waiting": "dim", "running": "cyan", "done": "green", "failed": "bold red"}
FIRST = ("running", "failed", "waiting", "done")  # a terminal cuts off what does not fit
REFRESH = 5 * LIVE_INTERVAL


class StudyTable:
    """A live table in a terminal; elsewhere a line for every change, and one every half a minute.

        with StudyTable(runs, states) as table:
            table.show()

    Args:
        runs: the whole study.
        states: of each run by its name, as they are at any time.
    """

    def __init__(
        self,
        runs: Sequence[PlannedRun],
        states: Mapping[str, RunState],
        console: Console | None = None,
    ) -> None:
        self.runs = runs
        self.states = states
        self.console = console or Console()
        self._seen: dict[PlannedRun, tuple[int, Seen]] = {}
        self._told = {name: state.state for name, state in states.items()}
        self._shown = time.monotonic()
        self._live = None
        if self.console.is_terminal:
            self._live = Live(console=self.console, auto_refresh=False)

    def __enter__(self) -> StudyTable:
        if self._live:
            self._live.start()
        self._show()
        return self

    def __exit__(self, *_: object) -> None:
        self._show()
        if self._live:
            self._live.stop()

    def show(self) -> None:
        """Show the study as it is, if that is due."""
        if not self._live:
            self._tell_changes()
        if time.monotonic() - self._shown >= (REFRESH if self._live else PLAIN_INTERVAL):
            self._show()

    def table(self) -> Table:
        """A row for each run, those that run first."""
        table = Table(box=None, pad_edge=False)
        for column in ("recipe", "task", "seed", "state"):
            table.add_column(column, no_wrap=True)
        for column in ("steps", "return", "cost", "violations", "left"):
            table.add_column(column, justify="right", no_wrap=True)
        for run in sorted(self.runs, key=lambda run: FIRST.index(self.states[run.name].state)):
            table.add_row(*self._row(run))
        return table

    def summary(self) -> str:
        """How many runs are where, and the time that is left.

        The time presumes that as many runs as now go on side by side, and that a step takes as long
        in those that wait as in those that have begun.
        """
        counts = Counter(self.states[run.name].state for run in self.runs)
        said = f"{counts['done']} of {len(self.runs)} runs done"
        said += "".join(f", {counts[state]} {state}" for state in FIRST[:3] if counts[state])
        left = self._seconds_left(counts["running"])
        return said if left is None else f"{said}; {clock(left)} left"

    def _show(self) -> None:
        self._shown = time.monotonic()
        if self._live:
            self._live.update(Group(Text(self.summary(), "bold"), self.table()), refresh=True)
        else:
            self._tell_changes()
            self.console.print(self.summary(), soft_wrap=True, highlight=False)

    def _tell_changes(self) -> None:
        for run in self.runs:
            state = self.states[run.name]
            if state.state != self._told[run.name]:
                self._told[run.name] = state.state
                why = f": {state.reason}" if state.reason else ""
                line = f"{run.name} {state.state}{why}"
                self.console.print(line, soft_wrap=True, highlight=False, markup=False)

    def _row(self, run: PlannedRun) -> list[str | Text]:
        state, seen = self.states[run.name], self._look(run)
        over = None not in (seen.episode_cost, seen.episode_budget) and (
            (seen.episode_cost or 0.0) > (seen.episode_budget or 0.0)
        )
        left = seen.seconds_left if state.state == "running" else None
        total = "" if seen.total is None else f"/{seen.total:,}"
        return [
            run.recipe,
            run.task,
            str(run.seed),
            Text(state.state, STYLES[state.state]),
            f"{seen.steps:,}{total}",
            _number(seen.episode_return),
            Text(_number(seen.episode_cost), "bold red" if over else ""),
            Text(
                "-" if seen.violations is None else str(seen.violations),
                "bold red" if seen.violations else "",
            ),
            "" if left is None else clock(left),
        ]

    def _look(self, run: PlannedRun) -> Seen:
        """`look`, but only at what has changed."""
        file = run.folder / "metrics.jsonl"
        size = file.stat().st_size if file.exists() else -1
        known = self._seen.get(run)
        if known is None or known[0] != size:
            known = self._seen[run] = (size, look(run.folder))
        return known[1]

    def _seconds_left(self, running: int) -> float | None:
        seen = [self._look(run) for run in self.runs]
        paces = [one.pace for one in seen if one.pace is not None]
        totals = [one.total for one in seen if one.total is not None]
        if not paces or not running:
            return None
        pace, total = median(paces), median(totals)
        open_seen = [
            one
            for run, one in zip(self.runs, seen, strict=True)
            if self.states[run.name].state in ("waiting", "running")
        ]
        steps = sum(max(0, (one.total or total) - one.steps) for one in open_seen)
        return pace * steps / running


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"
