"""Draw the figures of a report as PNG: curves, return against cost rate, pairwise comparisons.

The colours are Okabe and Ito's, which colour-blind readers can distinguish; from the eighth recipe
on they repeat with another dash and marker.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure

from recipes.plotting.figures import BUDGET_LINE, LOOK, in_thousands, plt, running_mean, scale_costs
from recipes.reports.groups import Group
from recipes.reports.statistics import Estimate, band, interquartile_mean

COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#000000")
DASHES = ("-", "--", ":")
MARKERS = "os^DvPX"
OVERLAID = 6  # recipes in one panel; with more, each gets a panel
POINTS = 100  # per curve
DPI = 130
REPORT_LOOK: dict[Any, Any] = {**LOOK, "axes.titleweight": "normal", "font.size": 9.5}
BESIDE: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (1.0, 1.0)}  # of a legend


class Style(NamedTuple):
    """How a recipe looks in every figure of the report."""

    color: str
    dash: str
    marker: str


def styles(names: Sequence[str]) -> dict[str, Style]:
    """A style for each name; the first 21 are different."""
    return {
        name: Style(COLORS[i % 7], DASHES[i // 7 % 3], MARKERS[(i + i // 7) % 7])
        for i, name in enumerate(dict.fromkeys(names))
    }


@rc_context(REPORT_LOOK)
def curves_figure(
    groups: Sequence[Group], look: dict[str, Style], of_cost: bool, budget: float
) -> bytes:
    """Draw return or cost per episode against environment steps, for groups that have curves.

    A line is the interquartile mean over seeds of running means of ten episodes, with its pointwise
    95% interval. In the cost figure every single episode over the budget is a cross.
    """
    each = len(groups) > OVERLAID
    count = len(groups) if each else 1
    columns = min(count, 4)
    rows = -(-count // columns)
    size = (10.5, 0.5 + 2.1 * rows) if each else (9.5, 4.0)
    figure, grid = plt.subplots(
        rows, columns, figsize=size, sharex=True, sharey=True, squeeze=False
    )
    panels = list(grid.flat)
    for spare in panels[count:]:
        spare.set_axis_off()
    drawn = [_averaged(group, of_cost) for group in groups]
    over = [_over(group, budget) if of_cost else np.empty((2, 0)) for group in groups]
    for index, axes in enumerate(panels[:count]):
        if each:
            for steps, (middle, _, _) in drawn:
                axes.plot(steps, middle, color="#c9cdd3", linewidth=0.8)
            axes.set_title(_wrap(groups[index].name, 30), fontsize=8.5)
        for i in [index] if each else range(len(groups)):
            style, (steps, (middle, lower, upper)) = look[groups[i].name], drawn[i]
            color, label = style.color, None if each else _wrap(groups[i].name, 34)
            axes.fill_between(steps, lower, upper, color=color, alpha=0.18, linewidth=0)
            axes.plot(steps, middle, style.dash, color=color, linewidth=1.8, label=label)
            axes.plot(*over[i], "x", color=color, markersize=4, alpha=0.7)
        if of_cost:
            axes.axhline(budget, **BUDGET_LINE, label=f"budget {budget:g}")
        axes.xaxis.set_major_formatter(in_thousands)
    if of_cost:
        uppers = [upper for _, (_, _, upper) in drawn]
        scale_costs(
            panels[0], "y", budget, np.concatenate([*uppers, *(costs for _, costs in over)])
        )
    figure.supxlabel("environment steps, prefill included", fontsize=9.5)
    figure.supylabel(f"{'cost' if of_cost else 'return'} per episode", fontsize=9.5)
    if not each:
        panels[0].legend(**BESIDE)
    return _png(figure)


@rc_context(REPORT_LOOK)
def scatter_figure(groups: Sequence[Group], look: dict[str, Style]) -> bytes:
    """Draw final return against cost rate while learning: up and to the left is better.

    Large markers are interquartile means with 95% intervals, small ones single runs.
    """
    limit = groups[0].runs[0].budget_rate
    figure, axes = plt.subplots(figsize=(9.5, max(4.4, 0.34 * len(groups))))
    axes.axvline(limit, **BUDGET_LINE, label=f"budget, {limit:g} a step")
    for group in groups:
        color, _, marker = look[group.name]
        x, y = group.values("cost_rate"), group.values("final_return")
        axes.scatter(x, y, s=12, color=color, alpha=0.4, linewidths=0)
        across, up = interquartile_mean(x), interquartile_mean(y)
        shape: dict[str, Any] = {"fmt": marker, "markersize": 8, "markeredgecolor": "white"}
        shape |= {"color": color, "elinewidth": 1.2, "label": _wrap(group.name, 38)}
        axes.errorbar(across.value, up.value, xerr=_error(across), yerr=_error(up), **shape)
    rates = np.concatenate([group.values("cost_rate") for group in groups])
    scale_costs(axes, "x", limit, rates)
    axes.set(xlabel="cost rate while learning: cost per environment step", ylabel="final return")
    axes.legend(**BESIDE)
    return _png(figure)


@rc_context({**REPORT_LOOK, "axes.grid": False})
def improvement_figure(
    names: Sequence[str], found: dict[tuple[int, int], Estimate], better: str
) -> bytes:
    """Draw the probability that the row's recipe is better than the column's.

    Bold where the interval excludes 0.5.
    """
    count = len(names)
    values = np.full((count, count), np.nan)
    figure, axes = plt.subplots(figsize=(3.6 + 0.72 * count, 0.9 + 0.52 * count))
    for (i, j), (value, lower, upper) in found.items():
        values[i, j] = value
        color = "white" if abs(value - 0.5) > 0.33 else "black"
        weight = "bold" if lower > 0.5 or upper < 0.5 else "normal"
        place: dict[str, Any] = {"ha": "center", "color": color}
        axes.text(j, i + 0.08, f"{value:.2f}", va="bottom", weight=weight, **place)
        if not np.isnan(lower):
            axes.text(j, i + 0.12, f"{lower:.2f} to {upper:.2f}", va="top", fontsize=6.5, **place)
    axes.imshow(values, cmap="PuOr_r", vmin=0, vmax=1, aspect="auto")
    axes.set_yticks(range(count), [f"{_wrap(n, 34)}  {i}" for i, n in enumerate(names, start=1)])
    axes.set_xticks(range(count), [str(i) for i in range(1, count + 1)])
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_title(f"probability of a {better} than recipe number", fontsize=9.5)
    return _png(figure)


def _averaged(
    group: Group, of_cost: bool
) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """The environment steps common to the group's runs, and the band over them."""
    curves = [run.curve for run in group.runs if run.curve is not None]
    first, last = max(c.steps[0] for c in curves), min(c.steps[-1] for c in curves)
    steps = np.linspace(first, last, POINTS)
    smooth = [running_mean(curve.costs if of_cost else curve.returns) for curve in curves]
    pairs = zip(curves, smooth, strict=True)
    return steps, band(np.stack([np.interp(steps, c.steps, values) for c, values in pairs]))


def _over(group: Group, budget: float) -> np.ndarray:
    """[2, violations]: steps and costs of single episodes over the budget."""
    curves = [run.curve for run in group.runs if run.curve is not None]
    episodes = np.concatenate([[curve.steps, curve.costs] for curve in curves], axis=1)
    return episodes[:, episodes[1] > budget]


def _error(estimate: Estimate) -> np.ndarray | None:
    if np.isnan(estimate.lower):
        return None
    value, lower, upper = estimate
    return np.maximum([[value - lower], [upper - value]], 0.0)


def _wrap(name: str, width: int) -> str:
    return "\n".join(textwrap.wrap(name, width))


def _png(figure: Figure) -> bytes:
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=DPI)
    plt.close(figure)
    return stream.getvalue()
