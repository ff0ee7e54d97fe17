"""A margin on predicted cost that learns from its misses: adaptive conformal inference.

The one guarantee here that needs no assumption about the model: whatever is predicted and whatever
comes, the share of misses tends to ``alpha``.
"""

import math
from typing import Any


class ConformalMargin:
    r"""Margin between predicted and allowed cost, widened by misses and narrowed by hits.

    .. math::
        m_{t+1} = m_t + \gamma (1[c_t > \hat c_t + m_t] - \alpha)

    with realised cost :math:`c_t` and predicted cost :math:`\hat c_t` of iterate t (Gibbs and
    Candès 2021, equation 2, with the margin itself in place of a quantile level; the quantile
    tracker of Angelopoulos et al. 2023, section 2.1). Optimise the policy for
    :math:`\hat c + m \le d`.

    Guarantee: summing the update over T iterates,

    .. math::
        \frac{misses}{T} = \alpha + \frac{m_{T+1} - m_1}{\gamma T}.

    If no cost exceeds its prediction by more than :math:`b`, then
    :math:`m_{T+1} \le \max(m_1, b + \gamma)`, so that the share of misses is at most
    :math:`\alpha + (b + \gamma - m_1)^+ / (\gamma T)`. This holds for every sequence, chosen by an
    adversary or by the policy itself. It says how often costs exceed predictions plus margin,
    not by how much; and nothing about the budget where the optimiser cannot reach
    :math:`\hat c + m \le d`.

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
        if not 0 < alpha < 1:
            raise ValueError(f"alpha: got {alpha}; allowed in (0, 1); take 0.02 for 2% of misses.")
        if not 0 < gamma < math.inf:
            raise ValueError(f"gamma: got {gamma}; allowed finite and > 0; take 0.2 budgets.")
        if not math.isfinite(initial):
            raise ValueError(f"initial: got {initial}; allowed finite numbers; take 0.6 budgets.")
        self.alpha, self.gamma = float(alpha), float(gamma)
        self.initial = self.value = float(initial)
        self.misses = self.updates = 0

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
        for name, cost in (("predicted", predicted), ("realised", realised)):
            if not math.isfinite(cost):
                raise ValueError(f"{name}: got {cost}; allowed finite numbers; look for NaN.")
        missed = realised > predicted + self.value
        self.misses += missed
        self.updates += 1
        self.value += self.gamma * (missed - self.alpha)
        return self.value

    def miss_bound(self, largest_excess: float) -> float:
        """Largest share of misses so far, whatever came.

        Args:
            largest_excess: bound b on realised minus predicted cost.
        """
        reached = max(0.0, largest_excess + self.gamma - self.initial)
        return self.alpha + reached / (self.gamma * max(1, self.updates))

    def state_dict(self) -> dict[str, Any]:
        """All that a resumed run needs."""
        names = ("alpha", "gamma", "initial", "value", "misses", "updates")
        return {name: getattr(self, name) for name in names}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where ``state_dict`` was taken; alpha and gamma come with it.

        Raises:
            ValueError: the state is not one of ``ConformalMargin``.
        """
        if state.keys() != self.state_dict().keys():
            raise ValueError(
                f"state: got {sorted(state)}; allowed {sorted(self.state_dict())}; load the state "
                "of a ConformalMargin."
            )
        vars(self).update(state)
