"""Do the latents of images contain what safety needs? Probes them for the simulator's state.

Fits the world model to recorded images of a navigation task. Linear and small-network probes then
predict obstacle proximity, agent velocity and goal direction from its filtered latents, and for
comparison from the raw image, from the untrained encoder and from the untrained model's latents.
The probes of the trained latents show the blind spots around the robot, and whether errors of the
predicted cost coincide with errors of obstacle proximity.

    python -m recipes.experiments.latent_probe --task SafetyPointGoal1-v0 --seed 0
"""

import sys
import time
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import rich
import torch
import tyro
from rich.table import Table

from blocks import Graphed, Transitions, WorldModel
from blocks.world_model import WorldModelLoss
from recipes.agents import Components, Config, LatentAgent
from recipes.agents.builders import model_optimizer, require_device
from recipes.agents.latent_agent import update_model
from recipes.experiments.latent_probe.dataset import (
    TRUTHS,
    ImageDataset,
    collect,
    open_environment,
    read,
    require_goal_and_obstacles,
)
from recipes.experiments.latent_probe.figure import blind_spots_figure
from recipes.experiments.latent_probe.probes import rank_correlation
from recipes.experiments.latent_probe.probing import (
    PROBED,
    cost_errors,
    embeds,
    images,
    latents,
    probe,
    proximity_errors,
    score_rows,
    spread_rows,
)
from recipes.experiments.open_loop import (
    last_value,
    normalised_error,
    open_loop,
    starts_of,
    training_mean,
    truth,
)
from recipes.experiments.options import ExperimentOptions
from recipes.plotting.filmstrip import IMAGINED, WATCHED, filmstrip
from recipes.reports.statistics import Estimate
from recipes.runs.errors import errors_in_one_line
from recipes.runs.folder import RunFolder

RECIPE = "experiment_latent_probe"
REPRESENTATIONS = ("latents", "image", "random encoder", "random latents")
EARLIEST = 2 * WATCHED + IMAGINED  # first row at which a filmstrip may begin to imagine
SHORTEST_EPISODE = 2 * (EARLIEST - WATCHED + 1)  # rows that the choice of a scene needs
IMAGE_STRIDE = 20  # every 20th row is a start row, or part of the mean: images are large


@dataclass(frozen=True, kw_only=True)
class Options(ExperimentOptions):
    """Dataset, model, fit and probes."""

    task: str = "SafetyPointGoal1-v0"
    """Safety-Gymnasium navigation task with a goal."""
    episodes: int = 120
    """Episodes of the dataset."""
    updates: int = 14_000
    """Model updates."""
    probe_rows: int = 6000
    """Training rows of the probes, evenly spread."""
    probe_steps: int = 1500
    """Steps of the network probes' training."""
    horizon: int = 15
    """Agent steps of the open-loop prediction."""
    action_repeat: int = 2
    """Environment steps for each action."""
    image_depth: int = 16
    """Channels of the encoder's first layer and of the decoder's last."""
    image_std: float = 0.25
    """Standard deviation of a decoded pixel. With 1, distant obstacles are so small in the image
    that the model ignores them."""
    image_quality: Literal["exact", "fast"] = "exact"
    """Safety-Gymnasium's image, or one drawn in a tenth of the time; see make_environment."""
    bfloat16: bool = False
    """Compute encoder and decoder in bfloat16: faster on processors that support it."""
    learning_rate: float = 1e-3
    """Adam's rate for the model; no policy depends on it, so it can be high."""
    members: int = 3
    """Posterior samples, K."""
    threads: int = 2
    """Threads within torch's operations."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Device of the fit; all else runs on the CPU."""

    def __post_init__(self) -> None:
        self.require_at_least_one("updates", "probe_rows", "probe_steps", "horizon", "threads")
        if self.episodes < 10:
            raise ValueError(
                f"episodes: got {self.episodes}; at least 10: every fifth is held out."
            )

    def config(self) -> Config:
        """Return CERL's configuration with Dreamer's sizes and small batches.

        Many updates help more than large batches.
        """
        sizes = {"deter_size": 200, "stoch_size": 30, "hidden_size": 200}
        sizes |= {"batch_size": 8, "seq_len": 20}
        tiny = {"deter_size": 16, "stoch_size": 4, "hidden_size": 16, "batch_size": 4}
        values: dict[str, Any] = {
            "image_depth": self.image_depth,
            "image_std": self.image_std,
            "image_quality": self.image_quality,
            "bfloat16": self.bfloat16,
            "model_learning_rate": self.learning_rate,
            "members": self.members,
            "action_repeat": self.action_repeat,
            "steps": self.episodes * 1000,
            "device": self.device,
        }
        return Config(
            task=self.task,
            seed=self.seed,
            observation="image",
            **{**values, **sizes, **(tiny if self.smoke else {})},
        )


