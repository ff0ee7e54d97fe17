import pytest
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


# ---- several costs -------------------------------------------------------------------------------

pairs = st.lists(st.tuples(budgets, st.floats(0.0, 1e3)), min_size=1, max_size=4)


@given(pairs, shares)
def test_the_policy_acts_while_it_may_under_each_budget(
    pairs: list[tuple[float, float]], share: float
) -> None:
    budgets, costs = zip(*pairs, strict=True)
    allowed = BudgetGuard(budgets, share).allows(costs)
    assert allowed == all(BudgetGuard(budget, share).allows(cost) for budget, cost in pairs)


@pytest.mark.parametrize("index", range(3))
def test_each_cost_alone_can_trip_it(index: int) -> None:
    """At its own budget: the same number as another cost, the control, trips nothing."""
    guard, budgets = BudgetGuard((1.0, 10.0, 100.0), 0.5), (1.0, 10.0, 100.0)
    assert guard.allows([0.0, 0.0, 0.0])
    assert not guard.allows([0.5 * budgets[i] if i == index else 0.0 for i in range(3)])
    assert guard.allows([0.49 * budgets[i] if i == index else 0.0 for i in range(3)])
    for other in range(index + 1, 3):
        assert guard.allows([0.5 * budgets[index] if i == other else 0.0 for i in range(3)])


@given(budgets, shares, st.floats(0.0, 2e3))
def test_one_cost_is_the_vector_of_it(budget: float, share: float, cost: float) -> None:
    expected = BudgetGuard(budget, share).allows(cost)
    assert BudgetGuard([budget], share).allows([cost]) == expected
    assert BudgetGuard([budget], share).allows(cost) == expected


@pytest.mark.parametrize("cost", [1.0, [1.0], [1.0, 1.0, 1.0]])
def test_another_number_of_costs_than_budgets_is_an_error(cost: float | list[float]) -> None:
    with pytest.raises(ValueError, match="argument 2"):
        BudgetGuard((25.0, 10.0), 0.5).allows(cost)
