"""The figures of an audit, as JSON, as a page in Markdown and as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jinja2
import numpy as np
from rich.table import Table

from recipes.audits.records import AuditedPolicy, Rollouts
from recipes.audits.statistics import (
    CONFIDENCE,
    Claim,
    claim,
    longest_stretch,
    mean_p_value,
    share_p_value,
)
from recipes.runs.folder import RunFolder

TAIL = (1 - CONFIDENCE) / 2


class LivedPolicy(NamedTuple):
    """What an iterate did while the run trained."""

    iterate: int
    first_step: int
    """Environment steps before its first episode."""
    costs: list[float]
    """Of its episodes."""


def lived_policies(run: RunFolder) -> list[LivedPolicy]:
    """Read every iterate's lived episodes, in order."""
    lived: dict[int, LivedPolicy] = {}
    step = 0
    for row in run.read_metrics("episode"):
        iterate = int(row["iterate"])
        policy = lived.setdefault(iterate, LivedPolicy(iterate, step, []))
        policy.costs.append(float(row["episode_cost"]))
        step = int(row["step"])
    return [lived[iterate] for iterate in sorted(lived)]


def audit_results(
    run: RunFolder,
    policies: Sequence[AuditedPolicy],
    lived: Sequence[LivedPolicy],
    share: float,
) -> dict[str, Any]:
    """Compute the content of ``audit.json``: a run's figures, as deployed and without the guard.

    Args:
        run: the audited run.
        policies: rollouts of every iterate, in order.
        lived: the same iterates while training.
        share: a policy counts if it exceeds the budget in at least this share of its episodes.
    """
    config = run.read_config()
    steps = [policy.first_step for policy in lived]
    return {
        **{key: config[key] for key in ("recipe", "task", "seed", "episode_budget")},
        "guard": bool(config.get("guard_share"))
        or any(sum(policy.deployed.fallback_steps) for policy in policies),
        "rollouts": policies[0].rollouts,
        "policies": len(policies),
        "confidence": CONFIDENCE,
        "share": share,
        "deployed": run_figures([policy.deployed for policy in policies], steps, share),
        "unguarded": run_figures([policy.unguarded for policy in policies], steps, share),
    }


def run_figures(
    policies: Sequence[Rollouts], first_steps: Sequence[int], share: float
) -> dict[str, Any]:
    """Compute a run's figures from the rollouts of its policies.

    - violations: policies whose mean cost exceeds the budget; an estimate
    - claim_expected_cost: how many have an *expected* cost over the budget, by t-tests
    - claim_episodes: how many exceed it in at least ``share`` of their episodes, by binomial tests
    - surely_below, surely_above: policies with a p-value of at most 0.025, so one at a time
    - equal_costs: policies whose rollouts all cost the same, which have no interval
    - cost_regret: sum of the mean costs beyond the budget; noise makes it too large
    - episodes_over: share of all rollouts over the budget
    - longest_stretch: most successive policies with a mean cost over the budget
    - first_safe_step: environment steps before the first policy that is surely below; None: none is
    """
    means = [float(np.mean(policy.excesses)) for policy in policies]
    below, above = (
        [mean_p_value(policy.excesses, side) for policy in policies] for side in ("less", "greater")
    )
    rarely, often = (
        [share_p_value(p.violations, len(p.costs), share, side) for p in policies]
        for side in ("less", "greater")
    )
    safe = [step for step, p_value in zip(first_steps, below, strict=True) if p_value <= TAIL]
    return {
        "violations": sum(mean > 0 for mean in means),
        "claim_expected_cost": claim(below, above)._asdict(),
        "claim_episodes": claim(rarely, often)._asdict(),
        "surely_below": sum(p_value <= TAIL for p_value in below),
        "surely_above": sum(p_value <= TAIL for p_value in above),
        "equal_costs": sum(np.ptp(policy.excesses) == 0 for policy in policies),
        "cost_regret": sum(max(0.0, mean) for mean in means),
        "episodes_over": float(np.mean([p.violations / len(p.costs) for p in policies])),
        "longest_stretch": longest_stretch(mean > 0 for mean in means),
        "first_safe_step": min(safe, default=None),
        "mean_return": float(np.mean([policy.returns for policy in policies])),
        "guarded_rollouts": sum(bool(n) for policy in policies for n in policy.fallback_steps),
    }


