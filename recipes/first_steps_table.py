"""A Markdown table of how runs began: their first steps, and their first ten updates.

    python recipes/first_steps_table.py docs/results/cerl_full-seed*.metrics.jsonl --steps 30000

For runs of different lengths, whose summaries cannot be compared.
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
from cerl_config import Config
from results import pessimism_and_disagreement

from blocks import EpisodeRecord, safety_summary

COLUMNS = (
    *("run", "episodes", "policy violations", "guard stepped in", "cost rate"),
    *("worst / mean", "share of the slack"),
)


@dataclass(frozen=True)
class Options:
    """Which runs, and how much of them."""

    metrics: tyro.conf.Positional[tuple[Path, ...]]
    """metrics.jsonl of each run."""
    steps: int = 30_000
    """Environment steps that are looked at."""
    episode_budget: float = Config.episode_budget
    """Cost allowed per episode of 1000 steps."""
    budget_share: float = Config.budget_share
    """Share of the budget that the policy was optimised for."""


def first_steps(rows: list[dict[str, Any]], options: Options) -> list[float]:
    """The figures of one run, in the order of the columns."""
    records, before = [], 0
    for row in rows:
        if row["kind"] == "episode" and row["step"] <= options.steps:
            records.append(
                EpisodeRecord(
                    row["iterate"],
                    row["episode_cost"],
                    row["episode_return"],
                    row["step"] - before,
                    row["fallback_steps"],
                )
            )
            before = row["step"]
    safety = safety_summary(records, episode_budget=options.episode_budget, episode_length=1000)
    updates = [row for row in rows if row["kind"] == "update"]
    worst, mean = (sum(row[f"cost_{kind}"] for row in updates[:10]) for kind in ("worst", "mean"))
    share = pessimism_and_disagreement(updates, options.budget_share).get("pessimism_share_early")
    return [
        safety.episodes,
        safety.policy_violations,
        sum(record.fallback_steps > 0 for record in records),
        safety.cost_rate,
        worst / mean,
        float("nan") if share is None else share,
    ]


def main(options: Options) -> None:
    print("| " + " | ".join(COLUMNS) + " |")
    print("|---|" + "---:|" * (len(COLUMNS) - 1))
    for file in options.metrics:
        try:
            rows = [json.loads(line) for line in file.read_text().splitlines()]
        except (OSError, ValueError) as error:
            raise SystemExit(f"error: no metrics to read in {file}: {error}") from error
        episodes, violations, guard, rate, ratio, share = first_steps(rows, options)
        name = file.name.removesuffix(".metrics.jsonl")
        name = str(file.parent) if name == "metrics.jsonl" else name
        print(
            f"| {name} | {episodes} | {violations} | {guard} | {rate:.4f} "
            f"| {ratio:.2f} | {share:.0%} |"
        )


if __name__ == "__main__":
    main(tyro.cli(Options, args=sys.argv[1:]))
