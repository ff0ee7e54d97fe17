"""The picture of `experiment_rssm_static_dataset`: errors as the fit proceeds, and far ahead."""

from pathlib import Path
from typing import Any

import numpy as np
from figures import BLUE, GREY, LOOK, ORANGE, plt
from matplotlib.axes import Axes
from matplotlib.scale import SymmetricalLogScale

STYLES: dict[str, dict[str, Any]] = {
    "model": {"color": BLUE, "marker": "."},
    "last_value": {"color": ORANGE},
    "mean": {"color": GREY},
}
NAMES = {"model": "world model", "last_value": "last value", "mean": "training mean"}
NEAR, FAR = "--", "-"


def open_loop_figure(errors: list[dict[str, Any]], calls: list[dict[str, Any]], path: Path) -> Path:
    """Draw errors against updates (nearest and farthest horizon) and against horizon (at the end).

    Args:
        errors: `rows` of the experiment's summary; an undefined error leaves a gap.
        calls: its `cost_rows`.
        path: of the png.
    """
    signals = list(dict.fromkeys(row["signal"] for row in errors))
    ends = sorted({1, max(row["horizon"] for row in errors)})
    last = errors[-1]["updates"]
    with plt.rc_context(LOOK):
        figure, axes = plt.subplots(2, len(signals) + 1, figsize=(15, 6.8))
        for column, signal in enumerate(signals):
            above, below = axes[:, column]
            chosen = [row for row in errors if row["signal"] == signal]
            for horizon, line in zip(ends, (NEAR, FAR)[-len(ends) :], strict=True):
                _lines(above, [r for r in chosen if r["horizon"] == horizon], "updates", line)
            _lines(below, [r for r in chosen if r["updates"] == last], "horizon", FAR)
            _count_updates(above)
            above.set_title(signal)
            below.set(xlabel="agent steps ahead", ylim=(0, None))
            below.set_title(f"after {last:,} updates", fontweight="normal", fontsize=10)
            above.set(ylim=(0, _top(chosen)))
        for axis in axes[:, 0]:
            axis.set_ylabel("error / held-out variance")
        for axis, rate in zip(axes[:, -1], ("precision", "recall"), strict=True):
            for horizon, line in zip(ends, (NEAR, FAR)[-len(ends) :], strict=True):
                for predictor in ("model", "last_value"):
                    chosen = [
                        row
                        for row in calls
                        if row["horizon"] == horizon and row["predictor"] == predictor
                    ]
                    values = _column(chosen, rate)
                    axis.plot(_column(chosen, "updates"), values, line, **STYLES[predictor])
            _count_updates(axis)
            axis.set(ylim=(0, 1.02))
            axis.set_title(f"{rate} of costly rows")
        for name, style in STYLES.items():
            axes[0, 0].plot([], [], label=NAMES[name], **style)
        for horizon, line in zip(ends, (NEAR, FAR)[-len(ends) :], strict=True):
            axes[0, 0].plot([], [], line, color="black", label=f"{horizon} ahead")
        entries, names = axes[0, 0].get_legend_handles_labels()
        figure.legend(entries, names, loc="outside lower center", ncols=8)
        figure.savefig(path, dpi=130)
        plt.close(figure)
    return path


def _lines(axes: Axes, rows: list[dict[str, Any]], by: str, line: str) -> None:
    for predictor, style in STYLES.items():
        axes.plot(_column(rows, by), _column(rows, predictor), line, **style)


def _top(rows: list[dict[str, Any]]) -> float | None:
    """Top of an axis: the untrained model may leave it, so that the others can be told apart."""
    shown = [row[name] for row in rows for name in ("last_value", "mean")]
    known = [value for value in shown if value is not None]
    return 1.3 * max(known) if known else None


def _count_updates(axes: Axes) -> None:
    """Updates on an axis that shows the untrained model too, and the first ones well apart."""
    axes.set(xscale=SymmetricalLogScale(axes.xaxis, linthresh=250), xlabel="model updates")


def _column(rows: list[dict[str, Any]], key: str) -> np.ndarray:
    return np.array([np.nan if row[key] is None else row[key] for row in rows], dtype=float)
