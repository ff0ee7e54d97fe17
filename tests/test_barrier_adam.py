"""The barrier with Adam against hand computation, and that a scale before Adam is divided out."""

import io
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from blocks.optimizers.barrier import log_barrier
from blocks.optimizers.barrier_adam import BarrierAdam, BarrierAdamStep
from blocks.optimizers.lbsgd import LBSGD
from blocks.optimizers.step_size import lbsgd_step_size

RULE = partial(lbsgd_step_size, objective_smoothness=2.0, constraint_smoothness=2.0)


def vector(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def in_the_disc(
    x: nn.Parameter, optimizer: BarrierAdam, steps: int, target: float = 2.0
) -> list[BarrierAdamStep]:
    """Maximise -|x - target|^2 in the unit disc."""
    return [
        optimizer.step(-(x - target).square().sum(), x.square().sum(), 1.0) for _ in range(steps)
    ]


@pytest.mark.parametrize("scaled", [False, True])
def test_two_steps_by_hand(scaled: bool) -> None:
    """max -(x - 3)^2 subject to x^2 <= 4, from 1; eta = 0.5, then 0.25."""
    x = nn.Parameter(vector(1.0)[0])
    options: dict[str, Any] = {"scale": RULE} if scaled else {}
    optimizer = BarrierAdam([x], eta=0.5, eta_decay=0.5, learning_rate=0.1, **options)
    position, eta, m, v = 1.0, 0.5, 0.0, 0.0
    for count in (1, 2):
        a = 4.0 - position**2
        g = 2 * (position - 3) + eta * 2 * position / a
        th = 2 * position
        m2 = 2 + 10 * eta * 2 / a + 8 * eta * th**2 / a**2
        gamma = min(a / (2 * th + math.sqrt(a * 2)) / abs(g), 1 / m2) if scaled else 1.0
        m, v = 0.9 * m + 0.1 * gamma * g, 0.999 * v + 0.001 * (gamma * g) ** 2
        u = -0.1 * (m / (1 - 0.9**count)) / (math.sqrt(v / (1 - 0.999**count)) + 1e-8)
        step = optimizer.step(-((x - 3) ** 2), x**2, 4.0)
        assert step.slack.item() == pytest.approx(a)
        assert step.eta == eta
        assert step.grad_norm.item() == pytest.approx(abs(g))
        assert step.step_size.item() == pytest.approx(gamma)
        assert step.step_length.item() == pytest.approx(abs(u))
        position, eta = position + u, eta * 0.5
        assert x.item() == pytest.approx(position)
        assert optimizer.eta == eta


@given(st.floats(-0.9, 0.9), st.floats(-0.9, 0.9), st.floats(0.0, 3.0))
def test_it_climbs_the_log_barrier(x0: float, x1: float, eta: float) -> None:
    x = nn.Parameter(vector(x0, x1))
    objective, costs = -(x - 3.0).square().sum(), torch.stack([x[0], x[1] ** 2])
    barrier = log_barrier(objective, 1.0 - costs, eta=eta)
    (gradient,) = torch.autograd.grad(barrier, x, retain_graph=True)
    step = BarrierAdam([x], eta=eta).step(objective, costs, 1.0)
    assert step.grad_norm.item() == pytest.approx(gradient.norm().item())
    assert step.slack.shape == (2,)


def test_small_steps_reach_the_maximiser_of_the_barrier() -> None:
    """max -(x - 2)^2 + eta log(1 - x): where 2 (2 - x) (1 - x) = eta."""
    x = nn.Parameter(vector(0.0)[0])
    optimizer = BarrierAdam([x], eta=0.1, learning_rate=2e-3)
    for _ in range(1500):
        step = optimizer.step(-((x - 2) ** 2), x, 1.0)
    assert step.feasible  # pyright: ignore[reportPossiblyUnboundVariable]
    assert x.item() == pytest.approx(1.5 - math.sqrt(0.25 + 0.1 / 2), abs=1e-3)


@given(st.floats(-5.0, 2.0))
def test_adam_divides_a_constant_scale_out_again(log_scale: float) -> None:
    """However small the factor before Adam, the walk is the unscaled one."""

    def walk(**options: Any) -> list[float]:
        x = nn.Parameter(vector(0.1, -0.2))
        optimizer = BarrierAdam([x], eta=0.1, learning_rate=0.02, eps=1e-14, **options)
        in_the_disc(x, optimizer, 20)
        return x.tolist()

    def scale(slack: Tensor, slope: Tensor, norm: Tensor, /, *, eta: float) -> Tensor:
        return torch.full_like(norm, 10.0**log_scale)

    assert walk(scale=scale) == pytest.approx(walk(), rel=1e-6)


def test_a_scale_below_adams_epsilon_shortens_the_step_in_its_units() -> None:
    """Adam's first step is rate * g / (|g| + eps): at g = eps the half, at g << eps hardly any."""

    def length(factor: float) -> float:
        x = nn.Parameter(vector(0.0))
        optimizer = BarrierAdam(
            [x], eta=0.0, learning_rate=1.0, eps=1e-8, scale=lambda *_, eta: vector(factor)[0]
        )
        return optimizer.step(x.sum(), x.sum(), 10.0).step_length.item()

    assert length(1e-3) == pytest.approx(1.0, rel=1e-4)
    assert length(1e-8) == pytest.approx(0.5)
    assert length(1e-11) == pytest.approx(1e-3, rel=1e-2)


def leaves(optimizer: Callable[[nn.Parameter], Any]) -> bool:
    """Whether one step from the middle of the disc ends outside it."""
    x = nn.Parameter(vector(0.0))
    optimizer(x).step(100.0 * x.sum(), x.square().sum(), 1.0)
    return float(x.detach().abs()) >= 1.0


def test_negative_control_only_a_rule_after_adam_keeps_the_first_step_inside() -> None:
    rate = 2.0
    assert leaves(lambda x: BarrierAdam([x], eta=0.1, learning_rate=rate))
    assert leaves(lambda x: BarrierAdam([x], eta=0.1, learning_rate=rate, scale=RULE))
    options: dict[str, Any] = {"objective_smoothness": 2.0, "constraint_smoothness": 2.0}
    assert not leaves(
        lambda x: LBSGD([x], eta=0.1, direction="adam", learning_rate=rate, **options)
    )


def test_recovery_is_that_of_lbsgd() -> None:
    """From outside both go the same way back, until they are inside."""

    def walk(build: Callable[..., Any], **options: Any) -> list[float]:
        x = nn.Parameter(vector(3.0, 0.5))
        optimizer, path = build([x], eta=0.1, recovery_learning_rate=0.1, **options), []
        while not optimizer.step(x.sum(), x.square().sum(), 1.0).feasible:
            path.append(float(x.detach().norm()))
        assert optimizer.eta == 0.1  # no decay was asked for
        return path

    smoothness: dict[str, Any] = {"objective_smoothness": 2.0, "constraint_smoothness": 2.0}
    path = walk(BarrierAdam)
    assert len(path) > 5
    assert path == walk(LBSGD, **smoothness)


def test_eta_decays_on_feasible_steps_only_and_not_below_its_minimum() -> None:
    x = nn.Parameter(vector(1.05, 0.0))
    optimizer = BarrierAdam([x], eta=1.0, eta_decay=0.5, eta_min=0.2, recovery_learning_rate=0.1)
    steps = in_the_disc(x, optimizer, 5, target=0.0)
    assert [step.feasible for step in steps] == [False, True, True, True, True]
    assert [step.eta for step in steps] == [1.0, 1.0, 0.5, 0.25, 0.2]


@pytest.mark.parametrize("pause", [0, 2, 7])
def test_resumed_equals_uninterrupted(pause: int) -> None:
    def build() -> tuple[nn.Parameter, BarrierAdam]:
        x = nn.Parameter(vector(1.1, 0.3))
        return x, BarrierAdam(
            [x], eta=0.1, eta_decay=0.9, scale=RULE, learning_rate=0.05, recovery_learning_rate=0.05
        )

    x, optimizer = build()
    feasible = [step.feasible for step in in_the_disc(x, optimizer, 12)]
    assert len(set(feasible[:7])) == 2  # pauses fall into a recovery and into the barrier's steps
    y, first = build()
    in_the_disc(y, first, pause)
    file = io.BytesIO()
    torch.save({"y": y.detach(), "optimizer": first.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    z, second = build()
    z.data.copy_(saved["y"])
    second.load_state_dict(saved["optimizer"])
    in_the_disc(z, second, 12 - pause)
    assert torch.equal(x, z)
    assert second.eta == optimizer.eta


def test_a_state_of_another_method_is_refused() -> None:
    x = nn.Parameter(vector(0.0))
    with pytest.raises(ValueError, match="state: got keys"):
        BarrierAdam([x], eta=0.1).load_state_dict({"eta": 0.1})


@pytest.mark.parametrize(
    ("option", "value"),
    [("eta", -0.1), ("eta", math.inf), ("eta_decay", 0.0), ("eta_decay", 1.1), ("eta_min", 0.2)],
)
def test_a_wrong_option_is_named(option: str, value: float) -> None:
    options: dict[str, Any] = {"eta": 0.1} | {option: value}
    with pytest.raises(ValueError, match=f"^{option}: got"):
        BarrierAdam([nn.Parameter(vector(0.0))], **options)


def test_what_is_not_finite_is_named_and_nothing_is_lost() -> None:
    x = nn.Parameter(vector(0.0, 0.0))
    optimizer = BarrierAdam([x], eta=0.1)
    before = optimizer.state_dict()
    with pytest.raises(ValueError, match=r"^cost_return: got"):
        optimizer.step(x.sum(), x.sum() * math.nan, 1.0)
    with pytest.raises(ValueError, match="gradient of objective or cost_return: got norm"):
        optimizer.step(x.sum().sqrt(), x.sum(), 1.0)
    assert optimizer.state_dict() == before
    assert not x.any()
