"""Draw the errors of `rssm_static_dataset`, against updates and against the horizon."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.ticker import MaxNLocator

from recipes.plotting.figures import BLUE, GREY, LOOK, ORANGE, QUIET, plt

STYLES: dict[str, dict[str, Any]] = {
    "model": {"color": BLUE, "marker": "."},
    "last_value": {"color": ORANGE},
    "mean": {"color": GREY},
}
NAMES = {"model": "world model", "last_value": "last value", "mean": "training mean"}


def open_loop_figure(errors: list[dict[str, Any]], calls: list[dict[str, Any]], path: Path) -> Path:
    """Draw errors against updates (shortest and longest horizon) and against horizon (at the end).

    Args:
        errors: ``rows`` of the experiment's summary; an undefined error leaves a gap.
        calls: ``cost_rows`` of the summary.
        path: file to write.
    """
    signals = list(dict.fromkeys(row["signal"] for row in errors))
    stages = list(dict.fromkeys(row["updates"] for row in errors))
    horizons = sorted({1, max(row["horizon"] for row in errors)}, reverse=True)
    lines = dict(zip(horizons, "-:", strict=False))
    with plt.rc_context(LOOK):
        figure, axes = plt.subplots(2, len(signals) + 1, figsize=(15, 6.8))
        for (above, below), signal in zip(axes.T, signals, strict=False):
            chosen = [row for row in errors if row["signal"] == signal]
            for predictor, style in STYLES.items():
                for horizon, line in lines.items():
                    rows = [row for row in chosen if row["horizon"] == horizon]
                    above.plot(_column(rows, predictor), line, **style)
                rows = [row for row in chosen if row["updates"] == stages[-1]]
                below.plot(_column(rows, "horizon"), _column(rows, predictor), **style)
            above.set(title=signal, ylim=(0, _top(chosen)))
            below.set(xlabel="agent steps ahead", ylim=(0, None))
            below.xaxis.set_major_locator(MaxNLocator(integer=True))
            below.set_title(f"after {stages[-1]:,} updates", **QUIET)
        for axis, rate in zip(axes[:, -1], ("precision", "recall"), strict=True):
            for predictor in ("model", "last_value"):
                for horizon, line in lines.items():
                    rows = [row for row in calls if row["predictor"] == predictor]
                    rows = [row for row in rows if row["horizon"] == horizon]
                    axis.plot(_column(rows, rate), line, **STYLES[predictor])
            axis.set(title=f"{rate} of costly rows", ylim=(0, 1.02))
        for axis in (*axes[0], axes[1, -1]):
            axis.set_xticks(range(len(stages)), [str(stage) for stage in stages])
            axis.set_xlabel("model updates")
        for axis in axes[:, 0]:
            axis.set_ylabel("error / held-out variance")
        for predictor, style in STYLES.items():
            axes[0, 0].plot([], [], label=NAMES[predictor], **style)
        for horizon, line in lines.items():
            axes[0, 0].plot([], [], line, color="black", label=f"{horizon} ahead")
        figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=8)
        figure.savefig(path, dpi=130)
        plt.close(figure)
    return path


def _top(rows: list[dict[str, Any]]) -> float | None:
    """Choose the top of an axis by the trivial predictors; the untrained model may lie above."""
    shown = [row[name] for row in rows for name in ("last_value", "mean")]
    known = [value for value in shown if value is not None]
    return 1.3 * max(known) if known else None


def _column(rows: list[dict[str, Any]], key: str) -> np.ndarray:
    return np.array([np.nan if row[key] is None else row[key] for row in rows], dtype=float)
