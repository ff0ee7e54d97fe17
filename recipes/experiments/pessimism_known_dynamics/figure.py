"""Draw coverage and excess of the pessimistic cost returns of `pessimism_known_dynamics`."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.scale import SymmetricalLogScale
from matplotlib.ticker import PercentFormatter

from recipes.plotting.figures import BLUE, GREEN, GREY, LOOK, ORANGE, RED, plt

STYLES: dict[str, dict[str, Any]] = {
    "exact": {"color": "black"},
    "particles": {"color": BLUE},
    "particles, exponential weights": {"color": BLUE, "linestyle": "--"},
    "particles, shares of 0.8": {"color": BLUE, "linestyle": "-."},
    "particles, shares of 0.5": {"color": BLUE, "linestyle": ":"},
    "stein": {"color": GREEN},
    "mean_field": {"color": ORANGE},
    "point": {"color": RED},
}
EXPECTED: dict[str, Any] = {"color": GREY, "linewidth": 4, "alpha": 0.4, "zorder": 0}


def coverage_figure(rows: list[dict[str, Any]], members: int, path: Path) -> Path:
    """Draw coverage and excess of the worst case, against data (K fixed) and against members.

    Args:
        rows: ``rows`` of the experiment's summary.
        members: K of the panels against data.
        path: file to write.
    """
    worst = [row for row in rows if row["aggregator"] == "worst_case"]
    cases = list(dict.fromkeys(row["case"] for row in worst))
    fixed = [row for row in worst if row["members"] == members]
    sizes = sorted({row["data"] for row in worst})
    middle = sizes[len(sizes) // 2]
    swept = [row for row in worst if row["case"] == cases[0] and row["data"] == middle]
    counts = np.array(sorted({row["members"] for row in swept}))
    with plt.rc_context(LOOK):
        figure, axes = plt.subplots(2, len(cases) + 1, figsize=(15, 6.8))
        for column, case in enumerate(cases):
            chosen = [row for row in fixed if row["case"] == case]
            for axis, value in zip(axes[:, column], ("coverage", "excess"), strict=True):
                _lines(axis, chosen, "data", value)
            axes[0, column].axhline(members / (members + 1), **EXPECTED)
            axes[0, column].set_title(f"{case}, K = {members}")
        for axis, value in zip(axes[:, -1], ("coverage", "excess"), strict=True):
            _lines(axis, swept, "members", value)
        axes[0, -1].plot(counts, counts / (counts + 1), label="K / (K + 1)", **EXPECTED)
        axes[0, -1].set_title(f"{cases[0]}, {middle} data")
        for axis in axes[0]:
            axis.set(ylim=(0, 1.02), ylabel="worst case covers the truth")
        for axis in axes[1]:
            axis.set(yscale=SymmetricalLogScale(axis.yaxis, linthresh=1))
            axis.set(ylabel="median excess over the truth", ylim=(-1.05, None))
            axis.yaxis.set_major_formatter(PercentFormatter(1.0))
            axis.axhline(0, color=GREY, linewidth=1)
        entries, names = axes[0, -1].get_legend_handles_labels()
        figure.legend(entries, names, loc="outside lower center", ncols=5)
        figure.savefig(path, dpi=130)
        plt.close(figure)
    return path


def _lines(axes: Axes, rows: list[dict[str, Any]], by: str, value: str) -> None:
    for family, style in STYLES.items():
        chosen = sorted((row for row in rows if row["family"] == family), key=lambda row: row[by])
        x, y = ([row[name] for row in chosen] for name in (by, value))
        axes.plot(x, y, marker=".", label=family, **style)
        if value == "coverage":
            lower, upper = ([row[end] for row in chosen] for end in ("lower", "upper"))
            axes.vlines(x, lower, upper, color=style["color"], alpha=0.4)
    ticks = sorted({row[by] for row in rows})
    axes.set(xscale="log", xlabel="data (transitions)" if by == "data" else "members K")
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
