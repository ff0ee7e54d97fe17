"""How often does the pessimistic cost return cover the true one, where the truth is known?

Draws true dynamics from the prior and data from the dynamics, and fits a posterior. Compares the
pessimistic cost return of a fixed policy, aggregated over K members, with the true one, known in
closed form (`linear_gaussian`). Exact posterior samples and the truth are exchangeable, so the
worst of K covers the truth in K / (K + 1) of all replications. Two further cases have a truth that
the posterior cannot express, or that its prior excludes.

    python -m recipes.experiments.pessimism_known_dynamics --seed 0
"""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import rich
import torch
import tyro
from rich.table import Table
from torch import Tensor

from blocks import (
    MeanField,
    Particles,
    Point,
    Stein,
    cvar,
    mean,
    mean_plus_std,
    quantile,
    worst_case,
)
from blocks.safety_metrics import violation_interval
from recipes.experiments.options import ExperimentOptions
from recipes.experiments.pessimism_known_dynamics.figure import coverage_figure
from recipes.experiments.pessimism_known_dynamics.linear_gaussian import (
    Data,
    draw_weights,
    exact_posterior,
    exponential,
    fit,
    policy_returns,
    shares,
    simulate,
)
from recipes.runs.errors import errors_in_one_line

RECIPE = "experiment_pessimism_known_dynamics"
CASES = {"well specified": (0.0, 0.0), "unmodelled lag": (0.3, 0.0), "prior excludes": (0.0, 2.0)}
"""Name -> (strength of the lag that no weights can express, shift of the truth in prior std)."""
AGGREGATORS: dict[str, Callable[..., Tensor]] = {
    "worst_case": worst_case,
    "cvar 0.4": partial(cvar, alpha=0.4),
    "quantile 0.8": partial(quantile, q=0.8),
    "mean + 1 std": partial(mean_plus_std, scale=1.0),
    "mean": mean,
}
FAMILIES: dict[str, Callable[..., Tensor]] = {
    "exact": lambda data, members, generator, steps: exact_posterior(data, members, generator),
    "particles": partial(fit, Particles),
    "particles, exponential weights": partial(fit, Particles, weigh=exponential),
    "particles, shares of 0.8": partial(fit, Particles, weigh=partial(shares, size=0.8)),
    "particles, shares of 0.5": partial(fit, Particles, weigh=partial(shares, size=0.5)),
    "stein": partial(fit, Stein),
    "mean_field": partial(fit, MeanField),
    "point": partial(fit, Point),
}
"""``particles`` perturbs each member's targets, which is exact but needs the noise's size; a world
model draws exponential weights."""


@dataclass(frozen=True, kw_only=True)
class Options(ExperimentOptions):
    """Sizes of the experiment."""

    replications: int = 600
    """Systems drawn for each number of transitions."""
    data: tuple[int, ...] = (5, 20, 80)
    """Numbers of transitions that the posterior is fitted to, multiples of 5."""
    members: tuple[int, ...] = (1, 2, 5, 10, 20)
    """Members K in the well-specified case; the other cases use only the number below."""
    shown: int = 5
    """Members K in the tables."""
    steps: int = 200
    """Adam's steps for each posterior."""

    def __post_init__(self) -> None:
        self.require_at_least_one("replications", "steps")
        if not self.data or any(rows < 5 or rows % 5 for rows in self.data):
            raise ValueError(f"data: got {self.data}; transitions come in episodes of 5.")
        if min(self.members, default=0) < 1:
            raise ValueError(f"members: got {self.members}; an ensemble needs at least 1 member.")
        if self.shown not in self.members:
            raise ValueError(f"shown: got {self.shown}; choose one of members {self.members}.")


def main(options: Options) -> None:
    if options.smoke:
        options = replace(options, replications=20, data=(5, 20), members=(1, 5), steps=20)
    began = time.monotonic()
    folder = options.create_folder(RECIPE, "linear-gaussian")
    rows: list[dict[str, Any]] = []
    for case in CASES:
        for data in options.data:
            rows += measure(case, data, options)
        rich.print(table(rows, case, options))
    rich.print(members_table(rows, options))
    figure = coverage_figure(rows, options.shown, folder.path / "coverage.png")
    summary = {
        "recipe": RECIPE,
        "seed": options.seed,
        "acceptance": acceptance(rows, options),
        "rows": rows,
        "wall_seconds": round(time.monotonic() - began, 1),
    }
    folder.write_summary(summary)
    folder.close()
    print(f"{summary['wall_seconds']} s; figure and summary are in {figure.parent}")


