"""A Markdown table of finished runs: a row a run, and a row with each recipe's seeds together.

    python recipes/summary_table.py runs/cerl_full/SafetyHalfCheetahVelocity-v1/*

Over seeds: the interquartile mean of what is averaged, the sum of what is counted, the maximum of
the worst episode.
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
    return sorted(summaries, key=lambda s: (s["recipe"], s["members"], s["guard_share"], s["seed"]))


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
    groups: dict[str, list[dict[str, Any]]] = {}
    for summary in read(folders):
        groups.setdefault(title(summary), []).append(summary)
    print("| recipe | " + " | ".join(COLUMNS.values()) + " |")
    print("|---|" + "---:|" * len(COLUMNS))
    for name, group in groups.items():
        for row in [*group, over_seeds(group)] if len(group) > 1 else group:
            print(line(name, row))


if __name__ == "__main__":
    main(sys.argv[1:])
