"""The guarantee of the margins: it holds on every sequence, also against an adversary."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blocks.margins import ConformalMargin, ConformalShare, FixedShare, Margin

costs = st.floats(0.0, 40.0)
positive = st.floats(0.01, 40.0)
sequences = st.lists(st.tuples(positive, costs), min_size=1, max_size=300)
alphas, gammas, initials = st.floats(0.01, 0.9), st.floats(0.01, 5.0), st.floats(-1.0, 3.0)
shares = st.floats(0.05, 2.0)
CONFORMAL = (ConformalMargin, ConformalShare)


def missed(margin: ConformalMargin | ConformalShare, predicted: float, realised: float) -> bool:
    """By the definition: more than prediction and margin allow."""
    if isinstance(margin, ConformalShare):
        return margin.value * realised > predicted
    return realised > predicted + margin.value


@given(sequences, alphas, gammas, initials)
def test_the_share_of_misses_is_what_the_margin_moved(
    sequence: list[tuple[float, float]], alpha: float, gamma: float, initial: float
) -> None:
    """The identity from which the guarantee follows."""
    margin = ConformalMargin(alpha=alpha, gamma=gamma, initial=initial)
    misses = 0
    for predicted, realised in sequence:
        misses += missed(margin, predicted, realised)
        margin.update(predicted, realised)
    count = len(sequence)
    assert (margin.misses, margin.updates) == (misses, count)
    moved = (margin.value - initial) / (gamma * count)
    assert misses / count == pytest.approx(alpha + moved, abs=1e-6)


@given(sequences, alphas, st.floats(0.01, 1.0), shares)
def test_the_share_of_misses_is_what_the_logarithm_moved(
    sequence: list[tuple[float, float]], alpha: float, gamma: float, initial: float
) -> None:
    share = ConformalShare(alpha=alpha, gamma=gamma, initial=initial)
    misses = 0
    for predicted, realised in sequence:
        misses += missed(share, predicted, realised)
        share.update(predicted, realised)
        assert share.value > 0
    count = len(sequence)
    assert (share.misses, share.updates) == (misses, count)
    moved = math.log(initial / share.value) / (gamma * count)
    assert misses / count == pytest.approx(alpha + moved, abs=1e-6)


@given(sequences, alphas, gammas, initials)
def test_misses_stay_below_the_bound_on_every_sequence(
    sequence: list[tuple[float, float]], alpha: float, gamma: float, initial: float
) -> None:
    margin = ConformalMargin(alpha=alpha, gamma=gamma, initial=initial)
    share = ConformalShare(alpha=alpha, gamma=gamma, initial=math.exp(-initial))
    for predicted, realised in sequence:
        margin.update(predicted, realised)
        share.update(predicted, realised)
    largest = max(realised - predicted for predicted, realised in sequence)
    assert margin.misses / margin.updates <= margin.miss_bound(largest) + 1e-9
    ratio = max(1.0, *(realised / predicted for predicted, realised in sequence))
    assert share.misses / share.updates <= share.miss_bound(ratio) + 1e-9


@pytest.mark.parametrize("alpha", [0.02, 0.1, 0.5])
def test_an_adversary_who_sees_the_margin_gets_no_more_than_alpha(alpha: float) -> None:
    """It costs just more than is allowed whenever it may, up to 8 beyond the prediction."""
    margin, count, most = ConformalMargin(alpha=alpha, gamma=0.2, initial=0.6), 20_000, 8.0
    for _ in range(count):
        margin.update(1.0, 1.0 + most if margin.value < most else 0.0)
    rate = margin.misses / count
    assert abs(rate - alpha) < (most + 0.2) / (0.2 * count) + 1e-9
    assert rate <= margin.miss_bound(most)


@pytest.mark.parametrize("alpha", [0.02, 0.1])
def test_an_adversary_against_the_share_gets_no_more_than_alpha(alpha: float) -> None:
    """A policy always predicted at what is allowed, which costs nine times as much if it may."""
    share, count = ConformalShare(alpha=alpha, gamma=0.3, initial=0.4), 20_000
    for _ in range(count):
        share.update(share.allowed(1.0), 9.0 * share.allowed(1.0) if share.value > 1 / 9 else 0.0)
    rate = share.misses / count
    assert alpha / 2 < rate <= share.miss_bound(9.0)
    assert share.miss_bound(9.0) < alpha + 0.001


def test_a_cost_over_the_budget_of_a_policy_predicted_within_its_share_is_a_miss() -> None:
    """So the misses bound the violations of policies predicted to be feasible."""
    share, budget = ConformalShare(initial=0.4), 25.0
    for predicted in (share.allowed(budget), 0.5 * share.allowed(budget)):
        before = share.misses
        ConformalShare.update(share, predicted, budget * 1.001)
        assert share.misses == before + 1
        share.value = 0.4


def test_a_margin_that_never_widens_has_no_guarantee() -> None:
    """Negative control: the same adversary against a fixed margin misses always."""
    margin = ConformalMargin(alpha=0.02, gamma=0.2, initial=0.6)
    misses = 0
    for _ in range(1000):
        misses += 1.0 + margin.initial < 9.0
        margin.update(1.0, 9.0 if margin.value < 8.0 else 0.0)
    assert misses == 1000
    assert margin.misses / 1000 < 0.1


@pytest.mark.parametrize("kind", CONFORMAL)
@given(sequence=sequences, cut=st.integers(0, 300))
def test_a_restored_margin_goes_on_as_if_nothing_had_happened(
    kind: Any, sequence: list[tuple[float, float]], cut: int
) -> None:
    margin, restored = kind(), kind(alpha=0.5, gamma=1.0, initial=0.1)
    for predicted, realised in sequence[:cut]:
        margin.update(predicted, realised)
    restored.load_state_dict(margin.state_dict())
    for predicted, realised in sequence[cut:]:
        assert margin.update(predicted, realised) == restored.update(predicted, realised)
    assert restored.state_dict() == margin.state_dict()


@pytest.mark.parametrize("kind", CONFORMAL)
@pytest.mark.parametrize(
    ("arguments", "answer"),
    [
        ({"alpha": 0.0}, "^alpha: got 0.0; allowed in "),
        ({"alpha": 1.0}, "^alpha: got 1.0; allowed in "),
        ({"alpha": math.nan}, "^alpha: got nan; allowed in "),
        ({"gamma": 0.0}, "^gamma: got 0.0; allowed finite and > 0"),
        ({"gamma": math.inf}, "^gamma: got inf; allowed finite and > 0"),
        ({"initial": math.nan}, "^initial: got nan; allowed finite"),
    ],
)
def test_arguments_out_of_range_are_refused(
    kind: Any, arguments: dict[str, float], answer: str
) -> None:
    with pytest.raises(ValueError, match=answer):
        kind(**arguments)


@pytest.mark.parametrize("value", [math.nan, math.inf, 0.0, -0.4])
def test_a_share_is_a_positive_number(value: float) -> None:
    with pytest.raises(ValueError, match=r"^value: got (nan|inf|0\.0|-0\.4); allowed finite and"):
        FixedShare(value)
    with pytest.raises(ValueError, match=r"^initial: got (nan|inf|0\.0|-0\.4); allowed finite and"):
        ConformalShare(initial=value)


@pytest.mark.parametrize("kind", CONFORMAL)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_cost_that_is_no_number_changes_nothing(kind: Any, bad: float) -> None:
    margin = kind()
    before = margin.state_dict()
    with pytest.raises(ValueError, match=r"^predicted: got (nan|inf|-inf)"):
        margin.update(bad, 1.0)
    with pytest.raises(ValueError, match=r"^realised: got (nan|inf|-inf)"):
        margin.update(1.0, bad)
    assert margin.state_dict() == before


def test_a_share_takes_no_negative_cost() -> None:
    with pytest.raises(ValueError, match=r"^realised: got -1.0; allowed finite and >= 0"):
        ConformalShare().update(1.0, -1.0)


@pytest.mark.parametrize("margin", [ConformalMargin(), ConformalShare(), FixedShare(0.4)])
@pytest.mark.parametrize("state", [{}, {"value": 1.0, "eta": 2.0}])
def test_the_state_of_something_else_is_refused(margin: Margin, state: dict[str, float]) -> None:
    before = margin.state_dict()
    with pytest.raises(ValueError, match=r"^state: got \[.*\]; allowed"):
        margin.load_state_dict(state)
    assert margin.state_dict() == before


def test_what_is_allowed_is_the_budget_without_the_margin() -> None:
    assert ConformalMargin(initial=5.0).allowed(25.0) == 20.0
    assert ConformalShare(initial=0.4).allowed(25.0) == FixedShare(0.4).allowed(25.0) == 10.0


@given(shares, sequences)
def test_a_fixed_share_never_moves(value: float, sequence: list[tuple[float, float]]) -> None:
    share = FixedShare(value)
    for predicted, realised in sequence:
        assert share.update(predicted, realised) == value
    assert share.value == value
    restored = FixedShare(1.0)
    restored.load_state_dict(share.state_dict())
    assert restored.value == value
