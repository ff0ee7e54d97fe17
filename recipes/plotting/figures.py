"""Draw a run's learning curves, calibration and policy steps; write its video."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np

from recipes.runs.errors import RunError
from recipes.runs.folder import RunFolder

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.scale import SymmetricalLogScale
from matplotlib.ticker import NullFormatter, NullLocator

BLUE, ORANGE, RED, GREEN, GREY = "#2f6fb0", "#e08a1e", "#c8312b", "#2b8a57", "#8a8f98"
LOOK: dict[Any, Any] = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e7e9ec",
    "axes.axisbelow": True,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
}
QUIET = {"fontweight": "normal", "fontsize": 10}
BUDGET_LINE = {"color": RED, "linestyle": "--", "linewidth": 1.2}
BRANCHES = {  # from the top: label and colour
    "branch_recovery": ("recovery: predicted infeasible", RED),
    "branch_slack": ("limited by the slack", ORANGE),
    "branch_curvature": ("limited by the curvature", GREY),
    "branch_full": ("full step: not limited", BLUE),
}


def learning_figure(run: RunFolder | Path) -> Path:
    """Draw return and cost of every episode against environment steps."""
    folder, episodes, budget = _read(run, "episode")
    evaluations = folder.read_metrics("evaluation")
    steps, costs = _column(episodes, "step"), _column(episodes, "episode_cost")
    prefill = steps[[row["phase"] == "prefill" for row in episodes]]
    over = costs > budget
    with plt.rc_context(LOOK):
        figure, (above, below) = plt.subplots(2, 1, figsize=(8, 6.4), sharex=True)
        for axes, name, color in ((above, "return", BLUE), (below, "cost", ORANGE)):
            values = _column(episodes, f"episode_{name}")
            axes.scatter(
                steps, values, s=14, color=color, alpha=0.45, linewidths=0, label="one episode"
            )
            axes.plot(steps, running_mean(values), color=color, linewidth=2, label="mean of 10")
            _ring_violations(axes, steps[over], values[over])
            axes.plot(
                _column(evaluations, "step"),
                _column(evaluations, f"{name}_mean"),
                "D",
                color=GREEN,
                markersize=6,
                label="evaluation" if evaluations else None,
            )
            if len(prefill):
                axes.axvspan(0, prefill.max(), color=GREY, alpha=0.18, linewidth=0, label="prefill")
            axes.set_ylabel(f"{name} per episode")
        scale_costs(below, "y", budget, costs)
        below.axhline(budget, label=f"budget {budget:g}", **BUDGET_LINE)
        below.set_xlabel("environment steps, prefill included")
        below.set_title(f"{over.sum()} of {len(costs)} episodes over the budget", **QUIET)
        below.xaxis.set_major_formatter(in_thousands)
        above.set_title(run_title(folder))
        for axes in (above, below):
            axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
        return save_figure(figure, folder, "learning.png")


def calibration_figure(run: RunFolder | Path) -> Path:
    """Draw each iterate's predicted episode cost against the realised cost of its episodes."""
    folder, iterates, budget = _read(run, "iterate")
    steps, mean, worst, realised = (
        _column(iterates, key)
        for key in ("step", "predicted_cost_mean", "predicted_cost_worst", "realised_cost")
    )
    costs = np.concatenate([mean, worst, realised])
    over = realised > budget
    with plt.rc_context(LOOK):
        figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.8), width_ratios=(1, 1.7))
        figure.suptitle(run_title(folder), x=0.01, ha="left", fontweight="bold")
        scale_costs(left, "x", budget, costs)
        for axes in (left, right):
            scale_costs(axes, "y", budget, costs)
            axes.axhline(budget, label=f"budget {budget:g}", **BUDGET_LINE)
        left.axvline(budget, **BUDGET_LINE)
        left.plot(left.get_xlim(), left.get_xlim(), color=GREY)
        left.fill_between(
            [left.get_xlim()[0], budget], budget, left.get_ylim()[1], color=RED, alpha=0.07
        )
        left.text(0.03, 0.97, "unforeseen", transform=left.transAxes, color=RED, va="top")
        left.scatter(mean, realised, s=20, color=BLUE, alpha=0.6, linewidths=0)
        left.scatter(worst, realised, s=20, color=ORANGE, alpha=0.6, linewidths=0)
        left.set_box_aspect(1)
        left.set(xlabel="predicted episode cost", ylabel="realised episode cost")
        right.fill_between(steps, mean, worst, color=ORANGE, alpha=0.15, linewidth=0)
        right.plot(steps, worst, ".-", color=ORANGE, label="predicted, worst member")
        right.plot(steps, mean, ".-", color=BLUE, label="predicted, mean of members")
        right.plot(steps, realised, ".", color="black", markersize=7, label="realised")
        _ring_violations(right, steps[over], realised[over])
        right.set(xlabel="environment steps", ylabel="episode cost")
        right.set_title(f"{over.sum()} of {len(steps)} iterates over the budget", **QUIET)
        right.xaxis.set_major_formatter(in_thousands)
        right.plot([], [], color=GREY, label="foreseen exactly")
        entries, names = right.get_legend_handles_labels()
        figure.legend(entries, names, loc="outside lower center", ncols=6, columnspacing=1.4)
        return save_figure(figure, folder, "calibration.png")


