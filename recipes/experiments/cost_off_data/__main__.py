"""What does the cost head predict for states that were never visited?

Fits the world model to the first episodes of a finished run and predicts the cost of later, faster
ones: the mean over members, the worst member and the true cost, in units of the budget's cost rate.
Before the first cost is observed, all members of a plain network predict 0; with the
Gaussian-process prior, the worst member stays high.

    python -m recipes.experiments.cost_off_data RUN_FOLDER --length-scales 3 4 6
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import rich
import torch
import tyro
from rich.table import Table

from blocks import Transitions
from recipes.agents import Components, Config, LatentAgent
from recipes.agents.builders import build_environment
from recipes.experiments.static_dataset import append, recorded_replay
from recipes.runs.errors import errors_in_one_line
from recipes.runs.folder import RunFolder


@dataclass(frozen=True)
class Options:
    """Run to read, and predictions to compare."""

    run: tyro.conf.Positional[Path]
    """Folder of a finished run of cerl_full."""
    length_scales: tuple[float, ...] = (3.0, 4.0, 6.0)
    """Length scales of the cost head to compare, in standard deviations of the stochastic state; a
    very large one disables the GP prior."""
    known: tuple[int, ...] = (5, 9, 14)
    """Numbers of episodes that the model is fitted to."""
    ahead: tuple[int, ...] = (0, 3, 10, 20)
    """Distance from the newest fitted episode to the judged one, in episodes; 0 is the newest."""
    updates_per_episode: int = 40
    """Model updates for each added episode; the first ones get 300 in total."""


def main(options: Options) -> None:
    run = RunFolder(options.run)
    config = Config.of_run(run)
    saved = run.read_checkpoint()["agent"]["replay"]
    count = len(saved["episode_starts"])
    if not all(1 <= known <= count for known in options.known):
        raise ValueError(f"known: got {options.known}; allowed: 1 to {count}, the run's episodes.")
    table = Table(title="expected cost in budgets: mean of members, worst member, truth")
    for column in ("length scale", "episodes known", "judged", "mean", "worst", "truth"):
        table.add_column(column, justify="right")
    for length_scale in options.length_scales:
        c = config.replace(cost_length_scale=length_scale)
        agent = LatentAgent(c, build_environment(c, c.seed), Components(agent=LatentAgent))
        for known, ahead, figures in _judge(agent, saved, options):
            judged = "newest known" if ahead == 0 else f"{ahead} ahead"
            table.add_row(
                f"{length_scale:g}", str(known), judged, *(f"{value:.2f}" for value in figures)
            )
    rich.print(table)


def _judge(
    agent: LatentAgent, saved: dict[str, Any], options: Options
) -> Iterator[tuple[int, int, tuple[float, float, float]]]:
    """Yield (episodes known, how far ahead, (mean, worst, truth)) for growing data."""
    borders = [*saved["episode_starts"], saved["added"]]
    everything = recorded_replay(saved)

    def rows(first: int, last: int) -> Transitions:
        return everything.gather(torch.tensor([borders[first]]), borders[last] - borders[first])

    done = 0
    for known in sorted(options.known):
        append(agent.replay, rows(done, known))
        agent.fit_posterior((known - done) * options.updates_per_episode if done else 300)
        done = known
        for ahead in options.ahead:
            episode = known - 1 + ahead
            if episode + 1 < len(borders):
                yield known, ahead, _figures(agent, rows(episode, episode + 1))


@torch.no_grad()
def _figures(agent: LatentAgent, episode: Transitions) -> tuple[float, float, float]:
    """Predict an episode's cost; return the mean, the worst member and the truth, in budgets."""
    state = agent.model.filter(episode, torch.Generator().manual_seed(0)).state
    cost = agent.model.cost(state.feat[0], agent.sample_posterior())[..., 0].mean(1)
    rate = float(agent.cost_rates[0])
    return float(cost.mean() / rate), float(cost.max() / rate), float(episode.cost.mean() / rate)


if __name__ == "__main__":
    torch.set_num_threads(1)
    with errors_in_one_line():
        main(tyro.cli(Options, args=sys.argv[1:]))
