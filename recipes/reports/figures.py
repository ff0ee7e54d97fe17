"""The figures of a report as PNG: learning curves, return against cost rate, who beats whom.

Colours are Okabe and Ito's, told apart by colour-blind readers; from the eighth recipe on they come
again with another dash and marker.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from recipes.plotting.figures import BUDGET_LINE, LOOK, in_thousands, plt, running_mean, scale_costs
from recipes.reports.data import Curve
from recipes.reports.groups import Group
from recipes.reports.statistics import Estimate, band, interquartile_mean

COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#000000")
DASHES = ("-", "--", ":")
MARKERS = "os^DvPX"
OVERLAID = 6  # recipes in one panel; more get a panel each
POINTS = 100  # of a curve
DPI = 130
REPORT_LOOK: dict[Any, Any] = {
    **LOOK,
    "axes.titleweight": "normal",
    "font.size": 9.5,
}


class Style(NamedTuple):
    """How a recipe looks, in every figure of the report."""

    color: str
    dash: str
    marker: str


def styles(names: Sequence[str]) -> dict[str, Style]:
    """A look for each name, unlike that of every other up to the 22nd."""
    return {
        name: Style(COLORS[i % 7], DASHES[i // 7 % 3], MARKERS[(i + i // 7) % 7])
        for i, name in enumerate(dict.fromkeys(names))
    }


def curves_figure(
    groups: Sequence[Group], look: dict[str, Style], of_cost: bool, budget: float
) -> bytes:
    """Return or cost per episode against environment steps, for groups that have curves.

    Interquartile mean over seeds of each seed's running mean of ten episodes, with its pointwise
    95% interval. Costs have a cross for every single episode over the budget.
    """
    with plt.rc_context(REPORT_LOOK):
        each = len(groups) > OVERLAID
        figure, panels = _panels(len(groups) if each else 1)
        drawn = [_averaged(group, of_cost) for group in groups]
        over = [_over(group, budget) if of_cost else np.empty((2, 0)) for group in groups]
        for index, axes in enumerate(panels):
            shown = [index] if each else range(len(groups))
            if each:
                for grid, (middle, _, _) in drawn:
                    axes.plot(grid, middle, color="#c9cdd3", linewidth=0.8)
                axes.set_title(_wrap(groups[index].name, 30), fontsize=8.5)
            for i in shown:
                style, (grid, (middle, lower, upper)) = look[groups[i].name], drawn[i]
                color, label = style.color, None if each else _wrap(groups[i].name, 34)
                axes.fill_between(grid, lower, upper, color=color, alpha=0.18, linewidth=0)
                axes.plot(grid, middle, style.dash, color=color, linewidth=1.8, label=label)
                axes.plot(*over[i], "x", color=color, markersize=4, alpha=0.7)
            axes.xaxis.set_major_formatter(in_thousands)
        if of_cost:
            highest = np.concatenate(
                [band[2] for _, band in drawn] + [points[1] for points in over]
            )
            for axes in panels:
                axes.axhline(budget, **BUDGET_LINE, label=f"budget {budget:g}")
            scale_costs(panels[0], "y", budget, highest)
        figure.supxlabel("environment steps, prefill included", fontsize=9.5)
        figure.supylabel(f"{'cost' if of_cost else 'return'} per episode", fontsize=9.5)
        if not each:
            panels[0].legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
        return _png(figure)


def scatter_figure(groups: Sequence[Group], look: dict[str, Style]) -> bytes:
    """Final return against cost rate while learning: up and to the left is better.

    Large: interquartile means with 95% intervals. Small: single runs.
    """
    limit = groups[0].runs[0].budget_rate
    rates = np.concatenate([group.values("cost_rate") for group in groups])
    with plt.rc_context(REPORT_LOOK):
        figure, axes = plt.subplots(figsize=(9.5, max(4.4, 0.34 * len(groups))))
        axes.axvline(limit, **BUDGET_LINE, label=f"budget, {limit:g} a step")
        for group in groups:
            style = look[group.name]
            x, y = group.values("cost_rate"), group.values("final_return")
            axes.scatter(x, y, s=12, color=style.color, alpha=0.4, linewidths=0)
            across, up = interquartile_mean(x), interquartile_mean(y)
            axes.errorbar(
                across.value,
                up.value,
                xerr=_error(across),
                yerr=_error(up),
                fmt=style.marker,
                color=style.color,
                markersize=8,
                markeredgecolor="white",
                elinewidth=1.2,
                label=_wrap(group.name, 38),
            )
        scale_costs(axes, "x", limit, rates)
        axes.set(
            xlabel="cost rate while learning: cost per environment step", ylabel="final return"
        )
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
        return _png(figure)


def improvement_figure(
    names: Sequence[str], found: dict[tuple[int, int], Estimate], better: str
) -> bytes:
    """Probability that the row's recipe is better than the column's; bold where 0.5 is outside."""
    count = len(names)
    values = np.full((count, count), np.nan)
    with plt.rc_context({**REPORT_LOOK, "axes.grid": False}):
        figure, axes = plt.subplots(figsize=(3.6 + 0.72 * count, 0.9 + 0.52 * count))
        for (i, j), estimate in found.items():
            values[i, j] = estimate.value
            sure = estimate.lower > 0.5 or estimate.upper < 0.5
            color = "white" if abs(estimate.value - 0.5) > 0.33 else "black"
            place: dict[str, Any] = {"ha": "center", "color": color}
            weight = "bold" if sure else "normal"
            axes.text(j, i + 0.08, f"{estimate.value:.2f}", va="bottom", weight=weight, **place)
            if not np.isnan(estimate.lower):
                interval = f"{estimate.lower:.2f} to {estimate.upper:.2f}"
                axes.text(j, i + 0.12, interval, va="top", fontsize=6.5, **place)
        axes.imshow(values, cmap="PuOr_r", vmin=0, vmax=1, aspect="auto")
        numbered = [f"{_wrap(name, 34)}  {i}" for i, name in enumerate(names, start=1)]
        axes.set_yticks(range(count), numbered)
        axes.set_xticks(range(count), [str(i) for i in range(1, count + 1)])
        axes.xaxis.tick_top()
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        axes.set_title(f"probability of a {better} than recipe number", fontsize=9.5)
        return _png(figure)


def _averaged(
    group: Group, of_cost: bool
) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Grid of environment steps common to the group's runs, and the band over them."""
    curves = _curves(group)
    first, last = max(c.steps[0] for c in curves), min(c.steps[-1] for c in curves)
    grid = np.linspace(first, last, POINTS)
    smooth = [running_mean(curve.costs if of_cost else curve.returns) for curve in curves]
    pairs = zip(curves, smooth, strict=True)
    return grid, band(np.stack([np.interp(grid, c.steps, values) for c, values in pairs]))


