"""Budget guard: hand an episode back to the safe base policy before its budget is spent.

Not part of the CERL paper. The model keeps the *expected* cost under the budget; the guard bounds
what a wrong model can do to a single episode. It watches the one quantity that needs no model, the
cost the episode has really incurred.
"""

from typing import NamedTuple


class BudgetGuard(NamedTuple):
    """Lets the policy act while the episode's cost is below ``share`` of its budget.

    Once tripped it stays so until the episode ends. What is left of the budget is the margin for
    the cost incurred on the way back to safety (a fast body does not stop at once), so the guard
    promises no more than the base policy keeps: from any state reached, it must cost less than
    ``(1 - share) * episode_budget``.

    Args:
        episode_budget: cost allowed in one episode.
        share: part of it that the policy may spend, in (0, 1].

    >>> guard = BudgetGuard(episode_budget=25.0, share=0.4)
    >>> guard.allows(9.0), guard.allows(10.0)
    (True, False)
    """

    episode_budget: float
    share: float

    def allows(self, episode_cost: float) -> bool:
        """Whether the policy may go on acting after the episode has cost this much."""
        return episode_cost < self.share * self.episode_budget
