"""Draw an audit: expected cost and probability of exceeding the budget of every policy."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from recipes.audits.records import AuditedPolicy, Rollouts
from recipes.audits.results import LivedPolicy
from recipes.plotting.figures import (
    BLUE,
    BUDGET_LINE,
    LOOK,
    ORANGE,
    in_thousands,
    plt,
    run_title,
    save_figure,
    scale_costs,
)
from recipes.runs.folder import RunFolder


def audit_figure(
    run: RunFolder, policies: Sequence[AuditedPolicy], lived: Sequence[LivedPolicy]
) -> Path:
    """Draw ``audit.png`` into the run's folder: each policy at the step at which it began."""
    budget = float(run.read_config()["episode_budget"])
    steps = np.array([policy.first_step for policy in lived])
    ways = {"as deployed": ([policy.deployed for policy in policies], BLUE)}
    if any(policy.deployed != policy.unguarded for policy in policies):
        ways["without guard"] = ([policy.unguarded for policy in policies], ORANGE)
    with plt.rc_context(LOOK):
        figure, (above, below) = plt.subplots(2, 1, figsize=(8, 6.4), sharex=True)
        largest: list[float] = [cost for policy in lived for cost in policy.costs]
        for place, (label, (rollouts, color)) in enumerate(ways.items()):
            look: dict[str, Any] = {"color": color, "label": label, "zorder": 3 - place}
            largest += _draw_costs(above, steps, rollouts, look)
            _draw_probabilities(below, steps, rollouts, look)
        for policy in lived:
            at, label = [policy.first_step] * len(policy.costs), "lived episode"
            style = {"color": "black", "markersize": 4, "zorder": 4}
            above.plot(at, policy.costs, ".", label=label if policy is lived[0] else None, **style)
        above.axhline(budget, label=f"budget {budget:g}", **BUDGET_LINE)
        scale_costs(above, "y", budget, np.array(largest))
        above.set(title=run_title(run), ylabel="expected episode cost")
        below.set(ylabel="P(cost over budget)", ylim=(-0.03, 1.03))
        below.set_xlabel("environment steps before the policy acted")
        below.xaxis.set_major_formatter(in_thousands)
        above.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
        return save_figure(figure, run, "audit.png")


def _draw_costs(
    axes: Axes, steps: np.ndarray, rollouts: Sequence[Rollouts], look: dict[str, Any]
) -> list[float]:
    """Draw means with their intervals, if they have one; return the largest values."""
    estimates = [policy.estimates() for policy in rollouts]
    means = np.array([estimate["mean_cost"] for estimate in estimates])
    bounds = np.array([e["interval"] or [e["mean_cost"]] * 2 for e in estimates])
    _draw(axes, steps, means, np.maximum(bounds, 0), look)
    return [*means, *bounds[:, 1]]


def _draw_probabilities(
    axes: Axes, steps: np.ndarray, rollouts: Sequence[Rollouts], look: dict[str, Any]
) -> None:
    estimates = [policy.estimates() for policy in rollouts]
    shares = np.array([estimate["over_budget"] for estimate in estimates])
    _draw(axes, steps, shares, np.array([e["over_budget_interval"] for e in estimates]), look)


def _draw(
    axes: Axes, steps: np.ndarray, values: np.ndarray, bounds: np.ndarray, look: dict[str, Any]
) -> None:
    lengths = np.abs(bounds.T - values)
    axes.errorbar(steps, values, yerr=lengths, fmt=".", markersize=6, elinewidth=1.2, **look)
    axes.plot(steps, values, color=look["color"], linewidth=0.8, alpha=0.35)