def measure(case: str, data: int, options: Options) -> list[dict[str, Any]]:
    """Measure all families, aggregators and numbers of members in one case."""
    lag, shift = CASES[case]
    # A separate generator: rows do not depend on which other rows are computed.
    generator = torch.Generator().manual_seed(1000 * options.seed + data)
    weights = draw_weights(options.replications, generator, shift)
    truth = policy_returns(weights, lag)
    known = simulate(weights, data, generator, lag)
    counts = options.members if case == "well specified" else (options.shown,)
    rows = []
    for family in FAMILIES:
        for count, drawn in members_of(family, known, counts, generator, options.steps):
            returns = policy_returns(drawn)
            error = (returns.objective.mean(0) - truth.objective).abs().median()
            rows += [
                {"case": case, "family": family, "data": data, "members": count}
                | {"aggregator": name, "objective_error": float(error)}
                | coverage(aggregate(returns.cost_return), truth.cost_return)
                for name, aggregate in AGGREGATORS.items()
            ]
    return rows


def members_of(
    family: str, data: Data, counts: tuple[int, ...], generator: torch.Generator, steps: int
) -> list[tuple[int, Tensor]]:
    """Fit members ``[member, replication, 3, 2]`` for each count.

    Stein's members interact and are fitted for each count. The others are fitted once, and each
    count takes the first of them.
    """
    draw = FAMILIES[family]
    if family == "stein":
        return [(count, draw(data, count, generator, steps=steps)) for count in counts]
    drawn = draw(data, max(counts), generator, steps=steps)
    return [(count, drawn[:count]) for count in counts]


def coverage(pessimistic: Tensor, truth: Tensor) -> dict[str, float]:
    """Compute how often the pessimistic cost return covers the true one, and its median excess."""
    if not pessimistic.isfinite().all():
        raise RuntimeError("a fitted system's cost return is not finite: fit it for more steps")
    covered, count = int((pessimistic >= truth).sum()), len(truth)
    lower, upper = violation_interval(covered, count)
    return {
        "coverage": covered / count,
        "lower": lower,
        "upper": upper,
        "excess": float((pessimistic / truth - 1).median()),
    }


def acceptance(rows: list[dict[str, Any]], options: Options) -> list[dict[str, Any]]:
    """Check the particles' worst case against K / (K + 1), for each number of transitions."""
    expected = options.shown / (options.shown + 1)
    return [
        {"data": row["data"], "coverage": row["coverage"], "lower": row["lower"]}
        | {"upper": row["upper"], "expected": expected, "met": row["upper"] >= expected}
        for row in select(rows, "well specified", family="particles", members=options.shown)
        if row["aggregator"] == "worst_case"
    ]


def select(rows: list[dict[str, Any]], case: str, **values: Any) -> list[dict[str, Any]]:
    """Select the rows of a case with the given values."""
    wanted = {"case": case} | values
    return [row for row in rows if wanted.items() <= row.items()]


def table(rows: list[dict[str, Any]], case: str, options: Options) -> Table:
    """Tabulate the coverage of each family and aggregator at the shown number of members."""
    count = options.shown
    title = f"{case}, K = {count}: coverage of the true cost return"
    if case == "well specified":
        title += f" (worst of exact samples: {count / (count + 1):.3f})"
    columns = ["family", "data", "worst_case [95%]", *list(AGGREGATORS)[1:], "worst excess"]
    shown = Table(*columns, title=title)
    for family in FAMILIES:
        for data in options.data:
            chosen = select(rows, case, family=family, data=data, members=count)
            worst, *others = chosen
            shown.add_row(
                family,
                str(data),
                f"{worst['coverage']:.3f} [{worst['lower']:.3f}, {worst['upper']:.3f}]",
                *(f"{row['coverage']:.3f}" for row in others),
                f"{worst['excess']:+.0%}",
            )
    return shown


def members_table(rows: list[dict[str, Any]], options: Options) -> Table:
    """Tabulate the worst case's coverage against the number of members, at the middle data size."""
    data = options.data[len(options.data) // 2]
    shown = Table(title=f"well specified, {data} data: coverage of the worst of K")
    for column in ("family", *(f"K = {count}" for count in options.members)):
        shown.add_column(column)
    expected = (f"{count / (count + 1):.3f}" for count in options.members)
    shown.add_row("K / (K + 1)", *expected, end_section=True)
    for family in FAMILIES:
        chosen = select(rows, "well specified", family=family, data=data, aggregator="worst_case")
        shown.add_row(family, *(f"{row['coverage']:.3f}" for row in chosen))
    return shown


if __name__ == "__main__":
    torch.set_num_threads(1)
    with errors_in_one_line():
        main(tyro.cli(Options, args=sys.argv[1:]))
