"""Confidence bounds for estimated costs: errors of a mean slack and a mean gradient.

LBSGD keeps its guarantee under noise if it gets a lower bound of the slack and an upper bound of
the slope (Usmanova et al. 2024, section 4, where the noise level is known). Here the noise level is
estimated from the same samples.
"""

import math
from functools import cache
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor


class EstimationErrors(NamedTuple):
    """Arguments of ``LBSGD.step``: one-sided error of the slack, norm of the gradient's error."""

    slack_error: Tensor  # [constraint] or scalar, in units of the cost return
    slope_error: Tensor  # same shape, in units of the cost return per parameter length


def estimation_errors(
    costs: Float[Tensor, "sample *constraint"],
    gradients: Float[Tensor, "..."],
    *,
    level: float,
) -> EstimationErrors:
    r"""Bound the errors of means of Gaussian samples, jointly with probability ``level``.

    .. math::
        \epsilon_{slack} = t_{1-\delta}\, \sqrt{\operatorname{var}(c) / N}, \qquad
        \epsilon_{slope} = t_{1-\delta/2}\, \sqrt{\operatorname{tr} \operatorname{cov}(g) / N}

    with Student's t of N - 1 degrees of freedom. Slack and slope of every constraint share the
    failure probability 1 - level equally (Bonferroni):
    :math:`\delta = (1 - level) / (2 \cdot constraints)` each. The slope's bound limits the *norm*
    of the gradient's error, so it holds along every direction, also one chosen from the same
    samples. It is exact for one parameter and conservative for many: of all Gaussian vectors with a
    given mean square norm, the one on a line has the heaviest tail (Székely and Bakirov 2003; for
    :math:`\delta \le 0.2`, hence ``level`` >= 0.6).

    Args:
        costs: independent samples of each cost return.
        gradients: ``[sample, *constraint, parameter]``, their gradients by all parameters, flat.
        level: probability that all bounds hold, in [0.6, 1).

    Returns:
        Error bounds of the means over samples.

    Raises:
        ValueError: fewer than two samples, shapes that differ, or a level out of range.

    Example:
        >>> import torch
        >>> costs = torch.tensor([1.0, 2.0, 3.0])
        >>> gradients = torch.tensor([[0.0, 1.0], [0.0, 1.0], [0.0, 1.0]])
        >>> errors = estimation_errors(costs, gradients, level=0.9)
        >>> round(errors.slack_error.item(), 3), errors.slope_error.item()  # t(0.95) = 2.92
        (1.686, 0.0)
    """
    samples = len(costs)
    if samples < 2:
        raise ValueError(f"costs: got {samples} samples; allowed 2 and above; draw more")
    if gradients.shape[:-1] != costs.shape:
        raise ValueError(
            f"gradients: got shape {list(gradients.shape)}; allowed costs' {list(costs.shape)} and "
            "a last axis over parameters; pass one gradient per cost"
        )
    if not 0.6 <= level < 1.0:
        raise ValueError(f"level: got {level}; allowed in [0.6, 1); take 0.95")
    failure = (1.0 - level) / (2.0 * max(costs[0].numel(), 1))
    value_variance = costs.var(dim=0)
    gradient_variance = gradients.var(dim=0).sum(-1)
    return EstimationErrors(
        student_t_quantile(1.0 - failure, samples - 1) * (value_variance / samples).sqrt(),
        student_t_quantile(1.0 - failure / 2.0, samples - 1) * (gradient_variance / samples).sqrt(),
    )


@cache  # every step asks for the same quantiles
def student_t_quantile(probability: float, freedom: int) -> float:
    """Compute a quantile of Student's t distribution, by bisection on its distribution function.

    Args:
        probability: in [0.5, 1).
        freedom: degrees of freedom, >= 1.

    Returns:
        The quantile, >= 0.

    Raises:
        ValueError: an argument is out of range.

    Example:
        >>> round(student_t_quantile(0.975, 10), 4)
        2.2281
    """
    if not 0.5 <= probability < 1.0:
        raise ValueError(
            f"probability: got {probability}; allowed in [0.5, 1); use the symmetry of t below 0.5"
        )
    if freedom < 1:
        raise ValueError(f"freedom: got {freedom}; allowed 1 and above; take more samples")
    low, high = 0.0, math.pi / 2.0  # bounds of the angle whose tangent is t / sqrt(freedom)
    for _ in range(60):
        middle = (low + high) / 2.0
        low, high = (
            (middle, high)
            if _central_probability(middle, freedom) < 2.0 * probability - 1.0
            else (low, middle)
        )
    return math.sqrt(freedom) * math.tan(low)


def _central_probability(angle: float, freedom: int) -> float:
    """Compute P(|t| <= sqrt(freedom) tan(angle)), Abramowitz and Stegun 26.7.3 and 26.7.4."""
    cosine, odd = math.cos(angle), freedom % 2
    term = cosine if odd else 1.0
    total = 0.0
    for n in range(2 + odd, freedom + 1, 2):
        total += term
        term *= (n - 1) / n * cosine * cosine
    series = math.sin(angle) * total
    return 2.0 / math.pi * (angle + series) if odd else series
