"""How well does the world model predict held-out episodes of a fixed dataset?

Fits the world model to the recorded episodes of one run. At several stages of the fit it predicts
held-out episodes: it filters up to a row, then predicts open loop with the recorded actions.
Compares its errors of observation, reward and cost with those of two predictors without dynamics,
the last value and the training mean; also reports precision and recall of costly rows.

    python -m recipes.experiments.rssm_static_dataset --seed 0

The dataset is the replay of `ablation_objective_only.py --guard-share 0`: cheap episodes at first,
costly ones later. The run is made once, in `runs/datasets`; later calls reuse or resume it. `--run`
takes the replay of any other run.
"""

import sys
import time
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import rich
import torch
import tyro
from rich.table import Table

from blocks import Normalizer, WorldModel, make_environment
from recipes.agents import Components, LatentAgent
from recipes.agents.builders import model_optimizer
from recipes.agents.latent_agent import descend
from recipes.experiments.open_loop import (
    SIGNALS,
    call_rows,
    error_rows,
    last_value,
    open_loop,
    starts_of,
    training_mean,
    truth,
)
from recipes.experiments.options import ExperimentOptions
from recipes.experiments.rssm_static_dataset.figure import open_loop_figure
from recipes.experiments.static_dataset import Dataset, collect, read_dataset
from recipes.runs.errors import errors_in_one_line

RECIPE = "experiment_rssm_static_dataset"
CALLED = 0.5
"""A row is called costly if its expected cost is above this share of a costly row's mean cost."""
TRIVIAL = ("last_value", "mean")


@dataclass(frozen=True, kw_only=True)
class Options(ExperimentOptions):
    """Dataset, and length of the fit."""

    task: str = "SafetyHalfCheetahVelocity-v1"
    """Safety-Gymnasium task of the dataset."""
    run: Path | None = None
    """Take replay, task and model sizes from the run in this folder; collect nothing."""
    steps: int = 24_000
    """Environment steps of the dataset."""
    updates: tuple[int, ...] = (0, 100, 250, 500, 1000, 2500)
    """Model updates after which the errors are measured."""
    horizon: int = 15
    """Agent steps of the longest prediction."""

    def __post_init__(self) -> None:
        self.require_at_least_one("horizon")
        rising = sorted(set(self.updates)) == list(self.updates)
        if not self.updates or not rising or self.updates[0] < 0:
            raise ValueError(f"updates: got {self.updates}; give rising numbers, each at least 0.")


def main(options: Options) -> None:
    if options.smoke:
        options = replace(options, steps=5000, updates=(0, 5, 10), horizon=5)
    began = time.monotonic()
    o = options
    path = o.run or collect(o.task, o.seed, o.steps, smoke=o.smoke)
    data = read_dataset(path, o.seed)
    starts = starts_of(data.held_out, o.horizon)
    folder = o.create_folder(RECIPE, data.config.task, run=str(path))

    model = world_model(data, o.seed)
    optimizer = model_optimizer(data.config, model)
    generator = torch.Generator().manual_seed(o.seed)
    target = truth(model, starts, o.horizon)
    trivial = {
        "last_value": last_value(model, starts, o.horizon),
        "mean": training_mean(model, data.training_rows, target),
    }
    threshold = CALLED * data.costly_row
    errors: list[dict[str, Any]] = []
    calls: list[dict[str, Any]] = []
    done = 0
    for updates in o.updates:
        fit(model, optimizer, data, updates - done, generator)
        done = updates
        predictions = {"model": open_loop(model, starts, o.horizon, seed=o.seed)} | trivial
        errors += error_rows(updates, predictions, target)
        calls += call_rows(updates, predictions, target, threshold)
        print(f"{updates} updates, {time.monotonic() - began:.0f} s", flush=True)

    rich.print(error_table(errors, o), call_table(calls, o))
    figure = open_loop_figure(errors, calls, folder.path / "open_loop.png")
    summary = {
        "recipe": RECIPE,
        "task": data.config.task,
        "seed": o.seed,
        "dataset": data.described(),
        "starts": target.cost.shape[1],
        "acceptance": acceptance(errors, o.horizon),
        "rows": errors,
        "cost_threshold": threshold,
        "cost_rows": calls,
        "wall_seconds": round(time.monotonic() - began, 1),
    }
    folder.write_summary(summary)
    folder.close()
    print(f"{summary['wall_seconds']} s; figure and summary are in {figure.parent}")


