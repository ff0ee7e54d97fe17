import math
from collections.abc import Callable
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from blocks.aggregators import (
    cvar,
    mean,
    mean_plus_std,
    of_policy,
    per_state,
    quantile,
    worst_case,
)

Aggregator = Callable[..., Tensor]

ALL: dict[str, Aggregator] = {
    "worst_case": worst_case,
    "mean": mean,
    "quantile": lambda values, dim=0: quantile(values, q=0.8, dim=dim),
    "cvar": lambda values, dim=0: cvar(values, alpha=0.3, dim=dim),
    "mean_plus_std": lambda values, dim=0: mean_plus_std(values, scale=1.5, dim=dim),
}
every_aggregator = pytest.mark.parametrize("aggregate", ALL.values(), ids=ALL.keys())

members = st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=7)
fractions = st.floats(0.01, 1.0)


def tensor(values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


@every_aggregator
@given(members, st.randoms())
def test_the_order_of_members_does_not_matter(
    aggregate: Aggregator, values: list[float], random: object
) -> None:
    shuffled = list(values)
    random.shuffle(shuffled)  # pyright: ignore[reportAttributeAccessIssue]
    torch.testing.assert_close(aggregate(tensor(values)), aggregate(tensor(shuffled)))


@every_aggregator
@given(st.floats(-1e3, 1e3))
def test_one_member_is_itself(aggregate: Aggregator, value: float) -> None:
    torch.testing.assert_close(aggregate(tensor([value])), tensor([value])[0], rtol=0, atol=1e-12)


@every_aggregator
@given(members, st.floats(-10, 10))
def test_a_shift_passes_through(aggregate: Aggregator, values: list[float], shift: float) -> None:
    torch.testing.assert_close(aggregate(tensor(values) + shift), aggregate(tensor(values)) + shift)


@every_aggregator
def test_the_member_axis_may_be_anywhere(aggregate: Aggregator) -> None:
    values = torch.randn(5, 3, 4, generator=torch.Generator().manual_seed(0))
    expected = torch.stack([aggregate(values[:, i, j]) for i in range(3) for j in range(4)])
    for dim in range(3):
        moved = aggregate(values.movedim(0, dim), dim=dim)
        torch.testing.assert_close(moved, expected.view(3, 4))


@given(members, fractions)
def test_the_worst_case_bounds_cvar_bounds_the_mean(values: list[float], alpha: float) -> None:
    data = tensor(values)
    slack = 1e-9 * (1.0 + data.abs().max())
    assert worst_case(data) + slack >= cvar(data, alpha=alpha) >= mean(data) - slack


@given(members, fractions, fractions)
def test_cvar_falls_as_alpha_grows(values: list[float], a: float, b: float) -> None:
    data = tensor(values)
    assert cvar(data, alpha=min(a, b)) >= cvar(data, alpha=max(a, b)) - 1e-9 * (
        1 + data.abs().max()
    )


@given(members)
def test_the_ends_of_cvar_and_quantile(values: list[float]) -> None:
    data = tensor(values)
    torch.testing.assert_close(cvar(data, alpha=1.0), mean(data))
    assert cvar(data, alpha=1.0 / len(values)) == pytest.approx(float(worst_case(data)))
    assert cvar(data, alpha=0.5 / len(values)) == worst_case(data)
    assert quantile(data, q=1.0) == worst_case(data)
    assert quantile(data, q=0.0) == data.min()


@given(members, st.integers(1, 40))
def test_cvar_is_the_mean_of_the_worst_share_counted_in_replicas(
    values: list[float], numerator: int
) -> None:
    """With every member repeated 40 times, alpha = n / 40 counts whole replicas only."""
    worst_first = sorted(values, reverse=True)
    replicas = [Fraction(value) for value in worst_first for _ in range(40)]
    count = numerator * len(values)
    expected = float(sum(replicas[:count]) / count)
    assert float(cvar(tensor(values), alpha=numerator / 40)) == pytest.approx(
        expected, rel=1e-9, abs=1e-9
    )


def test_known_answers() -> None:
    data = tensor([4.0, 1.0, 3.0, 2.0])
    assert worst_case(data) == 4.0
    assert mean(data) == 2.5
    assert quantile(data, q=0.5) == 2.5
    assert cvar(data, alpha=0.375) == pytest.approx((4.0 + 0.5 * 3.0) / 1.5)
    assert mean_plus_std(data, scale=2.0) == pytest.approx(2.5 + 2.0 * math.sqrt(1.25))


def test_rounding_of_alpha_selects_no_member_more() -> None:
    data = torch.zeros(100, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(cvar(data, alpha=0.07), data)
    assert int((gradient != 0).sum()) == 7  # 0.07 * 100 == 7.000000000000001


def gradient_of(aggregate: Aggregator, values: list[float]) -> list[float]:
    data = tensor(values).requires_grad_()
    (gradient,) = torch.autograd.grad(aggregate(data), data)
    return gradient.tolist()


def test_the_gradient_goes_to_the_selected_members_only() -> None:
    assert gradient_of(worst_case, [1.0, 3.0, 2.0]) == [0.0, 1.0, 0.0]
    assert sorted(gradient_of(worst_case, [3.0, 3.0, 2.0])) == [0.0, 0.0, 1.0]
    assert gradient_of(lambda v: cvar(v, alpha=0.5), [1.0, 4.0, 2.0, 3.0]) == [0.0, 0.5, 0.0, 0.5]
    assert gradient_of(lambda v: quantile(v, q=0.5), [1.0, 3.0, 2.0]) == [0.0, 0.0, 1.0]
    assert gradient_of(mean, [1.0, 3.0]) == [0.5, 0.5]


def test_members_that_agree_give_a_finite_gradient() -> None:
    assert gradient_of(lambda v: mean_plus_std(v, scale=3.0), [2.0, 2.0]) == [0.5, 0.5]


def test_worst_of_the_mean_is_not_the_mean_of_the_worst() -> None:
    """Whole-policy pessimism (CERL) is milder than per-state pessimism (LAMBDA), never stricter."""
    values = torch.randn(5, 1, 64, generator=torch.Generator().manual_seed(1))
    assert of_policy(worst_case)(values) < per_state(worst_case)(values) - 0.5


@given(st.integers(0, 2**16), st.integers(1, 4), st.integers(1, 3), st.integers(1, 4))
def test_a_policy_and_its_states_by_hand(seed: int, k: int, horizon: int, batch: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(k, horizon, batch, generator=generator, dtype=torch.float64)
    whole = [sum(map(sum, member)) / (horizon * batch) for member in values.tolist()]
    assert float(of_policy(worst_case)(values)) == pytest.approx(max(whole))
    assert float(of_policy(mean)(values)) == pytest.approx(float(values.mean()))
    states = [
        max(sum(column) / horizon for column in zip(*of_state, strict=True))
        for of_state in values.permute(2, 1, 0).tolist()  # of each start state [horizon, member]
    ]
    assert float(per_state(worst_case)(values)) == pytest.approx(sum(states) / batch)
    assert float(per_state(mean)(values)) == pytest.approx(float(values.mean()))


def test_the_members_of_a_policy_may_each_be_a_constraint() -> None:
    values = torch.randn(4, 3, 5, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(of_policy(lambda costs: costs)(values), values.mean((1, 2)))
    best_and_worst = of_policy(lambda costs: torch.stack([costs.min(), costs.max()]))(values)
    assert best_and_worst.tolist() == [values.mean((1, 2)).min(), values.mean((1, 2)).max()]


def test_what_a_policy_is_aggregated_with_can_be_read_but_not_changed() -> None:
    """Whoever knows the members' costs and gradients can mix them by ``aggregate``."""
    aggregate = of_policy(worst_case)
    assert aggregate.aggregate is worst_case
    assert aggregate == of_policy(worst_case) != of_policy(mean)
    with pytest.raises(AttributeError):
        aggregate.aggregate = mean  # pyright: ignore[reportAttributeAccessIssue]


@given(st.integers(0, 2**16))
def test_a_worst_member_of_each_state_is_at_least_the_worst_of_the_policy(seed: int) -> None:
    values = torch.randn(4, 3, 5, generator=torch.Generator().manual_seed(seed))
    assert per_state(worst_case)(values) >= of_policy(worst_case)(values) - 1e-6


def test_a_state_has_one_member_for_its_whole_trajectory() -> None:
    """The gradient of a start state goes to all steps of the member with the largest mean."""
    values = tensor([0.0]).new_tensor([[[9.0], [0.0]], [[4.0], [6.0]]]).requires_grad_()
    (gradient,) = torch.autograd.grad(per_state(worst_case)(values), values)
    assert gradient.squeeze(-1).tolist() == [[0.0, 0.0], [0.5, 0.5]]


@given(st.lists(st.floats(-1e3, 1e3), min_size=5, max_size=5))
def test_two_deviations_above_the_mean_of_five_is_never_below_the_worst(
    values: list[float],
) -> None:
    data = tensor(values)
    bound = mean_plus_std(data, scale=2.0)
    assert bound >= worst_case(data) - 1e-6 * (1 + data.abs().max())


def test_a_nan_member_is_not_hidden() -> None:
    values = tensor([1.0, math.nan])
    for aggregate in ALL.values():
        assert aggregate(values).isnan()


@pytest.mark.parametrize("alpha", [0.0, -0.1, 1.1, math.nan])
def test_cvar_names_a_wrong_alpha(alpha: float) -> None:
    with pytest.raises(ValueError, match=r"^alpha: got"):
        cvar(torch.zeros(3), alpha=alpha)


@pytest.mark.parametrize("q", [-0.1, 1.1, math.nan])
def test_quantile_names_a_wrong_q(q: float) -> None:
    with pytest.raises(ValueError, match=r"^q: got"):
        quantile(torch.zeros(3), q=q)


# ---- coverage ------------------------------------------------------------------------------------


def check_coverage_of_an_exchangeable_truth(aggregate: Aggregator, count: int) -> None:
    """The worst of K values covers one more of their kind in K / (K + 1) of all cases."""
    trials, expected = 40_000, count / (count + 1)
    values = torch.randn(count + 1, trials, generator=torch.Generator().manual_seed(count))
    covered = float((aggregate(values[:count]) >= values[count]).double().mean())
    assert covered == pytest.approx(expected, abs=4.5 * (expected * (1 - expected) / trials) ** 0.5)


@pytest.mark.parametrize("count", [1, 2, 5, 10, 20])
def test_the_worst_case_covers_as_order_statistics_predict(count: int) -> None:
    check_coverage_of_an_exchangeable_truth(worst_case, count)


@pytest.mark.parametrize("aggregate", [mean, ALL["quantile"], ALL["cvar"]])
def test_no_milder_aggregator_covers_as_often(aggregate: Aggregator) -> None:
    """Negative control: the mean in the place of the worst case fails the law of coverage."""
    with pytest.raises(AssertionError):
        check_coverage_of_an_exchangeable_truth(aggregate, 5)
