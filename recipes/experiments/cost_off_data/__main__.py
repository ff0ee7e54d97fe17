"""What does the cost head say about states nobody has visited?

Takes the experience of a finished run, fits the world model to its first episodes only, and asks
every member what later, faster episodes cost: the mean over members, the worst member, and the
truth, in units of the budget's cost rate. Before the first cost has been seen a plain network and
all its members say "nothing"; the Gaussian-process prior keeps the worst of them high.

    python -m recipes.experiments.cost_off_data RUN_FOLDER --length-scales 1.0 1.5 2.0
"""

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import rich
import torch
import tyro
from rich.table import Table

from blocks import SequenceReplay, make_environment
from recipes.agents.config import Config, config_from_json
from recipes.cerl_full import CERL
from recipes.experiments.static_dataset import recorded_replay
from recipes.runs.errors import errors_in_one_line
from recipes.runs.folder import RunFolder


@dataclass(frozen=True)
class Options:
    """Which run, and what to ask of it."""

    run: tyro.conf.Positional[Path]
    """Folder of a finished run of cerl_full."""
    length_scales: tuple[float, ...] = (1.0, 1.5, 2.0)
    """Length scales of the cost head to compare; a huge one is no Gaussian process at all."""
    known: tuple[int, ...] = (5, 9, 14)
    """How many episodes the model knows."""
    ahead: tuple[int, ...] = (0, 3, 10, 20)
    """How far ahead of them the judged episodes lie; 0 is the newest known one."""
    updates_per_episode: int = 40
    """Model updates for each episode that is added, after 300 for the first ones."""


def main(options: Options) -> None:
    run = RunFolder(options.run)
    config = config_from_json(run.read_config())
    saved = run.read_checkpoint()["agent"]["replay"]
    table = Table(title="expected cost in budgets: mean of members, worst member, truth")
    for column in ("length scale", "episodes known", "judged", "mean", "worst", "truth"):
        table.add_column(column, justify="right")
    for length_scale in options.length_scales:
        agent = _fresh(replace(config, cost_length_scale=length_scale))
        for known, ahead, figures in _judge(agent, saved, options):
            judged = "newest known" if ahead == 0 else f"{ahead} ahead"
            table.add_row(
                f"{length_scale:g}", str(known), judged, *(f"{value:.2f}" for value in figures)
            )
    rich.print(table)


def _fresh(config: Config) -> CERL:
    environment = make_environment(
        config.task, seed=config.seed, action_repeat=config.action_repeat
    )
    return CERL(config, environment)


def _judge(agent: CERL, saved: dict[str, Any], options: Options) -> Any:
    """Yield (episodes known, how far ahead, (mean, worst, truth)) as the data grow."""
    borders = [*saved["episode_starts"], saved["added"]]
    everything = recorded_replay(saved)
    done = 0
    for known in sorted(options.known):
        for row in range(borders[done], borders[known]):
            values = {name: store[row] for name, store in saved["rows"].items()}
            agent.replay.add(**{k: v if v.dim() else v.item() for k, v in values.items()})
        agent.learn_model((known - done) * options.updates_per_episode if done else 300)
        done = known
        for ahead in options.ahead:
            episode = known - 1 + ahead
            if episode + 1 < len(borders):
                yield known, ahead, _figures(agent, everything, borders, episode)


@torch.no_grad()
def _figures(
    agent: CERL, everything: SequenceReplay, borders: list[int], episode: int
) -> tuple[float, float, float]:
    start, length = borders[episode], borders[episode + 1] - borders[episode]
    data = everything.gather(torch.tensor([start]), length)
    state = agent.model.filter(data, torch.Generator().manual_seed(0)).state
    cost = agent.model.cost(state.feat[0], agent.weights()).mean(1)
    rate = agent.budget * (1 - agent.config.cost_discount)
    truth = data.cost.mean()
    return float(cost.mean() / rate), float(cost.max() / rate), float(truth / rate)


if __name__ == "__main__":
    torch.set_num_threads(1)
    with errors_in_one_line():
        main(tyro.cli(Options, args=sys.argv[1:]))
