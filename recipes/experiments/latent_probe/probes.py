"""Probes: how much of the simulator's truth can be read off a representation.

A probe is trained on frozen representations of training episodes and scored on held-out ones; the
better it does, the more of the truth is there to be used.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn

from recipes.reports.statistics import Estimate

PENALTIES = (1e-2, 1.0, 1e2, 1e4)  # of the ridge, in units of a standardised input's row
VALIDATED = 5  # one training row in so many chooses the penalty
BATCH = 256  # rows of a step of the small network's training
RESAMPLES = 300


class Standardised(NamedTuple):
    """Zero mean and unit variance by the training rows; what never changes stays zero."""

    mean: Tensor
    std: Tensor

    @classmethod
    def by(cls, rows: Tensor) -> "Standardised":
        std = rows.std(0, unbiased=False)
        return cls(rows.mean(0), torch.where(std > 1e-6, std, torch.inf))

    def __call__(self, rows: Tensor) -> Tensor:
        return (rows - self.mean) / self.std


def linear_probe(inputs: Tensor, targets: Tensor, held_out: Tensor) -> Tensor:
    """Ridge regression, solved exactly; penalties are chosen on a part of the training rows.

    Solved in the smaller of the two spaces, rows or inputs (the kernel trick): an image may have
    more entries than there are rows. Each target has a penalty of its own.

    Args:
        inputs: training rows ``[row, input]``.
        targets: ``[row, target]``.
        held_out: ``[row, input]``.

    Returns:
        Predictions ``[row, target]``.
    """
    scale, unit = Standardised.by(inputs), Standardised.by(targets)
    inputs, targets, held_out = scale(inputs), unit(targets), scale(held_out)
    validated = torch.arange(len(inputs)) % VALIDATED == 0
    checks = _ridge(inputs[~validated], targets[~validated], inputs[validated])
    errors = (checks - targets[validated]).square().mean(1)  # [penalty, target]
    best = errors.argmin(0)
    predictions = _ridge(inputs, targets, held_out)  # [penalty, row, target]
    chosen = predictions[best, :, torch.arange(len(best))].T
    return chosen * unit.std + unit.mean


def _ridge(inputs: Tensor, targets: Tensor, held_out: Tensor) -> Tensor:
    """Predictions ``[penalty, row, target]``, all from one decomposition."""
    rows, size = inputs.shape
    gram = inputs @ inputs.T if rows < size else inputs.T @ inputs
    values, vectors = torch.linalg.eigh(gram)
    right = vectors.T @ (targets if rows < size else inputs.T @ targets)
    left = (held_out @ inputs.T if rows < size else held_out) @ vectors
    damped = values.clamp_min(0).unsqueeze(1)
    return torch.stack([left @ (right / (damped + penalty)) for penalty in PENALTIES])


def network_probe(
    inputs: Tensor, targets: Tensor, held_out: Tensor, *, seed: int, steps: int = 1500
) -> Tensor:
    """A small network, two hidden layers of 64, trained for `steps`; else as `linear_probe`."""
    scale, unit = Standardised.by(inputs), Standardised.by(targets)
    inputs, targets = scale(inputs), unit(targets)
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)  # of the initial weights
    network = nn.Sequential(
        *(nn.Linear(inputs.shape[1], 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU()),
        nn.Linear(64, targets.shape[1]),
    )
    optimizer = torch.optim.AdamW(network.parameters(), 1e-3, weight_decay=1e-2)
    for _ in range(steps):
        rows = torch.randint(len(inputs), (BATCH,), generator=generator)
        optimizer.zero_grad()
        (network(inputs[rows]) - targets[rows]).square().mean().backward()
        optimizer.step()
    with torch.no_grad():
        return network(scale(held_out)) * unit.std + unit.mean


def explained(predicted: Sequence[Tensor], truth: Sequence[Tensor], *, seed: int) -> Estimate:
    """Share of the held-out variance that is explained, 1 - squared error / variance.

    Summed over the truth's parts, each in units of its own standard deviation.

    Args:
        predicted, truth: for each held-out episode, ``[time, part]``.
        seed: of the bootstrap, which draws whole episodes: their rows are alike.
    """
    errors, spreads = _squares(predicted, truth)
    return _estimate(
        lambda chosen: float(1 - errors[chosen].sum() / spreads[chosen].sum()), len(truth), seed
    )


def gain(
    first: Sequence[Tensor], second: Sequence[Tensor], truth: Sequence[Tensor], *, seed: int
) -> Estimate:
    """By how much the first predictions explain more than the second, in the same episodes."""
    (ours, spreads), (theirs, _) = _squares(first, truth), _squares(second, truth)
    less = theirs - ours
    return _estimate(
        lambda chosen: float(less[chosen].sum() / spreads[chosen].sum()), len(truth), seed
    )


def _squares(predicted: Sequence[Tensor], truth: Sequence[Tensor]) -> tuple[np.ndarray, np.ndarray]:
    """Of each episode, squared errors and squared deviations from the mean, in variances."""
    everything = torch.cat(list(truth))
    mean, variance = everything.mean(0), everything.var(0, unbiased=False)
    errors = [((p - t).square() / variance).sum() for p, t in zip(predicted, truth, strict=True)]
    spreads = [((t - mean).square() / variance).sum() for t in truth]
    return torch.stack(errors).numpy(), torch.stack(spreads).numpy()


def _estimate(figure: Callable[[np.ndarray], float], episodes: int, seed: int) -> Estimate:
    """The figure of all episodes, and its 95% interval by drawing episodes again.

    SciPy's bootstrap takes neither a single episode nor draws in which the figure is undefined.
    """
    drawn = np.random.default_rng(seed).integers(episodes, size=(RESAMPLES, episodes))
    defined = [x for x in map(figure, drawn) if np.isfinite(x)]
    lower, upper = np.quantile(defined, [0.025, 0.975]).tolist() if defined else (np.nan, np.nan)
    return Estimate(figure(np.arange(episodes)), lower, upper)


def rank_correlation(first: Sequence[Tensor], second: Sequence[Tensor], *, seed: int) -> Estimate:
    """Spearman's, over all rows, with a bootstrap over episodes; nan where one is constant.

    Args:
        first, second: for each held-out episode, ``[time]``.
        seed: of the bootstrap.
    """
    pairs = [(a.numpy(), b.numpy()) for a, b in zip(first, second, strict=True)]

    def correlation(chosen: np.ndarray) -> float:
        one, other = (np.concatenate([pairs[i][side] for i in chosen]) for side in (0, 1))
        if one.std() == 0 or other.std() == 0:
            return float("nan")
        return float(np.asarray(spearmanr(one, other))[0])

    return _estimate(correlation, len(pairs), seed)
