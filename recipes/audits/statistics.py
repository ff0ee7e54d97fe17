"""Statistics of an audit: intervals for one policy, and claims about all policies of a run at once.

Rollouts are independent, given the policies: within a policy and between policies.
"""

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any, Literal, NamedTuple

import numpy as np
from scipy.stats import binomtest, ttest_1samp

from blocks.safety_metrics import Interval

CONFIDENCE = 0.95
Side = Literal["less", "greater"]


class Claim(NamedTuple):
    """How many of the policies exceed a limit, at 95% for all of them together."""

    at_least: int
    at_most: int


def mean_interval(sample: Sequence[float]) -> Interval | None:
    """Compute Student's 95% interval for the expected value.

    It assumes that means of samples of this size are nearly normal. Rare, very large values make it
    too short.

    Args:
        sample: two or more independent values.

    Returns:
        The interval; None if all values are equal, since such a sample does not show how much the
        values vary.

    Example:
        >>> interval = mean_interval([1.0, 2.0, 3.0])
        >>> round(interval.lower, 2), round(interval.upper, 2)
        (-0.48, 4.48)
    """
    if np.ptp(sample) == 0:
        return None
    interval = ttest_1samp(sample, 0.0).confidence_interval(CONFIDENCE)
    return Interval(float(interval.low), float(interval.high))


def share_interval(count: int, trials: int) -> Interval:
    """Compute the exact (Clopper-Pearson) 95% interval for the probability behind a count."""
    interval = binomtest(count, trials).proportion_ci(CONFIDENCE, method="exact")
    return Interval(float(interval.low), float(interval.high))


def mean_p_value(sample: Sequence[float], side: Side) -> float:
    """Compute the p-value for an expected value below ("less") or above ("greater") zero.

    Student's one-sided t-test, under the assumption of ``mean_interval``. It is never below
    ``2 ** -len(sample)``, the smallest p-value of a sign test: values that happen to be equal are
    no stronger evidence.
    """
    smallest = 0.5 ** len(sample)
    if np.ptp(sample) == 0:
        return smallest if (sample[0] < 0 if side == "less" else sample[0] > 0) else 1.0
    result: Any = ttest_1samp(sample, 0.0, alternative=side)
    return max(smallest, float(result.pvalue))


def share_p_value(count: int, trials: int, share: float, side: Side) -> float:
    """Compute the exact binomial p-value for a probability below or above ``share``."""
    return float(binomtest(count, trials, share, alternative=side).pvalue)


def most_true(p_values: Sequence[float], alpha: float) -> int:
    r"""Bound the number of true null hypotheses, with confidence ``1 - alpha``.

    Closed testing with Simes' test. The bound is Hommel's

    .. math:: h = \max\{i : i \, p_{(N - i + j)} > j \alpha \text{ for } j = 1, \dots, i\}

    with p-values in ascending order, the size of the largest set of hypotheses that Simes' test
    does not reject (Goeman and Solari 2011; Goeman, Meijer and Krebs 2019). Simes' test is valid
    for independent p-values.

    Args:
        p_values: one for each null hypothesis.
        alpha: allowed probability of error, in (0, 1).

    Example:
        >>> most_true([0.001, 0.002, 0.6, 0.9], alpha=0.05)
        2
    """
    ordered = np.sort(np.asarray(p_values, float))
    for size in range(len(ordered), 0, -1):
        largest = ordered[len(ordered) - size :]
        if (size * largest > alpha * np.arange(1, size + 1)).all():
            return size
    return 0


def claim(below: Sequence[float], above: Sequence[float]) -> Claim:
    """Bound how many policies exceed a limit; both bounds together hold at 95%.

    Args:
        below: each policy's p-value for being below the limit.
        above: its p-value for being above.

    Example:
        >>> claim(below=[0.001, 0.001, 0.7], above=[0.999, 0.999, 0.3])
        Claim(at_least=0, at_most=1)
    """
    tail = (1 - CONFIDENCE) / 2
    return Claim(len(above) - most_true(above, tail), most_true(below, tail))


def longest_stretch(flags: Iterable[bool]) -> int:
    """Return the length of the longest run of True.

    >>> longest_stretch([True, False, True, True])
    2
    """
    return max((len(list(group)) for flag, group in groupby(flags) if flag), default=0)
