"""Markdown tables of finished runs: a row a run, and a row with each recipe's seeds together.

    python recipes/summary_table.py runs/cerl_full/SafetyHalfCheetahVelocity-v1/*

Over seeds: the interquartile mean of what is averaged, the sum of what is counted, the maximum of
the worst episode. A second table shows what the members' disagreement was worth.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scipy.stats import trim_mean

COLUMNS = {
    "seed": "seed",
    "environment_steps": "steps",
    "policy_violations": "policy violations",
    "episode_violations": "episode violations",
    "worst_episode_cost": "worst episode",
    "cost_rate": "cost rate",
    "guard_episodes": "guard stepped in",
    "final_return": "final return",
    "final_cost": "final cost",
    "wall_seconds": "minutes",
}
COUNTED = ("policy_violations", "episode_violations", "guard_episodes")
PESSIMISM = {
    "pessimism_share": "share of the slack",
    "disagreement_recent": "recent states",
    "disagreement_far": "far states",
    "disagreement_new": "new episode",
    "disagreement_learned": "the same, learned",
}
WHEN = ("early", "late")
"""Each as an average over the first ten updates, `_early`, and over the last ten, `_late`."""


def read(folders: Sequence[str]) -> list[dict[str, Any]]:
    """The summaries of the folders (or summary files), sorted by recipe and seed."""
    summaries = []
    for folder in folders:
        file = Path(folder)
        file = file / "summary.json" if file.is_dir() else file
        try:
            summaries.append(json.loads(file.read_text()))
        except (OSError, ValueError) as error:
            raise SystemExit(f"error: no summary to read in {folder}: {error}") from error
    names = ("recipe", "members", "guard_share", "environment_steps", "seed")
    return sorted(summaries, key=lambda summary: [summary[name] for name in names])


def over_seeds(summaries: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One row for the runs of one recipe."""
    row: dict[str, Any] = {"seed": f"all {len(summaries)}"}
    for name in COLUMNS.keys() - {"seed"}:
        values = [summary[name] for summary in summaries]
        if name in COUNTED:
            row[name] = sum(values)
        elif name == "worst_episode_cost":
            row[name] = max(values)
        else:
            row[name] = float(trim_mean(values, 0.25))
    return row


def line(title: str, row: dict[str, Any]) -> str:
    """One line of the table."""
    shown = {
        "environment_steps": f"{row['environment_steps']:,.0f}",
        "worst_episode_cost": f"{row['worst_episode_cost']:.0f}",
        "cost_rate": f"{row['cost_rate']:.4f}",
        "final_return": f"{row['final_return']:,.0f}",
        "final_cost": f"{row['final_cost']:.1f}",
        "wall_seconds": f"{row['wall_seconds'] / 60:.1f}",
    }
    return f"| {title} | " + " | ".join(str(shown.get(k, row[k])) for k in COLUMNS) + " |"


def pessimism_line(summary: dict[str, Any]) -> str:
    """One line of the second table."""
    cells = [title(summary), str(summary["seed"]), f"{summary['environment_steps']:,}"]
    for name in PESSIMISM:
        for when in WHEN:
            form = ".0%" if name == "pessimism_share" else ".2f"
            value = summary.get(f"{name}_{when}")  # a share of no slack is left out
            cells.append("-" if value is None else format(value, form))
    return "| " + " | ".join(cells) + " |"


def heading(columns: Sequence[str]) -> None:
    """The head of a table whose first column is text."""
    print("| " + " | ".join(columns) + " |")
    print("|---|" + "---:|" * (len(columns) - 1))


def title(summary: dict[str, Any]) -> str:
    """What tells a run's kind from the others."""
    words = [summary["recipe"]]
    if summary["members"] == 1:
        words.append("K = 1")
    if not summary["guard_share"]:
        words.append("no guard")
    return ", ".join(words)


def main(folders: Sequence[str]) -> None:
    if not folders:
        raise SystemExit(f"usage: {Path(__file__).name} RUN_FOLDER...")
    groups: dict[tuple[str, int], list[dict[str, Any]]] = {}
    summaries = read(folders)
    for summary in summaries:
        groups.setdefault((title(summary), summary["environment_steps"]), []).append(summary)
    heading(["recipe", *COLUMNS.values()])
    for (name, _), group in groups.items():
        for row in [*group, over_seeds(group)] if len(group) > 1 else group:
            print(line(name, row))
    print()
    heading(["recipe", "seed", "steps", *(f"{n}, {w}" for n in PESSIMISM.values() for w in WHEN)])
    for summary in summaries:
        if summary["members"] > 1 and "disagreement_far_early" in summary:
            print(pessimism_line(summary))


if __name__ == "__main__":
    main(sys.argv[1:])
