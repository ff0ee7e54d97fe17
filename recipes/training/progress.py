"""Progress bar of a training run, and a table of its main results at the end."""

import sys
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, TextIO

from rich.table import Table
from tqdm import tqdm

PLAIN_INTERVAL = 30.0  # seconds between lines outside a terminal: in a pipe, a file, CI
# A narrow terminal cuts off the end.
LINE = "{n_fmt}/{total_fmt} steps{postfix} [{remaining} left, {rate_noinv_fmt}]"


class Progress(tqdm):
    """Shows steps, the last episode's results, the time left and the speed.

    In a terminal a bar is updated in place, and is red after an episode above its budget; elsewhere
    a new line is printed every 30 seconds.

        with Progress(100_000, episode_budget=25.0) as progress:
            progress.show(1000, episode_return=-110.0, episode_cost=0.0, violations=0)

    Args:
        total_steps: environment steps after which the run ends.
        episode_budget: cost allowed per episode.
        first_step: step at which a resumed run starts; earlier steps do not count for the speed.
        file: where to print; standard output by default.
    """

    monitor_interval = 0  # no thread: environments may fork

    def __init__(
        self,
        total_steps: int,
        episode_budget: float,
        first_step: int = 0,
        file: TextIO | None = None,
    ) -> None:
        stream = file or sys.stdout
        self._terminal, self._episode_budget = stream.isatty(), episode_budget
        super().__init__(
            total=total_steps,
            initial=first_step,
            file=stream,
            unit=" steps",
            bar_format=("{l_bar}{bar}| " if self._terminal else "{desc}") + LINE,
            mininterval=0.1 if self._terminal else PLAIN_INTERVAL,
            miniters=1,
            dynamic_ncols=True,
        )

    def show(
        self,
        step: int,
        phase: str = "",
        *,
        episode_return: float,
        episode_cost: float,
        slack: float | None = None,
        violations: int | None = None,
    ) -> None:
        """Show the results of an episode; slack is in units of the budget.

        Args:
            step: environment steps so far.
            phase: a word such as "prefill".
        """
        results = f"return {episode_return:.1f}, cost {episode_cost:.1f}/{self._episode_budget:g}"
        if violations is not None:
            results += f", violations {violations}"
        if slack is not None:
            results += f", slack {slack:.2f}"
        self.colour = "red" if episode_cost > self._episode_budget else None
        self.set_description(phase, refresh=False)
        self.set_postfix_str(results, refresh=False)
        self.total = max(self.total or 0, step)  # short episodes rarely end on the last step
        self.update(step - self.n)

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        """Draw the bar; tqdm calls this."""
        if self._terminal:
            super().display(msg, pos)
        else:  # close() sets `disable` and prints the last line break itself
            print(self, file=self.fp, end="" if self.disable else "\n", flush=True)


def headline_table(summary: Mapping[str, Any]) -> Table:
    """Return a table of the main results in `summary.json`; print it with `rich.print`."""
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
        (f"final cost (budget {summary['episode_budget']:g})", "final_cost", ",.1f"),
        ("environment steps", "environment_steps", ",.0f"),
    ):
        unsafe = key.endswith("violations") and summary[key]
        table.add_row(name, format(summary[key], form), style="bold red" if unsafe else "")
    table.add_row("wall time", str(timedelta(seconds=round(summary["wall_seconds"]))))
    return table
