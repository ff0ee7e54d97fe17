"""Probes measure how much of the simulator's state a representation contains.

A probe is trained on frozen representations of training episodes and scored on held-out ones.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn

from recipes.reports.statistics import Estimate

PENALTIES = (1e-2, 1.0, 1e2, 1e4)  # ridge penalties for standardised inputs
VALIDATED = 5  # every fifth training row is for choosing the penalty
BATCH_SIZE = 256  # rows of a training step of the network
RESAMPLES = 300


class Standardised(NamedTuple):
    """Scales to zero mean and unit variance by the training rows; constant entries become zero."""

    mean: Tensor
    std: Tensor

    @classmethod
    def by(cls, rows: Tensor) -> "Standardised":
        std = rows.std(0, unbiased=False)
        return cls(rows.mean(0), torch.where(std > 1e-6, std, torch.inf))

    def __call__(self, rows: Tensor) -> Tensor:
        return (rows - self.mean) / self.std


def linear_probe(inputs: Tensor, targets: Tensor, held_out: Tensor) -> Tensor:
    """Fit ridge regression exactly and predict; choose each target's penalty by validation.

    Solves in the smaller of two spaces, rows or inputs (the kernel trick), because an image may
    have more entries than there are rows.

    Args:
        inputs: training inputs ``[row, input]``.
        targets: training targets ``[row, target]``.
        held_out: inputs to predict from ``[row, input]``.

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
    """Predict ``[penalty, row, target]`` with all penalties, from one eigendecomposition."""
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
    """Train a network with two hidden layers of 64 and predict; otherwise as ``linear_probe``."""
    scale, unit = Standardised.by(inputs), Standardised.by(targets)
    inputs, targets = scale(inputs), unit(targets)
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)  # for the initial weights
    network = nn.Sequential(
        *(nn.Linear(inputs.shape[1], 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU()),
        nn.Linear(64, targets.shape[1]),
    )
    optimizer = torch.optim.AdamW(network.parameters(), 1e-3, weight_decay=1e-2)
    for _ in range(steps):
        rows = torch.randint(len(inputs), (BATCH_SIZE,), generator=generator)
        optimizer.zero_grad()
        (network(inputs[rows]) - targets[rows]).square().mean().backward()
        optimizer.step()
    with torch.no_grad():
        return network(scale(held_out)) * unit.std + unit.mean


def explained(predicted: Sequence[Tensor], truth: Sequence[Tensor], *, seed: int) -> Estimate:
    """Compute the explained share of the held-out variance, 1 - squared error / variance.

    Sums over the truth's parts, each in units of its standard deviation.

    Args:
        predicted, truth: for each held-out episode, ``[time, part]``.
        seed: seed of the bootstrap. It draws whole episodes, because their rows are correlated.
    """
    errors, spreads = _squares(predicted, truth)
    return _estimate(
        lambda chosen: float(1 - errors[chosen].sum() / spreads[chosen].sum()), len(truth), seed
    )


def gain(
    first: Sequence[Tensor], second: Sequence[Tensor], truth: Sequence[Tensor], *, seed: int
) -> Estimate:
    """Compute how much more the first predictions explain than the second, paired by episode."""
    (ours, spreads), (theirs, _) = _squares(first, truth), _squares(second, truth)
    difference = theirs - ours
    return _estimate(
        lambda chosen: float(difference[chosen].sum() / spreads[chosen].sum()), len(truth), seed
    )


def _squares(predicted: Sequence[Tensor], truth: Sequence[Tensor]) -> tuple[np.ndarray, np.ndarray]:
    """Sum squared errors and squared deviations from the mean in each episode, in variances."""
    everything = torch.cat(list(truth))
    mean, variance = everything.mean(0), everything.var(0, unbiased=False)
    errors = [((p - t).square() / variance).sum() for p, t in zip(predicted, truth, strict=True)]
    spreads = [((t - mean).square() / variance).sum() for t in truth]
    return torch.stack(errors).numpy(), torch.stack(spreads).numpy()


def _estimate(figure: Callable[[np.ndarray], float], episodes: int, seed: int) -> Estimate:
    """Compute a figure over all episodes, and its 95% bootstrap interval over episodes.

    SciPy's bootstrap accepts neither a single episode nor draws with an undefined figure.
    """
    drawn = np.random.default_rng(seed).integers(episodes, size=(RESAMPLES, episodes))
    defined = [x for x in map(figure, drawn) if np.isfinite(x)]
    lower, upper = np.quantile(defined, [0.025, 0.975]).tolist() if defined else (np.nan, np.nan)
    return Estimate(figure(np.arange(episodes)), lower, upper)


def rank_correlation(first: Sequence[Tensor], second: Sequence[Tensor], *, seed: int) -> Estimate:
    """Compute Spearman's correlation over all rows, with a bootstrap over episodes.

    Args:
        first, second: for each held-out episode, ``[time]``.
        seed: seed of the bootstrap.

    Returns:
        The estimate; NaN if a series is constant.
    """
    pairs = [(a.numpy(), b.numpy()) for a, b in zip(first, second, strict=True)]

    def correlation(chosen: np.ndarray) -> float:
        one, other = (np.concatenate([pairs[i][side] for i in chosen]) for side in (0, 1))
        if one.std() == 0 or other.std() == 0:
            return float("nan")
        return float(np.asarray(spearmanr(one, other))[0])

    return _estimate(correlation, len(pairs), seed)
