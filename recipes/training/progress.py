"""What a person sees while a run trains: one live line, and the headline figures at its end."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

PLAIN_INTERVAL = 30.0  # seconds between lines where nothing can be redrawn: a pipe, a file, CI
LIVE_INTERVAL = 0.2
SPEED_WINDOW = 60.0  # seconds over which the speed is measured


class Progress:
    """A line with steps, return, cost, slack, violations, speed and time left.

    In a terminal it is redrawn in place; elsewhere it becomes a plain line every half a minute.

        with Progress(total_steps=100_000, episode_budget=25.0) as progress:
            progress.update(1000, episode_return=-110.0, episode_cost=0.0, violations=0)

    Args:
        total_steps: environment steps after which the run ends.
        episode_budget: cost allowed per episode; a cost above it is shown in red.
        first_step: where a resumed run goes on, so that its speed is not overstated.
    """

    def __init__(
        self,
        total_steps: int,
        episode_budget: float,
        first_step: int = 0,
        console: Console | None = None,
    ) -> None:
        self.total_steps = total_steps
        self.episode_budget = episode_budget
        self.console = console or Console()
        self._step = first_step
        self._values: dict[str, float] = {}
        self._phase = ""
        self._times: deque[tuple[float, int]] = deque([(time.monotonic(), first_step)])
        self._shown = -math.inf
        self._live = None
        if self.console.is_terminal:
            self._live = Live(console=self.console, auto_refresh=False)

    def __enter__(self) -> Progress:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._show()
        if self._live:
            self._live.stop()

    def update(self, step: int, phase: str = "", **values: float) -> None:
        """Say where the run is; `episode_return`, `episode_cost`, `slack` and `violations` stay.

        `slack` is in units of the episode budget, `phase` a word such as "prefill".
        """
        now = time.monotonic()
        self._step, self._phase = step, phase
        self._values.update(values)
        self._times.append((now, step))
        while len(self._times) > 2 and now - self._times[1][0] > SPEED_WINDOW:
            self._times.popleft()
        if now - self._shown >= (LIVE_INTERVAL if self._live else PLAIN_INTERVAL):
            self._show()

    def print(self, message: str) -> None:
        """Print a line of its own, above the live one."""
        self.console.print(message, markup=False, highlight=False)

    def _show(self) -> None:
        self._shown = time.monotonic()
        if self._live:
            self._live.update(self.line(), refresh=True)
        else:
            self.console.print(self.line(), soft_wrap=True)

    def line(self) -> Text:
        (then, earlier), (now, latest) = self._times[0], self._times[-1]
        speed = (latest - earlier) / (now - then) if now > then else 0.0
        left = clock((self.total_steps - self._step) / speed) if speed > 0 else "?"
        cost, violations = self._values.get("episode_cost"), self._values.get("violations")
        line = Text()
        line.append(f"{self._step:,}/{self.total_steps:,} steps", "bold")
        line.append(f" {self._phase}" if self._phase else "", "cyan")
        line.append(f"  return {_number(self._values.get('episode_return'), '.1f')}")
        over = cost is not None and cost > self.episode_budget
        line.append(f"  cost {_number(cost, '.1f')}", "bold red" if over else "")
        line.append(f"/{self.episode_budget:g}")
        line.append(f"  slack {_number(self._values.get('slack'), '.2f')}")
        line.append(
            f"  violations {_number(violations, 'g')}", "bold red" if violations else "green"
        )
        line.append(f"  {speed:,.0f} steps/s  {left} left", "dim")
        return line


def headline_table(summary: Mapping[str, Any]) -> Table:
    """The headline figures of `summary.json`; `rich.print` shows it."""
    budget = summary.get("episode_budget")
    allowed = f" (budget {budget:g})" if budget is not None else ""
    table = Table(
        title=f"{summary['task']}, seed {summary['seed']}", title_justify="left", show_header=False
    )
    table.add_column()
    table.add_column(justify="right")
    for name, key, form in (
        ("policy violations", "policy_violations", ",.0f"),
        ("episode violations", "episode_violations", ",.0f"),
        ("cost rate", "cost_rate", ".4f"),
        ("cost regret", "cost_regret", ",.1f"),
        ("final return", "final_return", ",.1f"),
        (f"final cost{allowed}", "final_cost", ",.1f"),
        ("environment steps", "environment_steps", ",.0f"),
    ):
        unsafe = key.endswith("violations") and summary.get(key)
        table.add_row(name, _number(summary.get(key), form), style="bold red" if unsafe else "")
    table.add_row("wall time", clock(summary["wall_seconds"]))
    return table


def clock(seconds: float) -> str:
    """Seconds as a person says them.

    >>> clock(42), clock(754), clock(7384)
    ('42 s', '12 min 34 s', '2 h 03 min')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes_rest = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes_rest:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