def main(options: Options) -> None:
    if options.smoke:
        sizes: dict[str, Any] = {"episodes": 10, "updates": 3, "probe_rows": 300, "horizon": 3}
        sizes |= {"probe_steps": 100, "action_repeat": 20, "image_depth": 2, "members": 2}
        options = replace(options, **sizes)
    o, began = options, time.monotonic()
    config = o.config()
    torch.set_num_threads(o.threads)
    require_device(o.device)
    require_goal_and_obstacles(config, SHORTEST_EPISODE)  # before the folder is made
    folder = o.create_folder(RECIPE, o.task)
    name = f"{o.task}-seed{o.seed}-{o.episodes}x{o.action_repeat}-{o.image_quality}.pt"
    data = read(config, collect(config, o.episodes, Path("runs/datasets") / name))
    print(f"{time.monotonic() - began:.0f} s: {len(data.training):,} training rows", flush=True)

    model = world_model(config)
    rows = spread_rows(data, o.probe_rows)
    represented = {
        "image": images(data, rows),
        "random encoder": embeds(model, data, rows),
        "random latents": latents(model, data, rows, seed=o.seed),
    }
    fit(model, config, data, o.updates, folder)
    print(f"{time.monotonic() - began:.0f} s: {o.updates:,} updates", flush=True)
    errors = open_loop_errors(model, data, o)
    trained = latents(model, data, rows, seed=o.seed)
    represented["latents"] = trained
    found = probe(data, rows, represented, steps=o.probe_steps, seed=o.seed)
    scores = score_rows(data, found, o.seed)
    misjudged = proximity_errors(data, found)
    cost = rank_correlation(misjudged, cost_errors(model, data, trained), seed=o.seed)
    obstacles, distances = torch.cat(data.held_out_obstacle), torch.cat(misjudged)
    figure = blind_spots_figure(obstacles, distances, folder.path / "blind_spots.png")
    rich.print(score_table(scores), error_table(errors))
    print(f"rank correlation between errors of {PROBED} and of cost: {with_interval(cost)}")
    summary = {
        "recipe": RECIPE,
        "task": o.task,
        "seed": o.seed,
        "training_rows": len(data.training),
        "held_out_rows": len(obstacles),
        "scores": scores,
        "open_loop": errors,
        "cost_error_rank_correlation": cost._asdict(),
        "wall_seconds": round(time.monotonic() - began, 1),
    }
    folder.write_summary(summary)
    folder.close()
    print(f"{summary['wall_seconds']} s; figures and summary are in {figure.parent}")


# ---- the fit -------------------------------------------------------------------------------------


def world_model(config: Config) -> WorldModel:
    """Build the untrained model."""
    torch.manual_seed(config.seed)  # for the initial weights; later noise is from a generator
    with closing(open_environment(config)) as environment:
        return Components(agent=LatentAgent).world_model(config, environment)


