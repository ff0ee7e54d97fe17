"""Margins between predicted and allowed cost, two of which learn from their misses.

Adaptive conformal inference gives the one guarantee here that needs no assumption about the model:
whatever is predicted and whatever comes, the share of misses tends to ``alpha``.
"""

import math
from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class Margin(Protocol):
    """A margin between the cost that may be predicted for a policy and its budget."""

    @property
    def value(self) -> float:
        """The present margin, for logs."""
        ...

    def allowed(self, budget: float) -> float:
        """Return the largest cost that may be predicted, in the unit of the budget."""
        ...

    def update(self, predicted: float, realised: float) -> float:
        """Compare an iterate's prediction with what came; return the new ``value``."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Copy what a resumed run needs."""
        ...

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        """Restore a ``state_dict`` exactly."""
        ...


class FixedShare:
    """A share of the budget that never changes: the usual margin, without a guarantee (ablations).

    Args:
        value: the share, > 0.

    Raises:
        ValueError: the share is out of its range.

    Example:
        >>> FixedShare(0.4).allowed(25.0)
        10.0
    """

    def __init__(self, value: float) -> None:
        self.value = _share("value", value)

    def allowed(self, budget: float) -> float:
        """Return the share of the budget."""
        return self.value * budget

    def update(self, predicted: float, realised: float) -> float:
        """Return the share as it is."""
        return self.value

    def state_dict(self) -> dict[str, Any]:
        """Return the share."""
        return {"value": self.value}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the share.

        Raises:
            ValueError: the state is not one of ``FixedShare``.
        """
        _require_keys(state, self.state_dict(), "FixedShare")
        self.value = float(state["value"])


class _Conformal:
    """Counts misses and moves a value by them; a subclass says what a miss is and what moves."""

    def __init__(self, *, alpha: float, gamma: float, initial: float) -> None:
        if not 0 < alpha < 1:
            raise ValueError(f"alpha: got {alpha}; allowed in (0, 1); take 0.02 for 2% of misses.")
        if not 0 < gamma < math.inf:
            raise ValueError(f"gamma: got {gamma}; allowed finite and > 0; take 0.2.")
        self.alpha, self.gamma = float(alpha), float(gamma)
        self.initial = float(initial)
        self.value: float = self.initial
        self.misses = self.updates = 0

    def _count(self, missed: bool) -> float:
        """Count an iterate; return by how much the margin widens."""
        self.misses += missed
        self.updates += 1
        return self.gamma * (missed - self.alpha)

    def _bound(self, widest: float) -> float:
        """Largest share of misses if the margin has widened by at most ``widest``."""
        return self.alpha + max(0.0, widest) / (self.gamma * max(1, self.updates))

    def state_dict(self) -> dict[str, Any]:
        """All that a resumed run needs."""
        names = ("alpha", "gamma", "initial", "value", "misses", "updates")
        return {name: getattr(self, name) for name in names}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where ``state_dict`` was taken; alpha and gamma come with it.

        Raises:
            ValueError: the state is not one of a conformal margin.
        """
        _require_keys(state, self.state_dict(), type(self).__name__)
        vars(self).update(state)


class ConformalMargin(_Conformal):
    r"""A margin in the unit of the costs, widened by misses and narrowed by hits.

    .. math::
        m_{t+1} = m_t + \gamma (1[c_t > \hat c_t + m_t] - \alpha)

    with realised cost :math:`c_t` and predicted cost :math:`\hat c_t` of iterate t (Gibbs and
    Candès 2021, equation 2, with the margin itself in place of a quantile level; the quantile
    tracker of Angelopoulos et al. 2023, section 2.1). Optimise the policy for
    :math:`\hat c \le d - m`.

    Guarantee: summing the update over T iterates,

    .. math::
        \frac{misses}{T} = \alpha + \frac{m_{T+1} - m_1}{\gamma T}.

    If no cost exceeds its prediction by more than :math:`b`, then
    :math:`m_{T+1} \le \max(m_1, b + \gamma)`, so that the share of misses is at most
    :math:`\alpha + (b + \gamma - m_1)^+ / (\gamma T)`. This holds for every sequence, chosen by an
    adversary or by the policy itself. It says how often costs exceed predictions plus margin,
    not by how much; and nothing about the budget where the optimiser cannot reach
    :math:`\hat c \le d - m`, which is certain once :math:`m \ge d`.

    Args:
        alpha: share of misses to tend to, in (0, 1).
        gamma: step of the margin, > 0, in the unit of the costs.
        initial: the first margin, in the same unit.

    Raises:
        ValueError: an argument is out of its range.

    Example:
        >>> margin = ConformalMargin(alpha=0.1, gamma=0.5, initial=0.6)
        >>> round(margin.update(predicted=0.3, realised=1.2), 2)  # a miss: 1.2 > 0.3 + 0.6
        1.05
        >>> round(margin.update(predicted=0.3, realised=0.4), 2)
        1.0
        >>> margin.misses, margin.updates
        (1, 2)
    """

    def __init__(self, *, alpha: float = 0.02, gamma: float = 0.2, initial: float = 0.6) -> None:
        if not math.isfinite(initial):
            raise ValueError(f"initial: got {initial}; allowed finite numbers; take 0.6 budgets.")
        super().__init__(alpha=alpha, gamma=gamma, initial=initial)

    def allowed(self, budget: float) -> float:
        """Return the budget without the margin."""
        return budget - self.value

    def update(self, predicted: float, realised: float) -> float:
        """Compare an iterate's prediction with what came, and move the margin.

        Args:
            predicted: cost foretold by the model, without the margin.
            realised: cost that came, in the same unit.

        Returns:
            The new margin.

        Raises:
            ValueError: a cost is not finite; the margin is then as before.
        """
        _require_costs(predicted, realised, -math.inf)
        self.value += self._count(realised > predicted + self.value)
        return self.value

    def miss_bound(self, largest_excess: float) -> float:
        """Largest share of misses so far, whatever came.

        Args:
            largest_excess: bound b on realised minus predicted cost.
        """
        return self._bound(largest_excess + self.gamma - self.initial)