Columns = dict[str, np.ndarray]
"""A metric's values, one for each phase of updates."""


class Panel(NamedTuple):
    """A panel of ``steps_figure``: drawn if the updates have one of its metrics."""

    title: str
    metrics: tuple[str, ...]
    draw: Callable[[Axes, Columns, tuple[str, ...]], None]
    height: float = 1.3  # inches


def steps_figure(run: RunFolder | Path) -> Path | None:
    """Draw what decided the policy's steps: one panel for each kind of metric in the updates.

    Values are means over the updates of a phase. A phase is drawn where its policy begins to act,
    and so is the cost of the episode that follows.

    Returns:
        The file written, or None if no panel has a metric to show.
    """
    folder = run if isinstance(run, RunFolder) else RunFolder(run)
    updates = folder.read_metrics("update")
    drawn = {"step", "allowed", "slack_error"}.union(*(panel.metrics for panel in STEP_PANELS))
    columns = {
        name: _column(updates, name)
        for name in drawn
        if updates and all(name in row for row in updates)
    }
    panels = [panel for panel in STEP_PANELS if columns.keys() & set(panel.metrics)]
    if not panels:
        return None
    columns |= _next_episodes(folder, columns["step"])
    heights = [panel.height for panel in panels]
    with plt.rc_context(LOOK):
        figure, grid = plt.subplots(
            len(panels),
            figsize=(9, sum(heights) + 0.8),
            height_ratios=heights,
            sharex=True,
            squeeze=False,
        )
        figure.suptitle(run_title(folder), x=0.01, ha="left", fontweight="bold")
        for axes, panel in zip(grid[:, 0], panels, strict=True):
            panel.draw(axes, columns, panel.metrics)
            axes.set_title(panel.title, **QUIET)
            if axes.get_legend_handles_labels()[1]:
                axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
        last = grid[-1, 0]
        last.set_xlabel("environment steps, prefill included")
        last.set_xlim(0, columns["edges"][-1])
        last.xaxis.set_major_formatter(in_thousands)
        return save_figure(figure, folder, "steps.png")


def _next_episodes(folder: RunFolder, steps: np.ndarray) -> Columns:
    """Find the steps between which each phase's policy acts, and its first episode's cost."""
    episodes, budget = folder.read_metrics("episode"), folder.read_config()["episode_budget"]
    ends, costs = _column(episodes, "step"), _column(episodes, "episode_cost")
    following = np.searchsorted(ends, steps, side="right")
    return {
        "edges": np.append(steps, max([steps[-1] + 1, *ends])),
        "realised": np.append(costs / budget, np.nan)[following],  # in budgets
    }


def _draw_costs(axes: Axes, columns: Columns, _: Sequence[str]) -> None:
    """Draw predicted, allowed and realised costs, in budgets."""
    steps, realised = columns["step"], columns["realised"]
    lines: dict[str, tuple[np.ndarray, str, dict[str, Any]]] = {}
    if "cost" in columns:
        constrained = columns["cost"] + columns.get("slack_error", 0.0)
        lines["constrained, with its error bound"] = (
            constrained,
            GREY,
            {"linewidth": 6, "alpha": 0.4},
        )
    for name, label, color in (
        ("cost_worst", "predicted, worst member", ORANGE),
        ("cost_mean", "predicted, mean of members", BLUE),
    ):
        if name in columns:
            lines[label] = columns[name], color, {"marker": "."}
    if "allowed" in columns:
        lines["allowed"] = columns["allowed"], GREEN, {"linestyle": "-."}
    for label, (values, color, look) in lines.items():
        axes.plot(steps, values, color=color, label=label, **look)
    axes.plot(steps, realised, ".", color="black", markersize=6, label="realised, next episode")
    _ring_violations(axes, steps[realised > 1], realised[realised > 1])
    drawn = np.concatenate([realised, *(values for values, *_ in lines.values())])
    scale_costs(axes, "y", 1.0, drawn)
    axes.set_ylim(
        bottom=min(axes.get_ylim()[0], 1.1 * np.min(drawn[np.isfinite(drawn)], initial=0))
    )
    axes.axhline(1.0, label="budget", **BUDGET_LINE)


def _draw_shares(axes: Axes, columns: Columns, names: tuple[str, ...]) -> None:
    """Stack the shares of the updates, from the top; each phase extends to the next."""
    top = np.ones(len(columns["step"]))
    for name in names:
        label, color = BRANCHES[name]
        below = top - columns.get(name, 0.0)
        if (below < top).any():
            axes.stairs(top, columns["edges"], baseline=below, fill=True, color=color, label=label)
        top = below
    axes.set_ylim(0, 1)


