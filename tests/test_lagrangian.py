import io
import math
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from blocks.optimizers.lagrangian import AugmentedLagrangian, LagrangianStep, PIDLagrangian

Method = Callable[..., AugmentedLagrangian | PIDLagrangian]
both_methods = pytest.mark.parametrize("method", [AugmentedLagrangian, PIDLagrangian])


def vector(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def quadratic(
    x: nn.Parameter, optimizer: AugmentedLagrangian | PIDLagrangian, steps: int
) -> list[LagrangianStep]:
    """max -|x - 3|^2 subject to x_0 <= 1, x_1 <= 2, x_0 + x_1 <= 10.

    The solution is (1, 2), its multipliers 4, 2 and 0.
    """
    rows = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]], dtype=torch.float64)
    budget = vector(1.0, 2.0, 10.0)
    return [optimizer.step(-(x - 3.0).square().sum(), rows @ x, budget) for _ in range(steps)]


@pytest.mark.parametrize(
    "method",
    [
        lambda params: AugmentedLagrangian(params, learning_rate=0.02, penalty=0.02),
        lambda params: PIDLagrangian(params, learning_rate=0.02, integral_gain=0.05),
        lambda params: PIDLagrangian(
            params, learning_rate=0.02, integral_gain=0.05, derivative_gain=1.0
        ),
    ],
    ids=["augmented", "pi", "pid"],
)
@pytest.mark.parametrize("start", [(0.0, 0.0), (4.0, 4.0)], ids=["inside", "outside"])
def test_converges_to_the_solution_and_its_multipliers(
    method: Method, start: tuple[float, float]
) -> None:
    x = nn.Parameter(vector(*start))
    step = quadratic(x, method([x]), 1500)[-1]
    torch.testing.assert_close(x.detach(), vector(1.0, 2.0), rtol=0, atol=0.02)
    torch.testing.assert_close(step.multiplier, vector(4.0, 2.0, 0.0), rtol=0, atol=0.1)
    assert step.slack.shape == step.multiplier.shape == (3,)


def test_unlike_lbsgd_it_leaves_the_feasible_set_on_the_way() -> None:
    x = nn.Parameter(vector(0.0, 0.0))
    steps = quadratic(x, AugmentedLagrangian([x], learning_rate=0.02, penalty=0.02), 400)
    assert steps[0].feasible
    assert not all(step.feasible for step in steps)


def adam_by_hand(gradients: list[float], learning_rate: float) -> float:
    m = v = change = 0.0
    for count, gradient in enumerate(gradients, start=1):
        m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
        first, second = m / (1 - 0.9**count), v / (1 - 0.999**count)
        change = -learning_rate * first / (math.sqrt(second) + 1e-8)
    return change


def test_two_augmented_steps_by_hand() -> None:
    """max -(x - 3)^2 subject to x <= 1, from 2; multiplier 1, penalty 0.5 growing by half."""
    x = nn.Parameter(vector(2.0)[0])
    optimizer = AugmentedLagrangian(
        [x], learning_rate=0.1, multiplier=1.0, penalty=0.5, penalty_growth=0.5, penalty_max=0.6
    )
    position, multiplier, penalty, gradients = 2.0, 1.0, 0.5, []
    for _ in range(2):
        slack = 1.0 - position
        multiplier = max(0.0, multiplier - penalty * slack)
        gradients.append(2 * (position - 3) + multiplier)
        step = optimizer.step(-((x - 3) ** 2), x, 1.0)
        assert step.slack.item() == pytest.approx(slack)
        assert step.multiplier.item() == pytest.approx(multiplier)
        assert step.grad_norm.item() == pytest.approx(abs(gradients[-1]))
        assert not step.feasible
        position += adam_by_hand(gradients, 0.1)
        assert x.item() == pytest.approx(position)
        penalty = min(1.5 * penalty, 0.6)
    assert optimizer.state_dict()["penalty"] == penalty == 0.6


def test_two_pid_steps_by_hand() -> None:
    """The same problem, from 1.5, with all three gains."""
    x = nn.Parameter(vector(1.5)[0])
    optimizer = PIDLagrangian(
        [x], learning_rate=0.1, proportional_gain=0.3, integral_gain=0.2, derivative_gain=0.7
    )
    position, integral, previous, gradients = 1.5, 0.0, 1.5, []
    for _ in range(2):
        delta = position - 1.0
        integral = max(0.0, integral + delta)
        rise = max(0.0, position - previous)
        multiplier = max(0.0, 0.3 * delta + 0.2 * integral + 0.7 * rise)
        gradients.append((2 * (position - 3) + multiplier) / (1 + multiplier))
        previous = position
        step = optimizer.step(-((x - 3) ** 2), x, 1.0)
        assert step.multiplier.item() == pytest.approx(multiplier)
        position += adam_by_hand(gradients, 0.1)
        assert x.item() == pytest.approx(position)
        assert step.step_length.item() == pytest.approx(abs(position - previous))
    assert position > previous > 1.5  # so that the derivative term took part