def _over(group: Group, budget: float) -> np.ndarray:
    """[2, violations]: steps and costs of single episodes over the budget."""
    curves = _curves(group)
    steps, costs = (np.concatenate([getattr(c, k) for c in curves]) for k in ("steps", "costs"))
    return np.stack([steps, costs])[:, costs > budget]


def _curves(group: Group) -> list[Curve]:
    return [run.curve for run in group.runs if run.curve is not None]


def _panels(count: int) -> tuple[Figure, list[Axes]]:
    columns = min(count, 4)
    rows = -(-count // columns)
    size = (9.5, 4.0) if count == 1 else (10.5, 0.5 + 2.1 * rows)
    figure, panels = plt.subplots(rows, columns, figsize=size, sharex=True, sharey=True)
    axes = list(np.atleast_1d(panels).flat)
    for spare in axes[count:]:
        spare.set_axis_off()
    return figure, axes[:count]


def _error(estimate: Estimate) -> list[list[float]] | None:
    if np.isnan(estimate.lower):
        return None
    below, above = estimate.value - estimate.lower, estimate.upper - estimate.value
    return [[max(0.0, below)], [max(0.0, above)]]


def _wrap(name: str, width: int) -> str:
    return "\n".join(textwrap.wrap(name, width))


def _png(figure: Figure) -> bytes:
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=DPI)
    plt.close(figure)
    return stream.getvalue()
