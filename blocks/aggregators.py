"""Aggregate one value per ensemble member to one value: worst case, mean, quantile, CVaR, ...

All share one signature, ``(values, dim=0)``, so an ablation exchanges one name. The pessimism
depends on what is aggregated: CERL takes the worst member of the *whole policy's* cost return
(``of_policy(worst_case)``: mean over start states first); LAMBDA takes the worst member at each
start state (``per_state(worst_case)``: mean over start states last); ActSafe adds a multiple of the
members' disagreement to each step's cost (``mean_plus_std``).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


def worst_case(values: Float[Tensor, "..."], dim: int = 0) -> Float[Tensor, "..."]:
    r"""Take the largest value over members: pessimism about a cost.

    .. math::
        \max_k x_k

    (CERL, arXiv 2405.05890, the pessimistic constraint.) Only the selected member gets a gradient,
    also where members tie.

    Args:
        values: one value per member along ``dim``, ``[member, ...]``; any unit, larger is worse.
        dim: the member axis.

    Returns:
        ``values`` without the member axis.

    Example:
        >>> worst_case(torch.tensor([1.0, 3.0, 2.0]))
        tensor(3.)
    """
    return values.max(dim=dim).values


def mean(values: Float[Tensor, "..."], dim: int = 0) -> Float[Tensor, "..."]:
    r"""Take the mean over members: the Bayesian expectation, without pessimism (ablation).

    .. math::
        \frac{1}{K} \sum_k x_k

    Args:
        values: one value per member along ``dim``, ``[member, ...]``.
        dim: the member axis.

    Returns:
        ``values`` without the member axis.

    Example:
        >>> mean(torch.tensor([1.0, 3.0, 2.0]))
        tensor(2.)
    """
    return values.mean(dim=dim)


def quantile(values: Float[Tensor, "..."], q: float | int, dim: int = 0) -> Float[Tensor, "..."]:
    r"""Take the q-quantile over members, linear between neighbours: adjustable pessimism.

    ``q=1`` is the worst case, ``q=0.5`` the median. The gradient goes to the one or two members
    next to the quantile.

    Args:
        values: one value per member along ``dim``, ``[member, ...]``.
        q: the level, in [0, 1].
        dim: the member axis.

    Returns:
        ``values`` without the member axis.

    Raises:
        ValueError: ``q`` is outside [0, 1].

    Example:
        >>> quantile(torch.tensor([1.0, 4.0, 2.0]), q=0.75)
        tensor(3.)
    """
    if not 0.0 <= q <= 1.0:
        raise ValueError(f"q: got {q}; allowed in [0, 1]; take 1 for the worst case")
    return values.quantile(q, dim=dim)


def cvar(values: Float[Tensor, "..."], alpha: float | int, dim: int = 0) -> Float[Tensor, "..."]:
    r"""Take the conditional value at risk: the mean of the worst (largest) fraction alpha.

    .. math::
        \frac{1}{\alpha K} \sum_{k=1}^{K} \mathrm{clip}(\alpha K - k + 1,\, 0,\, 1)\; x_{(k)}

    with ``x_(1) >= x_(2) >= ...`` (Rockafellar and Uryasev 2000, for an empirical distribution).
    Where alpha * K is not an integer, the last member counts in part. ``alpha=1`` is the mean;
    ``alpha <= 1 / K`` is the worst case.

    Args:
        values: one value per member along ``dim``, ``[member, ...]``.
        alpha: fraction of the members that counts, in (0, 1].
        dim: the member axis.

    Returns:
        ``values`` without the member axis.

    Raises:
        ValueError: ``alpha`` is outside (0, 1].

    Example:
        >>> cvar(torch.tensor([1.0, 4.0, 2.0, 3.0]), alpha=0.5)
        tensor(3.5000)
        >>> cvar(torch.tensor([0.0, 6.0]), alpha=0.75)  # all of the 6, half of the 0
        tensor(4.)
    """
    if not 0.0 < alpha <= 1.0:
        raise ValueError(
            f"alpha: got {alpha}; allowed in (0, 1]; take 1 for the mean, 1 / members for the worst"
        )
    mass = alpha * values.shape[dim]
    # Rounding of alpha * K (0.07 * 100 is a little above 7) must not select one member too many.
    selected = max(1, math.ceil(mass * (1.0 - 1e-12)))
    weights = [min(mass - rank, 1.0) / mass for rank in range(selected)]
    worst = values.topk(selected, dim=dim).values.movedim(dim, -1)
    return worst @ torch.tensor(weights, dtype=values.dtype, device=values.device)


def mean_plus_std(
    values: Float[Tensor, "..."], scale: float | int, dim: int = 0
) -> Float[Tensor, "..."]:
    r"""Add a multiple of the members' standard deviation to their mean: a confidence bound.

    .. math::
        \bar x + s \sqrt{\tfrac{1}{K} \sum_k (x_k - \bar x)^2}

    (ActSafe's upper confidence bound has this form per step, As et al. 2024.) The standard
    deviation divides by K, so a single member comes back unchanged. Where all members agree its
    gradient is zero, not NaN.

    Args:
        values: one value per member along ``dim``, ``[member, ...]``.
        scale: number of standard deviations; >= 0 is pessimistic about costs.
        dim: the member axis.

    Returns:
        ``values`` without the member axis.

    Example:
        >>> mean_plus_std(torch.tensor([1.0, 3.0]), scale=2.0)
        tensor(4.)
    """
    return values.mean(dim=dim) + scale * values.std(dim=dim, correction=0)


@dataclass(frozen=True)
class of_policy:  # noqa: N801 (it is called like its neighbours)
    r"""Aggregate the whole policy's value under each member, as CERL does.

    .. math::
        \operatorname{agg}_k \; \tfrac{1}{HB} \sum_{t,b} x_{k,t,b}

    (CERL, arXiv 2405.05890, section 4.) With ``worst_case`` the result is the policy's value under
    one of the members.

    Args:
        aggregate: from ``[member]`` to a scalar or ``[constraints]``.

    Example:
        >>> returns = torch.tensor([[[1.0, 4.0]], [[3.0, 0.0]]])  # two members, two start states
        >>> of_policy(worst_case)(returns)
        tensor(2.5000)
    """

    aggregate: Callable[[Tensor], Tensor]

    def __call__(
        self, returns: Float[Tensor, "member horizon batch"]
    ) -> Float[Tensor, "*constraint"]:
        """From imagined returns to their aggregate, in the same unit."""
        return self.aggregate(returns.mean((1, 2)))


def per_state(aggregate: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    r"""Aggregate over members at each start state, then average, as LAMBDA does.

    .. math::
        \tfrac{1}{B} \sum_b \operatorname{agg}_k \; \tfrac{1}{H} \sum_t x_{k,t,b}

    (As et al. 2022, algorithm 2 and its public code, where a start state keeps one member for its
    whole imagined trajectory.) With ``worst_case`` the result is at least
    ``of_policy(worst_case)``: a different member may be the worst in each state, so no single
    member need have that value.

    Args:
        aggregate: from ``[member, batch]`` to ``[batch]``.

    Returns:
        A function from imagined returns ``[member, horizon, batch]`` to a scalar in their unit.

    Example:
        >>> returns = torch.tensor([[[1.0, 4.0]], [[3.0, 0.0]]])  # two members, two start states
        >>> per_state(worst_case)(returns)
        tensor(3.5000)
    """

    def aggregated(returns: Float[Tensor, "member horizon batch"]) -> Float[Tensor, ""]:
        return aggregate(returns.mean(1)).mean()

    return aggregated
