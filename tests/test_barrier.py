import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from blocks.optimizers.barrier import log_barrier

any_float = st.floats(width=32, allow_nan=True, allow_infinity=False)
slacks = st.lists(any_float, min_size=1, max_size=4)
etas = st.floats(0.0, 100.0)


@given(any_float.filter(math.isfinite), slacks, etas)
def test_finite_exactly_where_every_slack_is_positive(
    objective: float, slack: list[float], eta: float
) -> None:
    value = log_barrier(torch.tensor(objective), torch.tensor(slack), eta=eta)
    inside = all(a > 0 for a in slack)
    assert value.isfinite() if inside else value == -math.inf


@given(st.floats(-1e3, 1e3), slacks, etas)
def test_no_gradient_is_ever_nan_and_outside_it_is_zero(
    objective: float, slack: list[float], eta: float
) -> None:
    start, room = (
        torch.tensor(objective, requires_grad=True),
        torch.tensor(slack, requires_grad=True),
    )
    log_barrier(start, room, eta=eta).backward()
    assert start.grad is not None
    assert room.grad is not None
    assert not start.grad.isnan()
    assert not room.grad.isnan().any()
    if not all(a > 0 for a in slack):
        assert start.grad == 0
        assert not room.grad.any()


def test_the_smallest_slack_there_is_has_a_finite_value_and_gradient() -> None:
    """1 / 1e-45 is infinite in single precision, and 0 * inf would be NaN."""
    room = torch.tensor([1e-45], requires_grad=True)
    for eta in (0.0, 1.0):
        value = log_barrier(torch.zeros(()), room, eta=eta)
        (gradient,) = torch.autograd.grad(value, room)
        assert value.isfinite()
        assert gradient.isfinite()


@given(st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=4), st.floats(1e-3, 10.0))
def test_the_gradient_points_inward(slack: list[float], eta: float) -> None:
    """More slack is better, by eta / slack: without bound at the wall."""
    room = torch.tensor(slack, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(
        log_barrier(torch.zeros((), dtype=torch.float64), room, eta=eta), room
    )
    torch.testing.assert_close(gradient, eta / room.detach())
    assert (gradient > 0).all()


@given(st.floats(-1e3, 1e3), st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=4))
def test_it_tends_to_the_objective_as_eta_vanishes(objective: float, slack: list[float]) -> None:
    start = torch.tensor(objective, dtype=torch.float64)
    room = torch.tensor(slack, dtype=torch.float64)
    gaps = [
        float((log_barrier(start, room, eta=eta) - start).abs()) for eta in (1.0, 1e-3, 1e-6, 0.0)
    ]
    assert gaps == sorted(gaps, reverse=True)
    assert gaps[-1] == 0.0
    assert gaps[2] <= 1e-6 * (gaps[0] + 1.0)


def test_known_answer_and_scalar_slack() -> None:
    one = log_barrier(torch.tensor(2.0), torch.tensor(math.e), eta=0.5)
    assert one.item() == pytest.approx(2.5)
    two = log_barrier(torch.tensor(2.0), torch.tensor([math.e, math.e**2]), eta=0.5)
    assert two.item() == pytest.approx(3.5)


def test_its_maximiser_is_inside_and_within_eta_of_the_optimum() -> None:
    """max -(x - 2)^2 subject to x <= 1: on a fine grid, for several eta."""
    grid = torch.linspace(-1.0, 3.0, 400_001, dtype=torch.float64)
    for eta in (1.0, 0.1, 0.01):
        barrier = torch.func.vmap(lambda x, eta=eta: log_barrier(-((x - 2) ** 2), 1 - x, eta=eta))
        best = grid[barrier(grid).argmax()]
        assert best < 1.0
        assert -1.0 - (-((best - 2) ** 2)) <= eta
