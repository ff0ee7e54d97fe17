from hypothesis import given
from hypothesis import strategies as st

from blocks.guards import BudgetGuard

budgets = st.floats(0.1, 1e3)
shares = st.floats(0.01, 1.0)
costs = st.lists(st.floats(0.0, 50.0), max_size=30)


@given(budgets, shares, st.floats(0.0, 2e3))
def test_the_policy_acts_exactly_while_less_than_its_share_is_spent(
    budget: float, share: float, cost: float
) -> None:
    guard = BudgetGuard(budget, share)
    assert guard.allows(cost) == (cost < share * budget)
    assert guard.allows(0.0)
    assert not guard.allows(share * budget)


@given(budgets, shares, costs)
def test_once_tripped_it_stays_so_because_costs_only_add_up(
    budget: float, share: float, costs: list[float]
) -> None:
    guard, spent, decisions = BudgetGuard(budget, share), 0.0, []
    for cost in costs:
        spent += cost
        decisions.append(guard.allows(spent))
    assert decisions == sorted(decisions, reverse=True)


@given(budgets, shares, st.floats(0.0, 1.0))
def test_an_episode_ends_within_its_budget_if_the_way_back_fits_the_margin(
    budget: float, share: float, cost: float
) -> None:
    """The promise of the docstring, for a policy that costs the same at every step."""
    guard, spent, margin = BudgetGuard(budget, share), 0.0, (1 - share) * budget
    for _ in range(200):
        if not guard.allows(spent):
            break
        spent += min(cost, margin)  # the step that trips the guard belongs to the way back
    assert spent <= budget * (1 + 1e-12)