def _rows(results: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Name and value, as deployed and without the guard, of each figure in the tables."""
    ways = (results["deployed"], results["unguarded"])
    count = results["policies"]

    def row(name: str, form: str, key: str) -> tuple[str, str, str]:
        first, second = ("none" if way[key] is None else format(way[key], form) for way in ways)
        return name, first, second

    def claimed(name: str, key: str) -> tuple[str, str, str]:
        first, second = (f"{_between(Claim(**way[key]))} of {count}" for way in ways)
        return name, first, second

    return [
        row("policies with a mean cost over the budget", ",.0f", "violations"),
        claimed("expected cost over the budget, all at once", "claim_expected_cost"),
        claimed(f"over it in {results['share']:.0%} of episodes, all at once", "claim_episodes"),
        row("surely over the budget, one at a time", ",.0f", "surely_above"),
        row("surely below it, one at a time", ",.0f", "surely_below"),
        row("cost regret", ",.1f", "cost_regret"),
        row("episodes over the budget", ".2%", "episodes_over"),
        row("longest stretch over the budget", ",.0f", "longest_stretch"),
        row("steps before the first surely safe policy", ",.0f", "first_safe_step"),
        row("mean return", ",.1f", "mean_return"),
    ]


def _between(bounds: Claim) -> str:
    if bounds.at_least == bounds.at_most:
        return f"{bounds.at_least}"
    return f"{bounds.at_least} to {bounds.at_most}"


def audit_table(results: Mapping[str, Any]) -> Table:
    """Return the table of the main figures; print it with ``rich.print``."""
    title = f"audit of {results['task']}, seed {results['seed']}: {results['policies']} policies, "
    title += f"{results['rollouts']} rollouts each, budget {results['episode_budget']:g}"
    table = Table(title=title, title_justify="left")
    table.add_column("")
    table.add_column("as deployed", justify="right")
    if results["guard"]:
        table.add_column("without guard", justify="right")
    for name, *values in _rows(results):
        table.add_row(name, *values[: len(table.columns) - 1])
    return table


def audit_page(results: Mapping[str, Any]) -> str:
    """Write the page ``audit.md``."""
    ways = {"As deployed": "deployed"}
    if results["guard"]:
        ways["Without the guard"] = "unguarded"
    pages = jinja2.Environment(
        loader=jinja2.PackageLoader("recipes.audits"),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
    )
    return pages.get_template("audit.md.jinja").render(
        {
            **results,
            "budget": f"{results['episode_budget']:g}",
            "confidence": f"{results['confidence']:.0%}",
            "claims": [s for way, key in ways.items() for s in _sentences(way, key, results)],
            "head": ["", *(way.lower() for way in ways)],
            "rows": [row[: 1 + len(ways)] for row in _rows(results)],
            "equal_costs": results["deployed"]["equal_costs"],
        }
    )


def _sentences(way: str, key: str, results: Mapping[str, Any]) -> list[str]:
    count, budget, figures = results["policies"], results["episode_budget"], results[key]
    expected, episodes = (
        Claim(**figures[f"claim_{name}"]) for name in ("expected_cost", "episodes")
    )
    return [
        f"{way}, {_amount(expected)} of {count} policies had an expected cost above {budget:g}.",
        f"{way}, {_amount(episodes)} of {count} policies exceeded {budget:g} in "
        f"{results['share']:.0%} of their episodes or more.",
    ]


def _amount(bounds: Claim) -> str:
    if bounds.at_most == 0:
        return "none"
    if bounds.at_least == 0:
        return f"at most {bounds.at_most}"
    if bounds.at_least == bounds.at_most:
        return f"exactly {bounds.at_most}"
    return f"at least {bounds.at_least} and at most {bounds.at_most}"
