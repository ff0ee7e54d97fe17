"""Does LBSGD stay feasible and still reach the optimum, on problems whose optimum is known?

Runs LBSGD and other methods (`methods`) on constrained problems with 1 to 1000 dimensions, convex
and not convex (`landscapes`). Reports iterations, gap, worst slack and infeasible iterates, with
exact and with noisy gradients. Then counts, at each promised level, how often LBSGD's confidence
bounds hold and how often its iterates stay feasible.

    python -m recipes.experiments.lbsgd_landscape
"""

import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import rich
import torch
import tyro
from rich.table import Table
from torch import Tensor

from blocks.safety_metrics import violation_interval
from recipes.experiments.lbsgd_landscape.figure import landscape_figure
from recipes.experiments.lbsgd_landscape.landscapes import LANDSCAPES
from recipes.experiments.lbsgd_landscape.methods import (
    ETA_MIN,
    METHODS,
    Noise,
    best,
    lbsgd,
    measure,
    walk,
)
from recipes.experiments.options import ExperimentOptions
from recipes.runs.errors import errors_in_one_line

RECIPE = "experiment_lbsgd_landscape"
NOISY = ("ball, 10", "three disks", "ring", "Rosenbrock in a disk")
"""Landscapes of the comparison with noise."""
JUDGED = "three disks"
"""Landscape for testing the confidence bounds; its optimum lies on two constraints."""
LEVELS = (None, 0.8, 0.9, 0.95, 0.99)


@dataclass(frozen=True, kw_only=True)
class Options(ExperimentOptions):
    """Sizes of the experiment."""

    landscapes: tuple[str, ...] = tuple(LANDSCAPES)
    """Names of the problems."""
    steps: int | None = None
    """Steps of each walk; by default the problem's number of steps."""
    walks: int = 100
    """Noisy walks for each level of confidence."""
    walk_steps: int = 100
    """Steps of each noisy walk."""

    def __post_init__(self) -> None:
        for name in self.landscapes:
            if name not in LANDSCAPES:
                raise ValueError(f"landscapes: got {name!r}; choose from {', '.join(LANDSCAPES)}.")
        self.require_at_least_one("steps", "walks", "walk_steps")


def main(options: Options) -> None:
    if options.smoke:
        options = replace(options, landscapes=("line", JUDGED), steps=20, walks=3, walk_steps=5)
    began = time.monotonic()
    folder = options.create_folder(RECIPE, "landscapes")
    exact, paths = compare(options)
    rich.print(comparison_table(exact, "exact gradients"))
    noisy = compare_with_noise(exact, options)
    if noisy:
        rich.print(comparison_table(noisy, "noisy gradients"))
    confidence = judge_bounds(options)
    rich.print(confidence_table(confidence, options))
    figure = landscape_figure(paths, confidence, folder.path / "landscape.png")
    summary = {
        "recipe": RECIPE,
        "seed": options.seed,
        "acceptance": acceptance(exact),
        "exact": exact,
        "noisy": noisy,
        "confidence": confidence,
        "wall_seconds": round(time.monotonic() - began, 1),
    }
    folder.write_summary(summary)
    folder.close()
    print(f"{summary['wall_seconds']} s; figure and summary are in {figure.parent}")


def compare(options: Options) -> tuple[list[dict[str, Any]], dict[tuple[str, str], Tensor]]:
    """Run all methods on all landscapes with exact gradients.

    Returns:
        A row for each landscape and method at its best learning rate, and the points of each.
    """
    rows, paths = [], {}
    for name in options.landscapes:
        landscape = LANDSCAPES[name]
        for method, (build, rates) in METHODS.items():
            tried = []
            for rate in rates:
                points = walk(landscape, build, rate, options.steps or landscape.steps).points
                missing = (landscape.objective(landscape.optimum) - landscape.objective(points))[-1]
                bound = len(landscape.budget) * ETA_MIN * landscape.unit
                tried.append(
                    {"landscape": name, "method": method, "rate": rate}
                    | measure(landscape, points)
                    | {"points": points, "gap_of_barrier": float(missing) / bound}
                )
            chosen = best(tried)
            paths[name, method] = chosen.pop("points")
            rows.append(chosen)
    return rows, paths