# ---- the fit -------------------------------------------------------------------------------------


def world_model(data: Dataset, seed: int) -> WorldModel:
    """Build an untrained model by the dataset's configuration; fit its normaliser."""
    c = data.config
    torch.manual_seed(seed)  # for the initial weights; later noise is from a generator
    with closing(make_environment(c.task, seed=seed, action_repeat=c.action_repeat)) as environment:
        model = Components(agent=LatentAgent).world_model(c, environment)
    assert isinstance(model.normalizer, Normalizer)  # observations are vectors
    model.normalizer.fit(data.training.observations)
    return model


def fit(
    model: WorldModel,
    optimizer: torch.optim.Optimizer,
    data: Dataset,
    updates: int,
    generator: torch.Generator,
) -> None:
    """Update the model on sequences drawn uniformly from the training episodes."""
    c = data.config.model
    for _ in range(updates):
        batch = data.training.sample(c.batch_size, c.seq_len)
        loss = model.loss(batch, data_size=len(data.training), generator=generator)
        descend(loss, model, optimizer)


# ---- verdict and tables --------------------------------------------------------------------------


def acceptance(errors: list[dict[str, Any]], horizon: int) -> list[dict[str, Any]]:
    """Compare the fitted model with both trivial predictors, at the longest horizon of each signal.

    ``beats_both`` is None if the held-out signal is constant.
    """
    last = errors[-1]["updates"]
    return [
        {name: row[name] for name in ("signal", "horizon", "model", *TRIVIAL)}
        | {
            "beats_both": None
            if row["model"] is None
            else all(row["model"] < row[predictor] for predictor in TRIVIAL)
        }
        for row in errors
        if row["updates"] == last and row["horizon"] == horizon
    ]


def error_table(errors: list[dict[str, Any]], options: Options) -> Table:
    """Tabulate errors of all predictors at the shortest and longest horizon, at each stage."""
    updates = [f"{count:,} updates" for count in options.updates]
    table = Table(title="held-out error, in units of the signal's variance")
    table.add_column("signal")
    for column in ("steps ahead", *updates, "last value", "training mean"):
        table.add_column(column, justify="right")
    for signal in SIGNALS:
        for horizon in sorted({1, options.horizon}):
            rows = [r for r in errors if r["signal"] == signal and r["horizon"] == horizon]
            values = [row["model"] for row in rows] + [rows[-1][name] for name in TRIVIAL]
            table.add_row(signal, str(horizon), *map(_number, values))
    return table


def call_table(calls: list[dict[str, Any]], options: Options) -> Table:
    """Tabulate precision and recall at the end of the fit."""
    table = Table(title=f"costly rows foreseen, after {options.updates[-1]:,} updates")
    table.add_column("predictor")
    for column in ("steps ahead", "called costly", "costly", "precision", "recall"):
        table.add_column(column, justify="right")
    for row in calls:
        if row["updates"] == options.updates[-1]:
            counts = (str(row[name]) for name in ("horizon", "called", "costly"))
            rates = (_number(row[name]) for name in ("precision", "recall"))
            table.add_row(row["predictor"].replace("_", " "), *counts, *rates)
    return table


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


if __name__ == "__main__":
    torch.set_num_threads(1)
    with errors_in_one_line():
        main(tyro.cli(Options, args=sys.argv[1:]))
