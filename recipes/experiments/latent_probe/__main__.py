"""Do the latents hold what safety needs? Probes from filtered latents to the simulator's truth.

Fits the world model to recorded images of a navigation task. Linear and small-network probes then
read obstacle proximity, agent velocity and goal direction off its filtered latents, off the raw
image, and off what the same model makes of it before it has learned anything: its encoder alone,
and its latents, which remember images and actions by random weights. What is read off the trained
latents shows where the blind spots are, and whether costs are foreseen where obstacles are.

    python -m recipes.experiments.latent_probe --task SafetyPointGoal1-v0 --seed 0
"""

import sys
import time
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import rich
import torch
import tyro
from rich.table import Table

from blocks import Graphed, Particles, Transitions, WorldModel
from blocks.world_model import WorldModelLoss
from recipes.agents.builders import (
    build_environment,
    build_world_model,
    model_optimizer,
    model_update,
    require_device,
)
from recipes.agents.config import Config
from recipes.experiments.latent_probe.dataset import (
    TRUTHS,
    ImageDataset,
    collect,
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
from recipes.plotting.filmstrip import IMAGINED, WATCHED, filmstrip
from recipes.reports.statistics import Estimate
from recipes.runs.errors import errors_in_one_line
from recipes.runs.folder import RunFolder

RECIPE = "experiment_latent_probe"
REPRESENTATIONS = ("latents", "image", "random encoder", "random latents")
EARLIEST = 2 * WATCHED + IMAGINED  # row in whose view a filmstrip begins to imagine
SHORTEST_EPISODE = 2 * (EARLIEST - WATCHED + 1)  # rows, of which its first half is chosen from
SHARE_OF_IMAGES = 20  # one row in so many is imagined from, or averaged: images are large


@dataclass(frozen=True, kw_only=True)
class Options:
    """Which images, how long a fit, and how many rows the probes see."""

    task: str = "SafetyPointGoal1-v0"
    """Safety-Gymnasium navigation task with a goal."""
    seed: int = 0
    """Seed of everything random, the dataset's included."""
    out: Path | None = None
    """Folder of figures and summary; runs/<recipe>/<task>/seed<k>-<time> by default."""
    smoke: bool = False
    """Tiny sizes, to see in a minute that everything works."""
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
    """Standard deviation of a decoded pixel. With 1, obstacles at a distance are too small in the
    picture to be worth remembering."""
    image_quality: Literal["exact", "fast"] = "exact"
    """Safety-Gymnasium's picture, or one drawn in a tenth of the time; see make_environment."""
    bfloat16: bool = False
    """Compute encoder and decoder in bfloat16: faster where the processor has it."""
    learning_rate: float = 1e-3
    """Of the model; there is no policy that a changing model could confuse."""
    members: int = 3
    """Posterior samples K."""
    threads: int = 2
    """Threads within torch's operations."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where the model is fitted; the rest is on the CPU."""

    def __post_init__(self) -> None:
        for name in ("updates", "probe_rows", "probe_steps", "horizon", "threads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: got {getattr(self, name)}; allowed: at least 1.")
        if self.episodes < 10:
            raise ValueError(
                f"episodes: got {self.episodes}; at least 10: every fifth is held out."
            )

    def config(self) -> Config:
        """The sizes of Dreamer's model, and small batches: many updates count for more than large
        ones. All else is as in CERL."""
        sizes = {"deter": 200, "stoch": 30, "hidden": 200, "batch_size": 8, "seq_len": 20}
        tiny = {"deter": 16, "stoch": 4, "hidden": 16, "batch_size": 4} if self.smoke else {}
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
            task=self.task, seed=self.seed, observation="image", **{**values, **sizes, **tiny}
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
    require_goal_and_obstacles(config, SHORTEST_EPISODE)  # what cannot be probed leaves no folder
    folder = RunFolder.create(RECIPE, o.task, o.seed, o.out)
    folder.write_config(asdict(o) | {"out": str(folder.path)})
    name = f"{o.task}-seed{o.seed}-{o.episodes}x{o.action_repeat}-{o.image_quality}.pt"
    data = read(config, collect(config, o.episodes, Path("runs/datasets") / name))
    print(
        f"{time.monotonic() - began:.0f} s: {len(data.training):,} rows to learn from", flush=True
    )

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
    print(f"rank correlation between errors of {PROBED} and of cost: {shown(cost)}")
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
    """The untrained model."""
    torch.manual_seed(config.seed)  # of the initial weights; later noise is from a generator
    environment = build_environment(config, config.seed)
    model = build_world_model(config, environment, Particles)
    environment.close()
    return model


def fit(
    model: WorldModel, config: Config, data: ImageDataset, updates: int, folder: RunFolder
) -> None:
    """Model updates on sequences drawn uniformly from the training episodes."""
    device, shown_scene = torch.device(config.device), scene(data)
    model.to(device)
    optimizer = model_optimizer(config, model)
    generator = torch.Generator(device).manual_seed(config.seed)
    improve = Graphed(partial(model_update, model, optimizer, generator), generator)
    size = torch.tensor(len(data.training), device=device)
    length = min(config.seq_len, data.held_out[0].row.numel())
    for update in range(1, updates + 1):
        batch = data.training.sample(config.batch_size, length)
        (loss,) = improve(*(x.to(device) for x in batch), size)
        if update % 50 == 0 or update == updates:
            terms = dict(zip(WorldModelLoss._fields, loss.tolist(), strict=True))
            folder.log("update", update, **terms)
        if update % 500 == 0 or update == updates:
            filmstrip(model, shown_scene, folder.path / "filmstrip.png")
            folder.save_checkpoint({"model": model.state_dict()}, update)
    model.cpu()


def scene(data: ImageDataset) -> Transitions:
    """The beginning of a held-out episode, where goal and obstacle are best in view in its middle.

    A filmstrip begins to imagine there.
    """

    def view(obstacle: torch.Tensor, truth: dict[str, torch.Tensor]) -> torch.Tensor:
        distance, bearing = obstacle.unbind(-1)
        seen = bearing.cos() - (distance - 1).abs() + truth["goal direction"][:, 0]
        return seen[EARLIEST : len(seen) // 2 + WATCHED]

    pairs = zip(data.held_out_obstacle, data.held_out_truth, strict=True)
    best = [view(*pair).max(0) for pair in pairs]
    episode = max(range(len(best)), key=lambda i: float(best[i].values))
    end = 2 * (EARLIEST + int(best[episode].indices) - WATCHED)
    return Transitions(*(x[:, :end] for x in data.held_out[episode]))


@torch.no_grad()
def open_loop_errors(model: WorldModel, data: ImageDataset, options: Options) -> dict[str, Any]:
    """Errors of the predicted image at each horizon, in units of the held-out variance."""
    starts = starts_of(data.held_out, options.horizon, every=SHARE_OF_IMAGES)
    target = truth(model, starts, options.horizon)
    some = data.training.gather(torch.arange(0, len(data.training), SHARE_OF_IMAGES), 1)
    predictions = {
        "model": open_loop(model, starts, options.horizon, seed=options.seed),
        "last_value": last_value(model, starts, options.horizon),
        "mean": training_mean(model, some, target),
    }
    return {
        name: normalised_error(prediction.observation, target.observation)
        for name, prediction in predictions.items()
    }


# ---- what is shown -------------------------------------------------------------------------------


def score_table(scores: list[dict[str, Any]]) -> Table:
    """A row for each truth and probe, a column for each representation."""
    table = Table(title="share of the held-out variance that a probe explains")
    for column in ("truth", "probe", *REPRESENTATIONS):
        table.add_column(column)
    for what in TRUTHS:
        for kind in ("linear", "network"):
            cells = {
                row["representation"]: shown(Estimate(**row["explained"]))
                for row in scores
                if (row["truth"], row["probe"]) == (what, kind)
            }
            table.add_row(what, kind, *(cells[name] for name in REPRESENTATIONS))
    return table


def shown(estimate: Estimate) -> str:
    return f"{estimate.value:.2f} ({estimate.lower:.2f} to {estimate.upper:.2f})"


def error_table(errors: dict[str, list[float | None]]) -> Table:
    """Open-loop errors of the image at the nearest and the farthest horizon."""
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
