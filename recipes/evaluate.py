"""Evaluate a run's policy without exploration: return, cost and length of each episode.

    python recipes/evaluate.py runs/cerl_full/SafetyHalfCheetahVelocity-v1/seed0-20250101-120000

Loads the run's last checkpoint, finished or not, and writes evaluation.json into its folder. With
the defaults it repeats the evaluation at the end of the run. `--save-policy FOLDER` writes the
policy alone, for `blocks.load_policy`; such a folder can be evaluated, too. Runs of agents that are
not in `recipes/` are evaluated from Python, with `recipes.evaluations.evaluate(run, agent=...)`.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import rich
import tyro
from rich.table import Table

from recipes.evaluations import evaluate
from recipes.runs.errors import errors_in_one_line


@dataclass(frozen=True)
class Options:
    """What to evaluate."""

    run: tyro.conf.Positional[Path]
    """Folder of a run, or of a saved policy."""
    episodes: int | None = None
    """Episodes; default: as many as in the run's own evaluation."""
    task: str | None = None
    """Another task with the same observations and actions."""
    seed: int | None = None
    """Chooses the episodes; default: the run's seed."""
    guard: Literal["on", "off"] = "off"
    """Let the run's guard end the policy's part of an episode."""
    video: tyro.conf.FlagCreatePairsOff[bool] = False
    """Write evaluation.mp4: the first episode, without the guard, at the task's real speed."""
    save_policy: Path | None = None
    """Write the policy alone to this folder, with a model card."""


def main(arguments: list[str]) -> None:
    """Run the script; errors are printed in one line."""
    options = tyro.cli(Options, args=arguments)
    with errors_in_one_line():
        results = evaluate(
            options.run,
            episodes=options.episodes,
            task=options.task,
            seed=options.seed,
            guard=options.guard == "on",
            video=options.video,
            save_to=options.save_policy,
        )
    rich.print(evaluation_table(results))
    print(f"the policy after {results['trained_steps']:,} steps")
    if not results["deterministic"]:
        print("the agent decides by itself whether it acts with noise: results may not repeat")
    if "video" in results:
        print(f"the video is {results['video']}")
    if options.save_policy:
        print(f"the policy is in {options.save_policy}")
    print(f"the evaluation is in {options.run / 'evaluation.json'}")


def evaluation_table(results: Mapping[str, Any]) -> Table:
    """Return a table of the content of ``evaluation.json``, a row for each episode."""
    title = f"{results['task']}, seed {results['seed']}"
    table = Table(title=title, title_justify="left")
    budget = results["episode_budget"]
    table.add_column("episode")
    for name in ("return", f"cost (budget {budget:g})", "steps"):
        table.add_column(name, justify="right")
    if results["guard"]:
        table.add_column("of them the fallback's", justify="right")
    columns = ("returns", "costs", "steps", "fallback_steps")
    for index, (total, cost, steps, fallback) in enumerate(
        zip(*(results[name] for name in columns), strict=True)
    ):
        cells = [str(index), f"{total:,.1f}", f"{cost:,.1f}", f"{steps:,}"]
        cells += [f"{fallback:,}"] if results["guard"] else []
        table.add_row(*cells, style="red" if cost > budget else "")
    table.add_section()
    means = (f"{results[name]:,.1f}" for name in ("return_mean", "cost_mean", "steps_mean"))
    table.add_row("mean", *means, style="bold")
    return table


if __name__ == "__main__":
    main(sys.argv[1:])
