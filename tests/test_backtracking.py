import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from blocks import backtrack

sizes = st.lists(st.integers(1, 4), min_size=1, max_size=3)


@given(sizes, st.integers(0, 6), st.integers(1, 6))
def test_it_keeps_the_largest_accepted_share(
    shape: list[int], refusals: int, attempts: int
) -> None:
    old = [torch.randn(size) for size in shape]
    new = [torch.randn(size) for size in shape]
    parameters = [x.clone() for x in new]
    asked: list[float] = []

    def accepts() -> bool:
        share = 0.5 ** len(asked)
        for now, before, after in zip(parameters, old, new, strict=True):
            torch.testing.assert_close(now, before + share * (after - before))
        asked.append(share)
        return len(asked) > refusals

    kept = backtrack(parameters, old, accepts, attempts=attempts)
    assert len(asked) == min(attempts, refusals + 1)
    assert kept == (0.5**refusals if refusals < attempts else 0.0)
    for now, before, after in zip(parameters, old, new, strict=True):
        torch.testing.assert_close(now, before + kept * (after - before))


@given(st.floats(0.1, 10), st.floats(0.01, 0.99))
def test_a_cost_that_grows_with_the_step_stays_below_its_limit(slope: float, limit: float) -> None:
    x = torch.tensor([3.0], dtype=torch.float64)
    start = torch.zeros_like(x)

    def cost() -> float:
        return slope * float(x)

    kept = backtrack([x], [start], lambda: cost() <= limit, attempts=20)
    assert cost() <= limit
    assert kept == 1.0 or 2 * cost() > limit  # no further back than half of what was allowed


def test_nothing_moves_where_the_new_parameters_are_accepted() -> None:
    parameter = torch.nn.Parameter(torch.randn(3))
    before = parameter.detach().clone()
    assert backtrack([parameter], [torch.zeros(3)], lambda: True) == 1.0
    assert torch.equal(parameter, before)


def test_refused_parameters_are_the_old_ones_to_the_last_bit() -> None:
    parameter, old = torch.nn.Parameter(torch.randn(3)), torch.randn(3)
    assert backtrack([parameter], [old], lambda: False) == 0.0
    assert torch.equal(parameter.detach(), old)
    assert parameter.requires_grad


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="attempts: got 0"):
        backtrack([], [], lambda: True, attempts=0)
    with pytest.raises(ValueError, match="zip"):
        backtrack([torch.zeros(1)], [], lambda: True)