@given(st.floats(-3, 3), st.floats(0, 5), st.floats(1e-3, 5))
def test_the_step_follows_the_gradient_of_the_augmented_lagrangian(
    start: float, multiplier: float, penalty: float
) -> None:
    """Against equation 17.65 written out and differentiated, on both its branches."""
    x = nn.Parameter(vector(start)[0])
    slack = 1.0 - x**2
    inner = -multiplier * slack + penalty / 2 * slack**2
    psi = inner if multiplier - penalty * slack.item() >= 0 else -(multiplier**2) / (2 * penalty)
    (expected,) = torch.autograd.grad((x - 2) ** 2 + psi, x)
    optimizer = AugmentedLagrangian(
        [x], multiplier=multiplier, penalty=penalty, penalty_max=penalty
    )
    step = optimizer.step(-((x - 2) ** 2), x**2, 1.0)
    assert step.grad_norm.item() == pytest.approx(abs(expected.item()), abs=1e-9)


def test_the_proportional_term_damps_the_overshoot() -> None:
    def worst_violation(proportional_gain: float) -> float:
        x = nn.Parameter(vector(0.0, 0.0))
        optimizer = PIDLagrangian(
            [x], learning_rate=0.02, proportional_gain=proportional_gain, integral_gain=0.05
        )
        return max(-step.slack.min().item() for step in quadratic(x, optimizer, 400))

    assert worst_violation(5.0) < 0.6 * worst_violation(0.0)


@both_methods
def test_multipliers_never_go_negative(method: Method) -> None:
    x = nn.Parameter(vector(0.0))
    optimizer = method([x])
    for _ in range(10):
        step = optimizer.step(x.sum(), x.sum(), 100.0)
        assert step.feasible
        assert step.multiplier == 0.0
        assert step.step_size == 1.0


@both_methods
@pytest.mark.parametrize("pause", [0, 1, 7])
def test_resumed_equals_uninterrupted(method: Method, pause: int) -> None:
    def build() -> tuple[nn.Parameter, AugmentedLagrangian | PIDLagrangian]:
        x = nn.Parameter(vector(2.0, 0.0))
        return x, method([x], learning_rate=0.1)

    x, optimizer = build()
    quadratic(x, optimizer, 10)
    y, first = build()
    quadratic(y, first, pause)
    file = io.BytesIO()
    torch.save({"y": y.detach(), "optimizer": first.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    z, second = build()
    z.data.copy_(saved["y"])
    second.load_state_dict(saved["optimizer"])
    quadratic(z, second, 10 - pause)
    assert torch.equal(x, z)


def test_a_state_of_the_other_method_is_refused() -> None:
    x = nn.Parameter(vector(0.0))
    with pytest.raises(ValueError, match="state: got keys"):
        PIDLagrangian([x]).load_state_dict(AugmentedLagrangian([x]).state_dict())


@both_methods
def test_what_is_not_finite_is_named_and_nothing_is_lost(method: Method) -> None:
    x = nn.Parameter(vector(1.0, 1.0))
    optimizer = method([x])
    with pytest.raises(ValueError, match=r"^cost_return: got"):
        optimizer.step(x.sum(), x.sum() * math.nan, 1.0)
    with pytest.raises(ValueError, match=r"^objective: got"):
        optimizer.step(x.sum() * math.nan, x.sum(), 1.0)
    with pytest.raises(ValueError, match=r"^budget: got"):
        optimizer.step(x.sum(), x.sum(), math.inf)
    fresh = method([x])
    assert optimizer.state_dict() == fresh.state_dict()
    assert x.tolist() == [1.0, 1.0]


@pytest.mark.parametrize(
    ("method", "option", "value"),
    [
        (AugmentedLagrangian, "multiplier", -1.0),
        (AugmentedLagrangian, "penalty", 0.0),
        (AugmentedLagrangian, "penalty_growth", -1.0),
        (AugmentedLagrangian, "penalty_max", 1e-9),
        (PIDLagrangian, "proportional_gain", -1.0),
        (PIDLagrangian, "integral_gain", math.inf),
        (PIDLagrangian, "derivative_gain", math.nan),
    ],
)
def test_a_wrong_option_is_named(method: Method, option: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"^{option}: got"):
        method([nn.Parameter(vector(0.0))], **{option: value})


def test_successive_reports_are_not_overwritten() -> None:
    x = nn.Parameter(vector(4.0, 4.0))
    steps = quadratic(x, AugmentedLagrangian([x], learning_rate=0.02, penalty=0.02), 5)
    assert all(not torch.equal(a.multiplier, b.multiplier) for a, b in pairwise(steps))
