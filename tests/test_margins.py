"""The guarantee of the margin: it holds on every sequence, also against an adversary."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blocks.margins import ConformalMargin

costs = st.floats(0.0, 40.0)
sequences = st.lists(st.tuples(costs, costs), min_size=1, max_size=300)
alphas, gammas, initials = st.floats(0.01, 0.9), st.floats(0.01, 5.0), st.floats(-1.0, 3.0)


@given(sequences, alphas, gammas, initials)
def test_the_share_of_misses_is_what_the_margin_moved(
    sequence: list[tuple[float, float]], alpha: float, gamma: float, initial: float
) -> None:
    """The identity from which the guarantee follows."""
    margin = ConformalMargin(alpha=alpha, gamma=gamma, initial=initial)
    misses = 0
    for predicted, realised in sequence:
        misses += realised > predicted + margin.value
        margin.update(predicted, realised)
    count = len(sequence)
    assert (margin.misses, margin.updates) == (misses, count)
    moved = (margin.value - initial) / (gamma * count)
    assert misses / count == pytest.approx(alpha + moved, abs=1e-6)


@given(sequences, alphas, gammas, initials)
def test_misses_stay_below_the_bound_on_every_sequence(
    sequence: list[tuple[float, float]], alpha: float, gamma: float, initial: float
) -> None:
    margin = ConformalMargin(alpha=alpha, gamma=gamma, initial=initial)
    for predicted, realised in sequence:
        margin.update(predicted, realised)
    largest = max(realised - predicted for predicted, realised in sequence)
    assert margin.misses / margin.updates <= margin.miss_bound(largest) + 1e-9


@pytest.mark.parametrize("alpha", [0.02, 0.1, 0.5])
def test_an_adversary_who_sees_the_margin_gets_no_more_than_alpha(alpha: float) -> None:
    """It costs just more than is allowed whenever it may, up to 8 beyond the prediction."""
    margin, count, most = ConformalMargin(alpha=alpha, gamma=0.2, initial=0.6), 20_000, 8.0
    for _ in range(count):
        margin.update(1.0, 1.0 + most if margin.value < most else 0.0)
    rate = margin.misses / count
    assert abs(rate - alpha) < (most + 0.2) / (0.2 * count) + 1e-9
    assert rate <= margin.miss_bound(most)


def test_a_margin_that_never_widens_has_no_guarantee() -> None:
    """Negative control: the same adversary against a fixed margin misses always."""
    margin = ConformalMargin(alpha=0.02, gamma=0.2, initial=0.6)
    misses = 0
    for _ in range(1000):
        misses += 1.0 + margin.initial < 9.0
        margin.update(1.0, 9.0 if margin.value < 8.0 else 0.0)
    assert misses == 1000
    assert margin.misses / 1000 < 0.1


@given(sequences, st.integers(0, 300))
def test_a_restored_margin_goes_on_as_if_nothing_had_happened(
    sequence: list[tuple[float, float]], cut: int
) -> None:
    margin, restored = ConformalMargin(), ConformalMargin(alpha=0.5, gamma=1.0, initial=0.0)
    for predicted, realised in sequence[:cut]:
        margin.update(predicted, realised)
    restored.load_state_dict(margin.state_dict())
    for predicted, realised in sequence[cut:]:
        assert margin.update(predicted, realised) == restored.update(predicted, realised)
    assert restored.state_dict() == margin.state_dict()


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
def test_arguments_out_of_range_are_refused(arguments: dict[str, float], answer: str) -> None:
    with pytest.raises(ValueError, match=answer):
        ConformalMargin(**arguments)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_cost_that_is_no_number_changes_nothing(bad: float) -> None:
    margin = ConformalMargin()
    before = margin.state_dict()
    with pytest.raises(ValueError, match=r"^predicted: got (nan|inf|-inf)"):
        margin.update(bad, 1.0)
    with pytest.raises(ValueError, match=r"^realised: got (nan|inf|-inf)"):
        margin.update(1.0, bad)
    assert margin.state_dict() == before


def test_the_state_of_something_else_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^state: got \[\]; allowed"):
        ConformalMargin().load_state_dict({})
