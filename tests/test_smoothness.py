"""Estimated smoothness never exceeds what the functions have, and LBSGD keeps its law with it."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from blocks.optimizers.lbsgd import LBSGD
from blocks.optimizers.smoothness import KnownSmoothness, SecantSmoothness

seeds = st.integers(0, 2**16)


def quadratics(seed: int, functions: int, size: int = 4) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    curved = torch.randn(functions, size, size, generator=generator, dtype=torch.float64)
    return (curved + curved.mT) / 2


def walk(seed: int, steps: int, size: int = 4) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(steps, size, generator=generator, dtype=torch.float64).cumsum(0)


@given(seeds, st.floats(1e-3, 1e3), st.floats(1.0, 5.0), st.floats(0.1, 1.0))
def test_never_above_the_true_constant_times_the_factor(
    seed: int, initial: float, factor: float, decay: float
) -> None:
    """Nor below the newest secant, times the factor."""
    curved = quadratics(seed, functions=3)
    true = torch.linalg.matrix_norm(curved, ord=2)
    smoothness = SecantSmoothness(initial, factor=factor, decay=decay)
    before = None
    for x in walk(seed, 10):
        gradients = curved @ x
        estimate = smoothness.update(x, gradients)
        assert (estimate <= torch.clamp(factor * true, min=initial) * (1 + 1e-9)).all()
        if before is not None:
            secant = (gradients - before[1]).norm(dim=-1) / (x - before[0]).norm()
            assert (estimate >= factor * secant * (1 - 1e-9)).all()
        before = x, gradients


def test_negative_control_noise_in_the_gradients_breaks_the_bound() -> None:
    curved = quadratics(0, functions=1)
    smoothness = SecantSmoothness(1e-3, factor=1.0, decay=1.0)
    generator = torch.Generator().manual_seed(1)
    for x in 1e-3 * walk(0, 10):
        noise = torch.randn(1, 4, generator=generator, dtype=torch.float64)
        estimate = smoothness.update(x, curved @ x + noise)
    assert (estimate > 100 * torch.linalg.matrix_norm(curved, ord=2)).all()


def test_exact_along_an_eigenvector_and_each_function_on_its_own() -> None:
    smoothness = SecantSmoothness(1e-6, factor=1.0)
    for x in (0.0, 0.5, 1.0):
        point = torch.tensor([x, 0.0])
        gradients = torch.tensor([[3.0 * x, 0.0], [-7.0 * x, 0.0], [0.0, 0.0]])
        estimate = smoothness.update(point, gradients)
    torch.testing.assert_close(estimate, torch.tensor([3.0, 7.0, 1e-6 * 0.99**2]))


def test_an_iterate_that_stayed_teaches_nothing() -> None:
    smoothness = SecantSmoothness(5.0, decay=0.5)
    x = torch.tensor([1.0])
    smoothness.update(x, torch.tensor([[1.0]]))
    torch.testing.assert_close(smoothness.update(x, torch.tensor([[9.0]])), torch.tensor([2.5]))


@given(seeds)
def test_a_restored_estimator_continues_with_the_same_numbers(seed: int) -> None:
    curved, points = quadratics(seed, functions=2), walk(seed, 6)
    original, restored = SecantSmoothness(1.0), SecantSmoothness(1.0)
    for x in points[:3]:
        original.update(x, curved @ x)
    restored.load_state_dict(original.state_dict())
    for x in points[3:]:
        assert torch.equal(original.update(x, curved @ x), restored.update(x, curved @ x))


@settings(max_examples=25)
@given(seeds, st.floats(-2.0, 2.0))
def test_lbsgd_keeps_half_of_every_slack_with_generous_estimates(seed: int, log_eta: float) -> None:
    """Two quadratic constraints, of which only the gradients met on the way are known."""
    curved = quadratics(seed, functions=3)
    curved[1:] = curved[1:] @ curved[1:].mT  # convex, so that the feasible set is bounded
    initial = 3.0 * torch.linalg.matrix_norm(curved, ord=2).max().item()
    x = nn.Parameter(torch.zeros(4, dtype=torch.float64))
    optimizer = LBSGD(
        [x],
        eta=10.0**log_eta,
        objective_smoothness=SecantSmoothness(initial),
        constraint_smoothness=SecantSmoothness(initial),
    )
    slope = quadratics(seed + 1, functions=1)[0, :2]

    def costs() -> Tensor:
        return torch.einsum("i,cij,j->c", x, curved[1:], x) / 2 + slope @ x

    true = torch.linalg.matrix_norm(curved[1:], ord=2)
    for _ in range(30):
        before = 1.0 - costs().detach()
        step = optimizer.step(x @ curved[0] @ x / 2 + slope[0] @ x, costs(), 1.0)
        assert (step.constraint_smoothness >= true).all()  # 0.99^30 of three times the largest
        assert (1.0 - costs().detach() >= before / 2 - 1e-9).all()


def test_lbsgd_resumes_with_its_estimates() -> None:
    def optimizer(x: nn.Parameter) -> LBSGD:
        return LBSGD(
            [x],
            eta=0.1,
            objective_smoothness=SecantSmoothness(10.0),
            constraint_smoothness=SecantSmoothness(10.0),
        )

    def step(x: nn.Parameter, with_optimizer: LBSGD) -> None:
        with_optimizer.step(-((x - 2) ** 2).sum(), x.square().sum(), 1.0)

    x = nn.Parameter(torch.tensor([0.1, 0.2]))
    original = optimizer(x)
    for _ in range(3):
        step(x, original)
    y = nn.Parameter(x.detach().clone())
    resumed = optimizer(y)
    resumed.load_state_dict(original.state_dict())
    for _ in range(3):
        step(x, original)
        step(y, resumed)
    assert torch.equal(x, y)


@pytest.mark.parametrize(
    "argument",
    [
        {"initial": 0.0},
        {"initial": math.inf},
        {"factor": 0.9},
        {"factor": math.nan},
        {"decay": 0.0},
        {"decay": 1.1},
    ],
)
def test_arguments_out_of_range_are_named(argument: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(argument))}: got"):
        SecantSmoothness(**{"initial": 1.0} | argument)


def test_bad_gradients_are_refused_and_change_nothing() -> None:
    smoothness = SecantSmoothness(1.0)
    smoothness.update(torch.zeros(2), torch.zeros(1, 2))
    before = smoothness.state_dict()
    with pytest.raises(ValueError, match="gradients: got NaN"):
        smoothness.update(torch.ones(2), torch.full((1, 2), math.nan))
    with pytest.raises(ValueError, match=r"shape \[2, 2\]"):
        smoothness.update(torch.ones(2), torch.zeros(2, 2))
    after = smoothness.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_states_of_known_and_estimated_constants_do_not_mix() -> None:
    known, estimated = KnownSmoothness(torch.tensor(1.0), "smoothness"), SecantSmoothness(1.0)
    with pytest.raises(ValueError, match="estimated"):
        known.load_state_dict(estimated.state_dict())
    with pytest.raises(ValueError, match="state: got keys"):
        estimated.load_state_dict(known.state_dict())