class ConformalShare(_Conformal):
    r"""A share of the budget, lowered by misses and raised by hits.

    .. math::
        \log s_{t+1} = \log s_t - \gamma (1[s_t c_t > \hat c_t] - \alpha)

    This is ``ConformalMargin`` on the logarithms of the costs, :math:`m = -\log s`. Optimise the
    policy for :math:`\hat c \le s d`: then a cost over the budget is a miss. However many misses
    come, something is left to be allowed.

    Guarantee: over T iterates

    .. math::
        \frac{misses}{T} = \alpha + \frac{\log s_1 - \log s_{T+1}}{\gamma T}.

    If no cost exceeds its prediction by more than a factor :math:`b \ge 1`, the share of misses is
    at most :math:`\alpha + (\log b + \gamma + \log s_1)^+ / (\gamma T)`, for every sequence.

    Args:
        alpha: share of misses to tend to, in (0, 1).
        gamma: step, > 0: a miss divides the share by almost :math:`e^\gamma`.
        initial: the first share, > 0.

    Raises:
        ValueError: an argument is out of its range.

    Example:
        >>> share = ConformalShare(alpha=0.1, gamma=0.5, initial=0.4)
        >>> round(share.update(predicted=0.3, realised=1.2), 2)  # a miss: 0.4 * 1.2 > 0.3
        0.26
        >>> round(share.update(predicted=0.2, realised=0.0), 2)
        0.27
    """

    def __init__(self, *, alpha: float = 0.02, gamma: float = 0.3, initial: float = 0.4) -> None:
        super().__init__(alpha=alpha, gamma=gamma, initial=_share("initial", initial))

    def allowed(self, budget: float) -> float:
        """Return the share of the budget."""
        return self.value * budget

    def update(self, predicted: float, realised: float) -> float:
        """Compare an iterate's prediction with what came, and move the share.

        Args:
            predicted: cost foretold by the model, >= 0.
            realised: cost that came, >= 0, in the same unit.

        Returns:
            The new share.

        Raises:
            ValueError: a cost is negative or not finite; the share is then as before.
        """
        _require_costs(predicted, realised, 0.0)
        self.value *= math.exp(-self._count(self.value * realised > predicted))
        return self.value

    def miss_bound(self, largest_ratio: float) -> float:
        """Largest share of misses so far, whatever came.

        Args:
            largest_ratio: bound b on realised over predicted cost, > 0.
        """
        return self._bound(math.log(largest_ratio) + self.gamma + math.log(self.initial))


def _share(name: str, value: float) -> float:
    if not 0 < value < math.inf:
        raise ValueError(f"{name}: got {value}; allowed finite and > 0; take 0.4 of the budget.")
    return float(value)


def _require_costs(predicted: float, realised: float, least: float) -> None:
    for name, cost in (("predicted", predicted), ("realised", realised)):
        if not (math.isfinite(cost) and cost >= least):
            allowed = "finite numbers" if least < 0 else "finite and >= 0"
            raise ValueError(f"{name}: got {cost}; allowed {allowed}; look for NaN.")


def _require_keys(state: dict[str, Any], expected: dict[str, Any], name: str) -> None:
    if state.keys() != expected.keys():
        raise ValueError(
            f"state: got {sorted(state)}; allowed {sorted(expected)}; load the state of a {name}."
        )