def fit(
    model: WorldModel, config: Config, data: ImageDataset, updates: int, folder: RunFolder
) -> None:
    """Update the model on sequences drawn uniformly from the training episodes."""
    device, shown = torch.device(config.device), scene(data)
    model.to(device)
    optimizer = model_optimizer(config, model)
    generator = torch.Generator(device).manual_seed(config.seed)
    improve = Graphed(partial(update_model, model, optimizer, generator), generator)
    size = torch.tensor(len(data.training), device=device)
    length = min(config.model.seq_len, data.held_out[0].row.numel())
    for update in range(1, updates + 1):
        batch = data.training.sample(config.model.batch_size, length)
        (loss,) = improve(*(x.to(device) for x in batch), size)
        if update % 50 == 0 or update == updates:
            terms = dict(zip(WorldModelLoss._fields, loss.tolist(), strict=True))
            folder.log("update", update, **terms)
        if update % 500 == 0 or update == updates:
            filmstrip(model, shown, folder.path / "filmstrip.png")
            folder.save_checkpoint({"model": model.state_dict()}, update)
    model.cpu()


def scene(data: ImageDataset) -> Transitions:
    """Choose the beginning of a held-out episode for the filmstrip.

    Goal and obstacle are best in view in its middle, where the filmstrip begins to imagine.
    """

    def visibility(obstacle: torch.Tensor, truth: dict[str, torch.Tensor]) -> torch.Tensor:
        distance, bearing = obstacle.unbind(-1)
        score = bearing.cos() - (distance - 1).abs() + truth["goal direction"][:, 0]
        return score[EARLIEST : len(score) // 2 + WATCHED]

    pairs = zip(data.held_out_obstacle, data.held_out_truth, strict=True)
    best = [visibility(*pair).max(0) for pair in pairs]
    episode = max(range(len(best)), key=lambda i: float(best[i].values))
    end = 2 * (EARLIEST + int(best[episode].indices) - WATCHED)
    return Transitions(*(x[:, :end] for x in data.held_out[episode]))


@torch.no_grad()
def open_loop_errors(model: WorldModel, data: ImageDataset, options: Options) -> dict[str, Any]:
    """Compute the image's error at each horizon, in units of the held-out variance."""
    starts = starts_of(data.held_out, options.horizon, every=IMAGE_STRIDE)
    target = truth(model, starts, options.horizon)
    sparse = data.training.gather(torch.arange(0, len(data.training), IMAGE_STRIDE), 1)
    predictions = {
        "model": open_loop(model, starts, options.horizon, seed=options.seed),
        "last_value": last_value(model, starts, options.horizon),
        "mean": training_mean(model, sparse, target),
    }
    return {
        name: normalised_error(prediction.observation, target.observation)
        for name, prediction in predictions.items()
    }


# ---- tables --------------------------------------------------------------------------------------


def score_table(scores: list[dict[str, Any]]) -> Table:
    """Tabulate scores: a row for each truth and probe, a column for each representation."""
    table = Table(title="share of the held-out variance that a probe explains")
    for column in ("truth", "probe", *REPRESENTATIONS):
        table.add_column(column)
    for what in TRUTHS:
        for kind in ("linear", "network"):
            cells = {
                row["representation"]: with_interval(Estimate(**row["explained"]))
                for row in scores
                if (row["truth"], row["probe"]) == (what, kind)
            }
            table.add_row(what, kind, *(cells[name] for name in REPRESENTATIONS))
    return table


def with_interval(estimate: Estimate) -> str:
    """Format an estimate with its interval."""
    return f"{estimate.value:.2f} ({estimate.lower:.2f} to {estimate.upper:.2f})"


def error_table(errors: dict[str, list[float | None]]) -> Table:
    """Tabulate the image's open-loop errors at the shortest and longest horizon."""
    table = Table(title="error of the predicted image, in units of the held-out variance")
    for column in ("predictor", "1 step ahead", f"{len(errors['model'])} steps ahead"):
        table.add_column(column)
    for name, values in errors.items():
        cells = ("-" if value is None else f"{value:.3f}" for value in (values[0], values[-1]))
        table.add_row(name.replace("_", " "), *cells)
    return table


if __name__ == "__main__":
    with errors_in_one_line():
        main(tyro.cli(Options, args=sys.argv[1:]))