def _draw_line(axes: Axes, columns: Columns, names: tuple[str, ...]) -> None:
    """Draw one metric; the axis is logarithmic if it is positive and spans a factor of 10."""
    values = columns[names[0]]
    axes.plot(columns["step"], values, ".-", color=BLUE)
    finite = values[np.isfinite(values)]
    if len(finite) and 0 < 10 * finite.min() < finite.max():
        axes.set_yscale("log")
        axes.yaxis.set_minor_formatter(NullFormatter())


def _draw_slope(axes: Axes, columns: Columns, names: tuple[str, ...]) -> None:
    """Draw the slope: above zero the steps raise the cost."""
    axes.plot(columns["step"], columns[names[0]], ".-", color=BLUE)
    axes.axhline(0.0, color=GREY, linewidth=1.2)


STEP_PANELS = (
    Panel("cost, in budgets", ("cost", "cost_mean", "cost_worst"), _draw_costs, 2.8),
    Panel("what set the length of the steps: share of steps", tuple(BRANCHES), _draw_shares, 1.7),
    Panel("step_length: distance that the parameters move", ("step_length",), _draw_line),
    Panel("grad_norm: gradient that the steps follow", ("grad_norm",), _draw_line),
    Panel("slope of the cost along the steps, 0 in a recovery", ("slope",), _draw_slope),
    Panel("eta: weight of the barrier", ("eta",), _draw_line),
    Panel("multiplier: weight of the cost", ("multiplier",), _draw_line),
)


def write_video(
    frames: Iterable[np.ndarray], path: Path, fps: float = 30
) -> tuple[Path | None, str]:
    """Write RGB frames as an mp4, or as a gif beside it where there is no mp4 encoder.

    Returns:
        The file written, or None; and the reason if it is not the mp4 ("" if it is).
    """
    images: list[Any] = [np.ascontiguousarray(frame) for frame in frames]
    if not images:
        return None, "no frames were rendered"
    try:
        import imageio.v2 as imageio
    except ImportError:
        return None, "imageio is not installed"
    try:
        imageio.mimwrite(path, images, format="FFMPEG", fps=fps, macro_block_size=2)
        return path, ""
    except Exception as error:  # imageio raises many types if ffmpeg is missing or fails
        path.unlink(missing_ok=True)
        reason = f"no mp4 encoder ({error})".splitlines()[0]
    gif = path.with_suffix(".gif")
    try:
        imageio.mimwrite(gif, images, format="GIF", duration=1000 / fps, loop=0)
    except Exception as error:
        return None, f"{reason}, and no gif ({error})".splitlines()[0]
    return gif, reason


def _read(run: RunFolder | Path, kind: str) -> tuple[RunFolder, list[dict[str, Any]], float]:
    """Read a run's metrics of one kind and its episode budget."""
    folder = run if isinstance(run, RunFolder) else RunFolder(run)
    rows = folder.read_metrics(kind)
    if not rows:
        raise RunError(f"{folder.path / 'metrics.jsonl'} has no {kind} lines to draw")
    return folder, rows, float(folder.read_config()["episode_budget"])


def _column(rows: Sequence[dict[str, Any]], key: str) -> np.ndarray:
    return np.array([row[key] for row in rows], dtype=float)


def running_mean(values: np.ndarray, window: int = 10) -> np.ndarray:
    """Compute the mean of the last ``window`` values at each index, fewer at the beginning."""
    return np.array([values[max(0, i + 1 - window) : i + 1].mean() for i in range(len(values))])


def _ring_violations(axes: Axes, steps: np.ndarray, values: np.ndarray) -> None:
    if len(steps):
        label = "over the budget"
        axes.scatter(steps, values, s=55, facecolors="none", edgecolors=RED, label=label)


def scale_costs(axes: Axes, name: str, budget: float, costs: np.ndarray) -> None:
    """Scale a cost axis; if costs exceed six budgets, it is logarithmic above two budgets."""
    axis = axes.xaxis if name == "x" else axes.yaxis
    largest = np.max(np.append(costs[np.isfinite(costs)], budget))
    top = 1.08 * largest
    if largest > 6 * budget:
        top = 1.3 * largest
        axes.set(**{f"{name}scale": SymmetricalLogScale(axis, linthresh=2 * budget)})
        ticks = [budget * share for share in (0, 0.5, 1, 2, 4, 10, 20, 40, 100, 1000)]
        axis.set_ticks([tick for tick in ticks if tick < top])
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter("{x:g}")
    axes.set(**{f"{name}lim": (-0.08 * budget, top)})


def in_thousands(steps: float, _: float | None = None) -> str:
    """Format a tick label of environment steps, for example 20k."""
    return f"{steps / 1000:g}k" if steps else "0"


def run_title(folder: RunFolder) -> str:
    """Name a run's task, recipe and seed."""
    config = folder.read_config()
    return f"{config.get('task', '')}, {config.get('recipe', '')}, seed {config.get('seed', '')}"


def save_figure(figure: Figure, folder: RunFolder, name: str) -> Path:
    """Save a figure into a run's folder and close it."""
    path = folder.path / name
    figure.savefig(path, dpi=130)
    plt.close(figure)
    return path