def compare_with_noise(exact: list[dict[str, Any]], options: Options) -> list[dict[str, Any]]:
    """Run all methods with noise, each at the learning rate that was best without noise."""
    rows = []
    for row in exact:
        if row["landscape"] not in NOISY:
            continue
        landscape = LANDSCAPES[row["landscape"]]
        steps = options.steps or landscape.steps
        levels = (None, 0.9) if row["method"] == "LBSGD" else (None,)
        for level in levels:
            method = row["method"] + (f", bounds {level:g}" if level else "")
            build = METHODS[row["method"]].build
            points = walk(
                landscape, build, row["rate"], steps, noise=Noise(), level=level, seed=options.seed
            ).points
            rows.append(
                {"landscape": landscape.name, "method": method, "rate": row["rate"]}
                | measure(landscape, points)
            )
    return rows


def judge_bounds(options: Options) -> list[dict[str, Any]]:
    """Measure rates at each level, promised for a step or (by a union bound) for a whole walk."""
    rows = []
    for level in LEVELS:
        rows.append({"promise": "step", **_rates(level, level, options)})
    for level in LEVELS[1:]:
        each = 1 - (1 - level) / options.walk_steps
        rows.append({"promise": "walk", **_rates(level, each, options)})
    return rows


def _rates(level: float | None, each: float | None, options: Options) -> dict[str, Any]:
    """Count how often bounds hold and iterates stay feasible, with level ``each`` for each step."""
    landscape, held, feasible, gaps = LANDSCAPES[JUDGED], [], [], []
    for number in range(options.walks):
        seed = 10_000 * options.seed + number
        points, bounds_held = walk(
            landscape,
            lambda x, landscape, _rate: lbsgd(x, landscape, eta=ETA_MIN),  # soon at the boundary
            None,
            options.walk_steps,
            noise=Noise(),
            level=each,
            seed=seed,
        )
        held.append(bounds_held)
        feasible.append((landscape.slack(points) > 0).all(-1))
        gaps.append(float(landscape.gap(points[-1])))
    inside = torch.stack(feasible)
    stayed = inside[:, 1:][inside[:, :-1]]  # only steps that began at a feasible iterate
    return {
        "level": level,
        "bounds": _rate(torch.stack(held).flatten()),
        "steps": _rate(stayed),
        "walks": _rate(inside.all(dim=1)),
        "gap": sum(gaps) / len(gaps),
    }


def _rate(successes: Tensor) -> dict[str, float]:
    count, trials = int(successes.sum()), successes.numel()
    lower, upper = violation_interval(count, trials)
    return {"rate": count / trials, "lower": lower, "upper": upper}


def acceptance(exact: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Check LBSGD with true constants: never infeasible, final gap within the barrier's."""
    return [
        {"landscape": row["landscape"], "infeasible": row["infeasible"]}
        | {"gap_of_barrier": row["gap_of_barrier"]}
        | {"met": row["infeasible"] == 0 and row["gap_of_barrier"] <= 1.001}
        for row in exact
        if row["method"] == "LBSGD"
    ]


def comparison_table(rows: list[dict[str, Any]], title: str) -> Table:
    """Tabulate iterations to 5% of the gap and the final gap, by landscape and method."""
    table = Table(title=title)
    for column in ("landscape", "method"):
        table.add_column(column)
    for column in ("rate", "to 5%", "gap", "worst slack", "infeasible"):
        table.add_column(column, justify="right")
    shown = ""
    for row in rows:
        if row["landscape"] != shown:
            table.add_section()
        table.add_row(
            row["landscape"] if row["landscape"] != shown else "",
            row["method"],
            "" if row["rate"] is None else f"{row['rate']:g}",
            "never" if row["iterations"] is None else str(row["iterations"]),
            f"{row['gap']:.4f}",
            f"{row['worst_slack']:.3g}",
            str(row["infeasible"]),
        )
        shown = row["landscape"]
    return table


def confidence_table(rows: list[dict[str, Any]], options: Options) -> Table:
    """Tabulate promised levels and measured rates; the interval belongs to the promised rate."""
    title = f"{JUDGED} with noise: {options.walks} walks of {options.walk_steps} steps of LBSGD"
    table = Table(title=title)
    for column in ("promised", "bounds held", "steps feasible", "walks feasible", "gap"):
        table.add_column(column)
    for row in rows:
        level = "no bounds" if row["level"] is None else f"{row['level']:g}"
        rates = {name: f"{row[name]['rate']:.3f}" for name in ("bounds", "steps", "walks")}
        promised = row[row["promise"] + "s"]
        rates[row["promise"] + "s"] += f" [{promised['lower']:.3f}, {promised['upper']:.3f}]"
        table.add_row(f"each {row['promise']}: {level}", *rates.values(), f"{row['gap']:.3f}")
    return table


if __name__ == "__main__":
    torch.set_num_threads(1)
    with errors_in_one_line():
        main(tyro.cli(Options, args=sys.argv[1:]))
