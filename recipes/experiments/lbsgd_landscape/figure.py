"""Draw the walks, gaps and measured confidence of `lbsgd_landscape`."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from torch import Tensor

from recipes.experiments.lbsgd_landscape.landscapes import LANDSCAPES, Landscape
from recipes.plotting.figures import BLUE, GREEN, GREY, LOOK, ORANGE, RED, plt

STYLES: dict[str, dict[str, Any]] = {
    "LBSGD": {"color": BLUE, "linewidth": 2, "zorder": 5},
    "LBSGD, secant": {"color": BLUE, "linestyle": ":", "zorder": 5},
    "LBSGD, Adam": {"color": GREEN},
    "barrier, Adam": {"color": GREY},
    "Augm. Lagrangian": {"color": ORANGE},
    "PID-Lagrangian": {"color": RED},
}
Limits = tuple[tuple[float, float], tuple[float, float]]
DRAWN: dict[str, Limits] = {  # landscape -> limits of x and y
    "ball, 2": ((-1.6, 1.6), (-1.6, 1.6)),
    "three disks": ((-0.8, 0.8), (-0.4, 1.2)),
    "ring": ((-2.6, 2.6), (-2.6, 2.6)),
    "Rosenbrock in a disk": ((-1.3, 1.3), (-1.3, 1.3)),
}
CURVES = ("ball, 1000", "box, 10")


def landscape_figure(
    paths: dict[tuple[str, str], Tensor], confidence: list[dict[str, Any]], path: Path
) -> Path:
    """Draw walks in the plane above; below, gaps against iterations and measured confidence.

    Args:
        paths: (landscape, method) -> points ``[step + 1, dimension]``.
        confidence: ``confidence`` rows of the experiment's summary.
        path: file to write.
    """
    with plt.rc_context(LOOK):
        figure, axes = plt.subplots(2, 4, figsize=(16, 8))
        for axis, (name, limits) in zip(axes[0], DRAWN.items(), strict=True):
            _plane(axis, LANDSCAPES[name], limits)
            for method, style in STYLES.items():
                if (name, method) in paths:
                    axis.plot(*paths[name, method].T, label=method, **style)
        for axis, name in zip(axes[1, :2], CURVES, strict=True):
            _gaps(axis, name, paths)
        _confidence(axes[1, 2], confidence, "step", "steps")
        _confidence(axes[1, 3], confidence, "walk", "walks")
        entries = {
            label: handle
            for axis in axes[0]
            for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)
        }
        figure.legend(entries.values(), entries.keys(), loc="outside lower center", ncols=6)
        figure.savefig(path, dpi=120)
        plt.close(figure)
    return path


def _plane(axes: Axes, landscape: Landscape, limits: Limits) -> None:
    first, second = (np.linspace(low, high, 300) for low, high in limits)
    grid = torch.from_numpy(np.stack(np.meshgrid(first, second), axis=-1))
    feasible = (landscape.slack(grid) > 0).all(-1).numpy()
    axes.contourf(first, second, feasible, levels=[0.5, 1.5], colors=["#e3edf7"])
    gap = np.arcsinh(10 * landscape.gap(grid).numpy())
    axes.contour(first, second, gap, levels=12, colors="#c9ced6", linewidths=0.6)
    axes.plot(*landscape.start, "o", color="black", markersize=5)
    axes.plot(*landscape.optimum, "*", color="black", markersize=11, zorder=6)
    axes.set(title=landscape.name, xlim=limits[0], ylim=limits[1], aspect="equal")
    axes.grid(visible=False)


def _gaps(axes: Axes, name: str, paths: dict[tuple[str, str], Tensor]) -> None:
    for method, style in STYLES.items():
        if (name, method) in paths:
            gap = LANDSCAPES[name].gap(paths[name, method]).abs().clamp_min(1e-8)
            axes.plot(gap, label=method, **style)
    axes.set(title=f"{name}: |gap|", xlabel="iteration", yscale="log", ylim=(1e-5, 3))


def _confidence(axes: Axes, rows: list[dict[str, Any]], promise: str, measured: str) -> None:
    """Draw measured rates against the promised level."""
    chosen = [row for row in rows if row["promise"] == promise and row["level"] is not None]
    levels = [row["level"] for row in chosen]
    shown = (
        (f"{promise} feasible", measured, BLUE),
        ("all bounds of a step held", "bounds", GREEN),
    )
    for label, name, color in shown:
        rates = np.array([[row[name][end] for end in ("rate", "lower", "upper")] for row in chosen])
        axes.plot(levels, rates[:, 0], "o-", color=color, label=label)
        axes.vlines(levels, rates[:, 1], rates[:, 2], color=color, alpha=0.4)
    axes.plot([0.75, 1], [0.75, 1], color=GREY, linestyle="--", label="promised")
    for row in rows:
        if row["level"] is None:
            without = row[measured]["rate"]
            axes.axhline(without, color=RED, linestyle=":", label=f"{promise} feasible, no bounds")
    axes.set(title=f"level for each {promise}", xlabel="promised", ylabel="measured rate")
    axes.set(ylim=(min(0.75, axes.get_ylim()[0]), 1.01))
    axes.legend(fontsize=8)
