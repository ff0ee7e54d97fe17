"""Averages and reproducible 95% intervals of a report, by SciPy.

rliable has the same estimators, but needs arch, pandas and statsmodels, and fails with pandas 3.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import binomtest, bootstrap, trim_mean

CONFIDENCE = 0.95
RESAMPLES = 5000
BAND_RESAMPLES = 500  # for each point of a curve
Sample = Sequence[float] | np.ndarray
Statistic = Callable[..., np.ndarray]  # (*samples, axis), as SciPy calls it


class Estimate(NamedTuple):
    """A figure and its 95% interval; the bounds are NaN if there is no interval."""

    value: float
    lower: float
    upper: float


def interquartile_mean(*samples: Sample) -> Estimate:
    """Mean of the middle half of all runs, with a percentile bootstrap interval over runs.

    Leaves out a quarter of the runs at either end, rounded down: the mean of two or three runs is
    the plain mean.

    Args:
        samples: a figure of each run; one sample per task where tasks are pooled. Resampling is
            within each sample (stratified), so every task keeps its share.

    Returns:
        The estimate, without an interval if a sample has a single run.

    Example:
        >>> interquartile_mean([1.0, 2.0, 3.0, 4.0, 900.0]).value
        3.0
    """
    return Estimate(*map(float, _estimate(_pooled_iqm, samples, RESAMPLES)))


def improvement(first: Sequence[Sample], second: Sequence[Sample]) -> Estimate:
    r"""Probability that a run of the first recipe has a higher figure than one of the second.

    .. math:: P(X > Y) + P(X = Y) / 2

    averaged over tasks (Agarwal et al. 2021, arXiv 2108.13264), with a bootstrap interval
    stratified by task and recipe.

    Args:
        first: for each task, a figure of each run of the first recipe.
        second: the same of the second recipe, for the same tasks.

    Example:
        >>> improvement([[2.0, 3.0]], [[0.0, 1.0]]).value
        1.0
    """

    def probability(*samples: np.ndarray, axis: int = -1) -> np.ndarray:
        pairs = zip(samples[: len(first)], samples[len(first) :], strict=True)
        return np.mean([_won(x[..., :, None], y[..., None, :]) for x, y in pairs], axis=0)

    return Estimate(*map(float, _estimate(probability, (*first, *second), RESAMPLES)))


def rate(count: int, trials: int) -> Estimate:
    """Share of the trials, with its exact (Clopper-Pearson) interval.

    Example:
        >>> round(rate(0, 500).upper, 4)
        0.0074
    """
    if trials == 0:
        return Estimate(np.nan, np.nan, np.nan)
    interval = binomtest(count, trials).proportion_ci(CONFIDENCE, method="exact")
    return Estimate(count / trials, float(interval.low), float(interval.high))


def band(curves: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Interquartile mean over runs at each point, and the ends of its bootstrap interval.

    Args:
        curves: [run, point].
    """
    middle, lower, upper = _estimate(_pooled_iqm, [curves.T], BAND_RESAMPLES)
    return (middle, lower, upper) if len(curves) > 1 else (middle, middle, middle)


def _estimate(
    statistic: Statistic, samples: Sequence[Sample], resamples: int
) -> tuple[Any, Any, Any]:
    arrays = [np.asarray(sample, dtype=float) for sample in samples]
    value = statistic(*arrays, axis=-1)
    if min(array.shape[-1] for array in arrays) < 2:
        return value, np.nan, np.nan
    interval = bootstrap(
        arrays,
        statistic,
        axis=-1,
        n_resamples=resamples,
        confidence_level=CONFIDENCE,
        method="percentile",
        vectorized=True,
        rng=np.random.default_rng(0),
    ).confidence_interval
    return value, interval.low, interval.high


def _pooled_iqm(*samples: np.ndarray, axis: int = -1) -> np.ndarray:
    return trim_mean(np.concatenate(samples, axis=axis), 0.25, axis=axis)


def _won(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return ((x > y) + 0.5 * (x == y)).mean((-2, -1))
