"""Compute the representations that probes read, train the probes, and score them."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from blocks import Transitions, WorldModel
from recipes.experiments.latent_probe.dataset import LIDAR_RANGE, TRUTHS, ImageDataset
from recipes.experiments.latent_probe.probes import explained, gain, linear_probe, network_probe

PROBED = "obstacle proximity"  # truth whose errors are correlated with those of the cost


class Represented(NamedTuple):
    """A representation of the probes' training rows, and of each held-out episode."""

    training: Tensor  # [row, input]
    held_out: list[Tensor]  # [time, input]


def spread_rows(data: ImageDataset, count: int) -> Tensor:
    """Choose about ``count`` training rows, evenly spread, to train probes on."""
    return torch.arange(0, len(data.training), max(1, len(data.training) // count))


@torch.no_grad()
def latents(model: WorldModel, data: ImageDataset, rows: Tensor, *, seed: int) -> Represented:
    """Filter all episodes; return the features. ``seed`` is the seed of the filter's noise."""
    generator = torch.Generator().manual_seed(seed)

    def filtered(episode: Transitions) -> Tensor:
        return model.filter(episode, generator).state.feat[0]

    features = torch.cat([filtered(episode) for episode in episodes_of(data)])
    return Represented(features[rows], [filtered(episode) for episode in data.held_out])


def images(data: ImageDataset, rows: Tensor) -> Represented:
    """Return the images, flattened."""
    return _of_each_image(lambda image: image.flatten(-3).float() / 255, data, rows)


@torch.no_grad()
def embeds(model: WorldModel, data: ImageDataset, rows: Tensor) -> Represented:
    """Encode each image separately."""
    return _of_each_image(model.embed, data, rows)


def _of_each_image(
    represent: Callable[[Tensor], Tensor], data: ImageDataset, rows: Tensor
) -> Represented:
    chosen = data.training.gather(rows, 1).observation[:, 0]
    return Represented(
        represent(chosen), [represent(episode.observation[0]) for episode in data.held_out]
    )


def episodes_of(data: ImageDataset) -> list[Transitions]:
    """Return the training episodes, each ``[1, time, ...]``."""
    everything = data.training.gather(torch.tensor([0]), len(data.training))
    borders = [*everything.is_first[0].nonzero().flatten().tolist(), len(data.training)]
    return [Transitions(*(x[:, a:b] for x in everything)) for a, b in pairwise(borders)]


Predictions = dict[tuple[str, str, str], list[Tensor]]
"""(truth, kind of probe, representation) -> predictions ``[time, part]`` by held-out episode."""


def probe(
    data: ImageDataset,
    rows: Tensor,
    represented: dict[str, Represented],
    *,
    steps: int,
    seed: int,
) -> Predictions:
    """Train a probe of either kind on each representation, for all truths at once; predict.

    Args:
        data: dataset with the truths.
        rows: training rows of the representations.
        represented: representations by name.
        steps: training steps of the networks.
        seed: seed of the networks.
    """
    lengths = [episode.row.numel() for episode in data.held_out]
    targets = torch.cat([data.training_truth[what][rows] for what in TRUTHS], 1)
    parts = [len(names) for names in TRUTHS.values()]
    found: Predictions = {}
    for name, (training, held_out) in represented.items():
        inputs = torch.cat(held_out)
        for kind, predicted in (
            ("linear", linear_probe(training, targets, inputs)),
            ("network", network_probe(training, targets, inputs, seed=seed, steps=steps)),
        ):
            for what, columns in zip(TRUTHS, predicted.split(parts, 1), strict=True):
                found[what, kind, name] = list(columns.split(lengths))
    return found


def score_rows(data: ImageDataset, found: Predictions, seed: int) -> list[dict[str, Any]]:
    """Return the share of the held-out variance that each probe explains, one row a probe.

    Other representations' rows also say how much more the same probe of the latents explains.
    """
    rows = []
    for (what, kind, name), predicted in found.items():
        truths = [part[what] for part in data.held_out_truth]
        row: dict[str, Any] = {"truth": what, "probe": kind, "representation": name}
        row["explained"] = explained(predicted, truths, seed=seed)._asdict()
        if name != "latents":
            ours = found[what, kind, "latents"]
            row["latents_explain_more"] = gain(ours, predicted, truths, seed=seed)._asdict()
        rows.append(row)
    return rows


def proximity_errors(data: ImageDataset, found: Predictions) -> list[Tensor]:
    """Return the distance errors of the latents' network probe in metres, ``[time]`` an episode."""
    predicted = found[PROBED, "network", "latents"]
    truths = [part[PROBED] for part in data.held_out_truth]
    return [(p - t).abs().squeeze(1) * LIDAR_RANGE for p, t in zip(predicted, truths, strict=True)]


@torch.no_grad()
def cost_errors(model: WorldModel, data: ImageDataset, trained: Represented) -> list[Tensor]:
    """Return the errors of the mean member's predicted cost, ``[time]`` an episode."""
    weights = model.parameter_posterior.sample()
    return [
        (model.cost(feat, weights).mean(0) - episode.cost[0])[:, 0].abs()
        for feat, episode in zip(trained.held_out, data.held_out, strict=True)
    ]
