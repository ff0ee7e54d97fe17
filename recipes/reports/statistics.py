"""Averages and intervals of a report, by SciPy; 95% and reproducible everywhere.

rliable has the same estimators, but needs arch, pandas and statsmodels, and fails beside pandas 3.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import binomtest, bootstrap, trim_mean

CONFIDENCE = 0.95
RESAMPLES = 5000
BAND_RESAMPLES = 500  # of each point of a curve
Sample = Sequence[float] | np.ndarray
Statistic = Callable[..., np.ndarray]  # (*samples, axis), as SciPy calls it


class Estimate(NamedTuple):
    """A figure and its 95% interval; the interval is not a number where there is none."""

    value: float
    lower: float
    upper: float


def interquartile_mean(*samples: Sample) -> Estimate:
    """Mean of the middle half of all runs, with a bootstrap interval.

    A quarter of the runs is left out at either end, rounded down: of two or three runs it is the
    plain mean. Percentile bootstrap over runs.

    Args:
        samples: a figure of each run; one sample for each task where tasks are pooled. Resampling
            is within each sample (stratified), so that every task keeps its share.

    Returns:
        The estimate, without an interval if a sample has a single run.

    Example:
        >>> interquartile_mean([1.0, 2.0, 3.0, 4.0, 900.0]).value
        3.0
    """
    return _estimate(_pooled_iqm, samples)


def improvement(first: Sequence[Sample], second: Sequence[Sample]) -> Estimate:
    r"""Probability that a run of the first recipe has a higher figure than one of the second.

    .. math:: P(X > Y) + P(X = Y) / 2

    averaged over tasks (Agarwal et al. 2021, arXiv 2108.13264), with an interval by the bootstrap
    stratified over tasks and recipes.

    Args:
        first: for each task, a figure of each run of the first recipe.
        second: the same of the second recipe, for the same tasks.

    Example:
        >>> improvement([[2.0, 3.0]], [[0.0, 1.0]]).value
        1.0
    """
    tasks = len(first)

    def probability(*samples: np.ndarray, axis: int = -1) -> np.ndarray:
        pairs = zip(samples[:tasks], samples[tasks:], strict=True)
        return np.mean([_won(x, y) for x, y in pairs], axis=0)

    return _estimate(probability, (*first, *second))


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
    middle = trim_mean(curves, 0.25, axis=0)
    if len(curves) < 2:
        return middle, middle, middle
    found = _bootstrap(_pooled_iqm, (curves.T,), BAND_RESAMPLES)
    return middle, found.low, found.high


def _estimate(statistic: Statistic, samples: Sequence[Sample]) -> Estimate:
    arrays = [np.asarray(sample, dtype=float) for sample in samples]
    value = float(statistic(*arrays, axis=-1))
    if min(map(len, arrays)) < 2:
        return Estimate(value, np.nan, np.nan)
    found = _bootstrap(statistic, arrays, RESAMPLES)
    return Estimate(value, float(found.low), float(found.high))


def _bootstrap(statistic: Statistic, samples: Sequence[np.ndarray], resamples: int) -> Any:
    return bootstrap(
        samples,
        statistic,
        axis=-1,
        n_resamples=resamples,
        confidence_level=CONFIDENCE,
        method="percentile",
        vectorized=True,
        rng=np.random.default_rng(0),
    ).confidence_interval


def _pooled_iqm(*samples: np.ndarray, axis: int = -1) -> np.ndarray:
    return trim_mean(np.concatenate(samples, axis=axis), 0.25, axis=axis)


def _won(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    x, y = x[..., :, None], y[..., None, :]
    return ((x > y) + 0.5 * (x == y)).mean((-2, -1))
