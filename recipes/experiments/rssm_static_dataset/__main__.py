"""How well does the world model predict episodes it has never seen, when the data stand still?

Fits the world model to the recorded experience of one run. As the fit proceeds it is asked for
held-out episodes: filtered up to a row, then predicted open loop with the recorded actions. The
errors of observation, reward and cost stand beside those of two predictors that know no dynamics,
the last value and the training mean; of the cost, also whether costly rows are foreseen.

    python -m recipes.experiments.rssm_static_dataset --seed 0

The dataset is the replay of `ablation_objective_only.py --guard-share 0`, whose episodes are cheap
at first and costly later. That run is made once, in `runs/datasets`; a later call uses it again, or
goes on with it where it was stopped. `--run` takes the replay of any other run.
"""

import sys
import time
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import rich
import torch
import tyro
from rich.table import Table

from blocks import Normalizer, Particles, WorldModel, make_environment
from recipes.agents.builders import build_world_model, model_optimizer, model_step
from recipes.agents.config import Config
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
from recipes.experiments.rssm_static_dataset.figure import open_loop_figure
from recipes.experiments.static_dataset import Dataset, collect, read_dataset
from recipes.runs.errors import errors_in_one_line
from recipes.runs.folder import RunFolder

RECIPE = "experiment_rssm_static_dataset"
CALLED = 0.5
"""A row is called costly if its expected cost is above this share of a costly row's mean cost."""
TRIVIAL = ("last_value", "mean")


@dataclass(frozen=True, kw_only=True)
class Options:
    """Which data, and how long a fit."""

    task: str = "SafetyHalfCheetahVelocity-v1"
    """Safety-Gymnasium task of the dataset."""
    seed: int = 0
    """Seed of everything random, the dataset's included."""
    out: Path | None = None
    """Folder of figure and summary; runs/<recipe>/<task>/seed<k>-<time> by default."""
    smoke: bool = False
    """Tiny sizes, to see in seconds that everything works."""
    run: Path | None = None
    """Take replay, task and model sizes of the run in this folder, and collect nothing."""
    steps: int = 24_000
    """Environment steps of the dataset."""
    updates: tuple[int, ...] = (0, 100, 250, 500, 1000, 2500)
    """Model updates after which the errors are measured."""
    horizon: int = 15
    """Agent steps of the longest prediction."""

    def __post_init__(self) -> None:
        if self.horizon < 1:
            raise ValueError(f"horizon: got {self.horizon}; predict at least 1 step.")
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
    folder = RunFolder.create(RECIPE, data.config.task, o.seed, o.out)
    folder.write_config(asdict(o) | {"out": str(folder.path), "run": str(path)})

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
    """The untrained model of the dataset's configuration, normalised by the training rows."""
    c = data.config
    torch.manual_seed(seed)  # of the initial weights; all later noise is from the generator
    with closing(make_environment(c.task, seed=seed, action_repeat=c.action_repeat)) as environment:
        model = build_world_model(c, environment, Particles)
    assert isinstance(model.normalizer, Normalizer)  # of vectors
    model.normalizer.fit(data.training.observations)
    return model


def fit(
    model: WorldModel,
    optimizer: torch.optim.Optimizer,
    data: Dataset,
    updates: int,
    generator: torch.Generator,
) -> None:
    """Model updates on sequences drawn uniformly from the training episodes."""
    c: Config = data.config
    for _ in range(updates):
        batch = data.training.sample(c.batch_size, c.seq_len)
        loss = model.loss(batch, data_size=len(data.training), generator=generator)
        model_step(model, optimizer, loss)


# ---- what is shown -------------------------------------------------------------------------------


def acceptance(errors: list[dict[str, Any]], horizon: int) -> list[dict[str, Any]]:
    """At the end of the fit and at the longest horizon: does the model beat both, in each signal?

    Undefined (None) where the held-out signal never changes.
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
    """The nearest and the farthest horizon: the model as the fit proceeds, and the trivial ones."""
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
    """Precision and recall at the end of the fit."""
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
