"""Budget guard: hand an episode back to the safe base policy before its budget is spent.

Not part of the CERL paper. The model keeps the *expected* cost below the budget; the guard limits
the damage of a wrong model in a single episode. It needs no model: it watches the cost that the
episode has incurred.
"""

from collections.abc import Sequence
from typing import NamedTuple


class BudgetGuard(NamedTuple):
    """Lets the policy act while each of the episode's costs is below ``share`` of its budget.

    Cost never falls within an episode, so a tripped guard stays tripped until the episode ends. The
    rest of the budget covers the cost on the way back to safety (a fast body does not stop at
    once). The episode stays within its budget if the base policy, from any state reached, costs
    less than ``(1 - share) * episode_budget``.

    Args:
        episode_budget: cost allowed in one episode; with several costs ``[constraint]``.
        share: part of the budget that the policy may spend, in (0, 1].

    Example:
        >>> guard = BudgetGuard(episode_budget=25.0, share=0.4)
        >>> guard.allows(9.0), guard.allows(10.0)
        (True, False)
    """

    episode_budget: float | int | Sequence[float | int]
    share: float

    def allows(self, episode_cost: float | int | Sequence[float | int]) -> bool:
        """Return whether the policy may act after the episode has cost ``episode_cost``.

        Args:
            episode_cost: one number for each budget.
        """
        costs, budgets = _vector(episode_cost), _vector(self.episode_budget)
        return all(cost < self.share * budget for cost, budget in zip(costs, budgets, strict=True))


def _vector(values: float | int | Sequence[float | int]) -> Sequence[float | int]:
    return (values,) if isinstance(values, (int, float)) else values
