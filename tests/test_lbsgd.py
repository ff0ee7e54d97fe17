"""The step-size rule's laws on random smooth problems with known constants, and the optimiser."""

import io
import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from blocks.optimizers.lbsgd import LBSGD, LBSGDStep, Watched
from blocks.optimizers.smoothness import SecantSmoothness
from blocks.optimizers.step_size import lbsgd_step_size, safe_step_length

Direction = Literal["gradient", "adam"]
both_directions = pytest.mark.parametrize("direction", ["gradient", "adam"])
positive = st.floats(1e-3, 1e3)
seeds = st.integers(0, 2**16)


def vector(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


class Problem(NamedTuple):
    """Maximise a smooth objective under smooth, mostly non-convex constraints."""

    objective: Callable[[Tensor], Tensor]
    costs: Callable[[Tensor], Tensor]
    objective_smoothness: float
    constraint_smoothness: Tensor
    budget: Tensor
    start: Tensor

    def slack(self, x: Tensor) -> Tensor:
        return (self.budget - self.costs(x)).detach()

    def optimizer(self, x: nn.Parameter, **options: Any) -> LBSGD:
        return LBSGD(
            [x],
            objective_smoothness=self.objective_smoothness,
            constraint_smoothness=self.constraint_smoothness,
            **options,
        )


def random_problem(seed: int, constraints: int, scale: float, size: int = 4) -> Problem:
    """Waves plus indefinite quadratics, whose smoothness constants are known.

    The objective likes to raise the first cost, `scale` sets its steepness, and the initial slacks
    lie between 1e-5 and 10.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    waves, phases, start = normal(constraints, size), normal(constraints), normal(size)
    curved = normal(constraints + 1, size, size)
    curved = curved + curved.mT
    slopes = normal(constraints, size)
    slacks = 10.0 ** (6 * torch.rand(constraints, generator=generator, dtype=torch.float64) - 5)

    def costs(x: Tensor) -> Tensor:
        quadratic = torch.einsum("i,cij,j->c", x, curved[1:], x) / 2
        return (waves @ x + phases).sin() + quadratic + slopes @ x

    def objective(x: Tensor) -> Tensor:
        return scale * (x @ curved[0] @ x / 2 + slopes[0] @ x)

    spectral = torch.linalg.matrix_norm(curved, ord=2)
    return Problem(
        objective=objective,
        costs=costs,
        objective_smoothness=scale * spectral[0].item(),
        constraint_smoothness=spectral[1:] + waves.square().sum(dim=1),
        budget=costs(start) + slacks,
        start=start,
    )


def keeps_half(before: Tensor, after: Tensor) -> bool:
    return bool((after >= before / 2 - 1e-9 * before - 1e-12).all())


# The law -----------------------------------------------------------------------------------------


@both_directions
@settings(max_examples=60)
@given(seeds, st.integers(1, 4), st.floats(-3.0, 3.0), st.floats(-4.0, 1.0), st.floats(-3.0, 2.0))
def test_every_step_leaves_half_of_every_slack(
    direction: Direction,
    seed: int,
    constraints: int,
    log_scale: float,
    log_eta: float,
    log_rate: float,
) -> None:
    """At every scale of the objective from 1e-3 to 1e3, and for any learning rate of Adam."""
    problem = random_problem(seed, constraints, 10.0**log_scale)
    x = nn.Parameter(problem.start.clone())
    optimizer = problem.optimizer(
        x, eta=10.0**log_eta, direction=direction, learning_rate=10.0**log_rate
    )
    for _ in range(8):
        before = problem.slack(x)
        step = optimizer.step(problem.objective(x), problem.costs(x), problem.budget)
        assert step.feasible
        assert step.branch != "recovery"
        assert keeps_half(before, problem.slack(x))


def step_without_the_norm(problem: Problem, x: Tensor, eta: float) -> Tensor:
    """The wrong rule: the feasible length used as if it were the factor on g."""
    x = x.clone().requires_grad_()
    slack = problem.slack(x)
    barrier = problem.objective(x) + eta * (problem.budget - problem.costs(x)).log().sum()
    (ascent,) = torch.autograd.grad(barrier, x)
    jacobian = torch.func.jacrev(problem.costs)(x.detach())
    gamma = lbsgd_step_size(
        slack,
        jacobian @ ascent / ascent.norm(),
        1.0,  # instead of |g|
        eta=eta,
        objective_smoothness=problem.objective_smoothness,
        constraint_smoothness=problem.constraint_smoothness,
    )
    return (x + gamma * ascent).detach()


def wall(scale: float) -> Problem:
    """Linear objective of the given steepness towards the wall x <= 1, from 0."""
    return Problem(
        objective=lambda x: scale * x.sum(),
        costs=lambda x: x.sum().view(1),
        objective_smoothness=0.0,
        constraint_smoothness=vector(1.0),
        budget=vector(1.0),
        start=vector(0.0),
    )


def test_negative_control_without_one_over_the_norm_the_law_fails() -> None:
    """A gentle objective hides it; one 100 times steeper leaves the feasible set at once."""
    gentle, steep = wall(1.0), wall(100.0)
    assert keeps_half(
        gentle.slack(gentle.start),
        gentle.slack(step_without_the_norm(gentle, gentle.start, eta=1e-3)),
    )
    assert (steep.slack(step_without_the_norm(steep, steep.start, eta=1e-3)) < 0).all()
    x = nn.Parameter(steep.start.clone())
    steep.optimizer(x, eta=1e-3).step(steep.objective(x), steep.costs(x), steep.budget)
    assert keeps_half(steep.slack(steep.start), steep.slack(x))
    broken = 0
    for seed in range(50):
        problem = random_problem(seed, constraints=2, scale=100.0)
        after = problem.slack(step_without_the_norm(problem, problem.start, eta=1e-3))
        broken += not keeps_half(problem.slack(problem.start), after)
    assert broken > 5  # 1 / M_2 saves the others


def test_negative_control_a_rule_before_adam_is_cancelled_by_adam() -> None:
    """Adam on gamma * g is Adam on g: the step is the learning rate whatever gamma says."""
    problem = wall(100.0)
    x = nn.Parameter(problem.start.clone())
    adam = torch.optim.Adam([x], lr=2.0)
    x.grad = vector(-100.0) * 1e-6  # scaled down as far as one likes (above Adam's epsilon)
    adam.step()
    assert (problem.slack(x) < 0).all()
    x = nn.Parameter(problem.start.clone())
    step = problem.optimizer(x, eta=1e-3, direction="adam", learning_rate=2.0).step(
        problem.objective(x), problem.costs(x), problem.budget
    )
    assert step.branch == "slack"
    assert keeps_half(problem.slack(problem.start), problem.slack(x))


def test_negative_control_the_slope_along_the_gradient_is_not_the_slope_along_adams_step() -> None:
    """Ascent (0.01, 1) hardly moves x_0 <= 0.1, but Adam's first step is (1, 1) times the rate."""
    x = nn.Parameter(vector(0.0, 0.0))
    optimizer = LBSGD(
        [x],
        eta=1e-9,
        objective_smoothness=0.0,
        constraint_smoothness=0.0,
        direction="adam",
        learning_rate=0.5,
    )
    believed = safe_step_length(vector(0.1), vector(0.01), constraint_smoothness=0.0)
    assert believed > 0.5 * math.sqrt(2)  # so the whole step to x_0 = 0.5 would have been taken
    step = optimizer.step(x @ vector(0.01, 1.0), x[0], 0.1)
    assert step.slope.item() == pytest.approx(math.sqrt(0.5), rel=1e-4)
    assert x[0].item() == pytest.approx(0.05)


@both_directions
@given(seeds, st.floats(0.0, 0.9), st.floats(0.0, 3.0))
def test_wrong_estimates_within_their_error_bounds_keep_the_true_law(
    direction: Direction, seed: int, value_error: float, slope_error: float
) -> None:
    """The costs are reported too low and with a wrong gradient; the bounds make up for both."""
    problem = random_problem(seed, constraints=2, scale=100.0)
    x = nn.Parameter(problem.start.clone())
    true = problem.slack(x)
    generator = torch.Generator().manual_seed(seed)
    wrong = torch.randn(2, 4, generator=generator, dtype=torch.float64)
    wrong = slope_error * wrong / wrong.norm(dim=1, keepdim=True)
    error = value_error * true  # unlucky side: the slack looks larger than it is
    reported = problem.costs(x) - error + wrong @ (x - x.detach())
    optimizer = problem.optimizer(x, eta=0.1, direction=direction, learning_rate=1.0)
    step = optimizer.step(
        problem.objective(x),
        reported,
        problem.budget,
        slack_error=error,
        slope_error=torch.full((2,), slope_error, dtype=torch.float64),
    )
    torch.testing.assert_close(step.slack, true, rtol=1e-6, atol=1e-12)
    assert keeps_half(true, problem.slack(x))


@both_directions
def test_negative_control_a_wrong_gradient_without_its_bound_breaks_the_law(
    direction: Direction,
) -> None:
    def run(slope_error: float) -> float:
        x = nn.Parameter(vector(0.0))
        optimizer = LBSGD(
            [x],
            eta=1e-3,
            objective_smoothness=1e-3,
            constraint_smoothness=0.1,
            direction=direction,
            learning_rate=10.0,
        )
        cost = x.sum() - 0.9 * (x - x.detach()).sum()  # looks ten times flatter than it is
        optimizer.step(10.0 * x.sum(), cost, 1.0, slope_error=slope_error)
        return 1.0 - x.item()

    assert run(slope_error=0.0) < 0.5
    assert run(slope_error=0.9) >= 0.5


# The pure rules ----------------------------------------------------------------------------------

three = st.tuples(positive, positive, positive)
rule_arguments = st.tuples(three, three, positive, positive, positive, three)
RuleArguments = tuple[tuple[float, ...], tuple[float, ...], float, float, float, tuple[float, ...]]


def rule(arguments: RuleArguments) -> float:
    slack, slope, norm, eta, objective_smoothness, constraint_smoothness = arguments
    return lbsgd_step_size(
        vector(*slack),
        vector(*slope),
        vector(norm)[0],
        eta=eta,
        objective_smoothness=objective_smoothness,
        constraint_smoothness=vector(*constraint_smoothness),
    ).item()


@given(rule_arguments)
def test_the_rule_is_the_published_formula(arguments: RuleArguments) -> None:
    slack, slope, norm, eta, m0, m = arguments
    m2 = m0
    for a, th, mi in zip(slack, slope, m, strict=True):
        m2 += 10 * eta * mi / a + 8 * eta * th**2 / a**2
    length = min(
        a / (2 * th + math.sqrt(a * mi)) for a, th, mi in zip(slack, slope, m, strict=True)
    )
    assert rule(arguments) == pytest.approx(min(length / norm, 1 / m2), rel=1e-9)


@given(rule_arguments)
def test_the_step_shrinks_to_nothing_with_any_slack(arguments: RuleArguments) -> None:
    (first, *others), slope, norm, eta, m0, m = arguments
    shrinking = [first * fraction for fraction in (1.0, 1e-2, 1e-4, 1e-8, 1e-12, 0.0)]
    sizes = [rule(((slack, *others), slope, norm, eta, m0, m)) for slack in shrinking]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-2] * norm <= shrinking[-2] / (2 * slope[0])
    assert sizes[-1] == 0.0


@given(rule_arguments, positive)
def test_the_rule_does_not_depend_on_units(arguments: RuleArguments, unit: float) -> None:
    """Neither of the costs, nor of the objective (with eta), nor of the parameters."""
    slack, slope, norm, eta, m0, m = arguments

    def scaled(values: tuple[float, ...], factor: float) -> tuple[float, ...]:
        return tuple(factor * value for value in values)

    moved = rule(arguments) * norm
    costs = (scaled(slack, unit), scaled(slope, unit), norm, eta, m0, scaled(m, unit))
    assert rule(costs) * norm == pytest.approx(moved, rel=1e-6)
    objective = (slack, slope, unit * norm, unit * eta, unit * m0, m)
    assert rule(objective) * unit * norm == pytest.approx(moved, rel=1e-6)
    lengths = (slack, scaled(slope, unit), unit * norm, eta, unit**2 * m0, scaled(m, unit**2))
    assert rule(lengths) * unit * norm == pytest.approx(moved / unit, rel=1e-6)


def test_the_rule_at_its_edges() -> None:
    def size(slack: float, slope: float, norm: float, m0: float = 1.0, m: float = 1.0) -> float:
        step = lbsgd_step_size(
            torch.tensor([1.0, slack]),
            torch.tensor([0.0, slope]),
            norm,
            eta=0.1,
            objective_smoothness=m0,
            constraint_smoothness=m,
        )
        return step.item()

    for slack in (0.0, -1.0, -math.inf, math.nan):
        assert size(slack, 1.0, 1.0) == 0.0
    assert size(1.0, math.nan, 1.0) == 0.0
    assert 0.0 < size(1.0, 1.0, 0.0) < math.inf  # zero gradient: the curvature bound remains
    assert 0.0 < size(1.0, 0.0, 0.0, m0=0.0, m=0.0) < math.inf  # nothing bounds it: still finite
    assert size(1.0, 0.0, 1.0, m=0.0) == pytest.approx(1.0)  # flat constraints: 1 / M_0
    assert size(1e-45, 1.0, 1.0) < 1e-30  # subnormal
    assert size(1.0, 1.0, 1.0) == size(1.0, -1.0, 1.0)


@given(
    st.floats(1e-6, 1e3),
    positive | positive.map(lambda slope: -slope) | st.just(0.0),
    positive | st.just(0.0),
)
def test_the_safe_length_is_the_longest_that_a_smooth_cost_allows(
    slack: float, slope: float, smoothness: float
) -> None:
    length = safe_step_length(vector(slack), vector(slope), constraint_smoothness=smoothness).item()
    if math.isinf(length):
        assert slope <= 0  # a cost that may only fall
        return

    def worst_slack(s: float) -> float:
        return slack - s * slope - s**2 * smoothness / 2

    rounding = 1e-6 * slack + 1e-12 * abs(slope * length)
    assert worst_slack(length) == pytest.approx(slack / 2, abs=rounding)
    assert all(worst_slack(length * k / 10) >= slack / 2 - rounding for k in range(11))
    published = slack / (2 * abs(slope) + math.sqrt(slack * smoothness) + 1e-300)
    assert length >= published * (1 - 1e-9)


def test_the_safe_length_at_its_edges() -> None:
    slack = vector(0.0, -1.0, 1.0, 1.0, 1.0)
    slope = vector(1.0, 1.0, 0.0, -1.0, 2.0)
    lengths = safe_step_length(slack, slope, constraint_smoothness=0.0)
    assert lengths.tolist() == [0.0, 0.0, math.inf, math.inf, 0.25]


# The optimiser -----------------------------------------------------------------------------------


def test_two_gradient_steps_by_hand() -> None:
    """max -(x - 3)^2 subject to x^2 <= 4, from 1; M_0 = 2, M_1 = 2, eta = 0.5."""
    x = nn.Parameter(vector(1.0)[0])
    optimizer = LBSGD(
        [x], eta=0.5, objective_smoothness=2.0, constraint_smoothness=2.0, eta_decay=0.5
    )
    position, eta = 1.0, 0.5
    for _ in range(2):
        a = 4.0 - position**2
        g = 2 * (position - 3) + eta * 2 * position / a
        th = 2 * position
        m2 = 2 + 10 * eta * 2 / a + 8 * eta * th**2 / a**2
        gamma = min(a / (2 * th + math.sqrt(a * 2)) / abs(g), 1 / m2)
        step = optimizer.step(-((x - 3) ** 2), x**2, 4.0)
        assert step.slack.item() == pytest.approx(a)
        assert step.eta == eta
        assert step.grad_norm.item() == pytest.approx(abs(g))
        assert step.step_size.item() == pytest.approx(gamma)
        assert step.slope.item() == pytest.approx(-th * math.copysign(1, g))
        assert step.step_length.item() == pytest.approx(gamma * abs(g))
        position, eta = position - gamma * g, eta * 0.5
        assert x.item() == pytest.approx(position)
        assert optimizer.eta == eta


def test_two_adam_steps_by_hand() -> None:
    """The same problem with Adam's step of 0.5, which the second slack does not allow whole."""
    x = nn.Parameter(vector(1.0)[0])
    optimizer = LBSGD(
        [x],
        eta=0.5,
        objective_smoothness=2.0,
        constraint_smoothness=2.0,
        direction="adam",
        learning_rate=0.5,
    )
    position, m, v, branches = 1.0, 0.0, 0.0, []
    for count in (1, 2):
        a = 4.0 - position**2
        g = 2 * (position - 3) + 0.5 * 2 * position / a
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        u = -0.5 * (m / (1 - 0.9**count)) / (math.sqrt(v / (1 - 0.999**count)) + 1e-8)
        th = math.copysign(2 * position, u)
        length = min(abs(u), a / (th + math.sqrt(th**2 + a * 2)))
        step = optimizer.step(-((x - 3) ** 2), x**2, 4.0)
        branches.append(step.branch)
        assert step.step_size.item() == pytest.approx(length / abs(u))
        assert step.slope.item() == pytest.approx(th)
        position += math.copysign(length, u)
        assert x.item() == pytest.approx(position)
    assert branches == ["full", "slack"]


def maximise(
    x: nn.Parameter,
    optimizer: LBSGD,
    objective: Callable[[Tensor], Tensor],
    costs: Callable[[Tensor], Tensor],
    budget: Tensor | float,
    steps: int,
) -> list[LBSGDStep]:
    return [optimizer.step(objective(x), costs(x), budget) for _ in range(steps)]


@both_directions
def test_three_constraints_at_once_to_the_known_solution(direction: Direction) -> None:
    """max -|x - (3, 3)|^2 subject to x_0 <= 1, x_1 <= 2, x_0 + x_1 <= 10: (1, 2), third idle."""
    rows = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]], dtype=torch.float64)
    eta = 1e-2
    x = nn.Parameter(vector(0.0, 0.0))
    optimizer = LBSGD(
        [x],
        eta=eta,
        objective_smoothness=2.0,
        constraint_smoothness=0.0,
        direction=direction,
        learning_rate=3e-3,
    )
    steps = maximise(
        x,
        optimizer,
        lambda x: -(x - 3.0).square().sum(),
        lambda x: rows @ x,
        vector(1.0, 2.0, 10.0),
        1200,
    )
    assert all(step.feasible for step in steps)
    assert steps[0].slack.shape == steps[0].slope.shape == (3,)
    optimum = -(4.0 + 1.0)
    reached = -(x - 3.0).square().sum().item()
    assert optimum - 3 * eta <= reached < optimum
    torch.testing.assert_close(x.detach(), vector(1.0, 2.0), rtol=0, atol=1e-2)


@both_directions
@pytest.mark.parametrize(("angle", "radius", "eta"), [(0.4, 2.0, 0.05), (4.0, 5.0, 0.2)])
def test_a_ball_constraint_to_the_known_solution(
    direction: Direction, angle: float, radius: float, eta: float
) -> None:
    """max -|x - t|^2 / 2 with t outside the unit disc: its point nearest to t, within eta."""
    target = radius * vector(math.cos(angle), math.sin(angle))
    x = nn.Parameter(vector(0.0, 0.0))
    optimizer = LBSGD(
        [x],
        eta=eta,
        objective_smoothness=1.0,
        constraint_smoothness=2.0,
        direction=direction,
        learning_rate=2e-3,
    )
    steps = maximise(
        x,
        optimizer,
        lambda x: -(x - target).square().sum() / 2,
        lambda x: x.square().sum(),
        1.0,
        800,
    )
    assert all(step.feasible for step in steps)
    gap = (x - target).square().sum().item() / 2 - (radius - 1) ** 2 / 2
    assert 0 < gap <= eta


def test_an_inactive_constraint_hardly_matters() -> None:
    x = nn.Parameter(vector(0.0))
    optimizer = LBSGD([x], eta=1e-6, objective_smoothness=2.0, constraint_smoothness=0.0)
    maximise(x, optimizer, lambda x: -((x - 2) ** 2).sum(), lambda x: x.sum(), 100.0, 100)
    assert x.item() == pytest.approx(2.0, abs=1e-4)


@both_directions
def test_recovery_returns_to_the_feasible_set_and_says_so(direction: Direction) -> None:
    x = nn.Parameter(vector(3.0, 0.0))
    optimizer = LBSGD(
        [x],
        eta=0.1,
        objective_smoothness=2.0,
        constraint_smoothness=2.0,
        eta_decay=0.9,
        direction=direction,
        learning_rate=0.01,
        recovery_learning_rate=0.1,
    )
    steps = maximise(
        x,
        optimizer,
        lambda x: -(x - 3.0).square().sum(),
        lambda x: torch.stack([x.square().sum(), x[1]]),
        vector(1.0, 2.0),
        200,
    )
    recovering = [step.branch == "recovery" for step in steps]
    begun = recovering.index(False)
    assert 5 < begun < 60
    assert all(recovering[:begun])
    assert not any(recovering[begun:])  # feasible once, feasible for good
    assert [step.feasible for step in steps] == [not flag for flag in recovering]
    assert {step.eta for step in steps[: begun + 1]} == {0.1}  # decays on feasible steps only
    assert optimizer.eta == pytest.approx(0.1 * 0.9 ** (200 - begun))
    assert steps[0].slack.tolist() == [-8.0, 2.0]


def test_recovery_descends_violated_constraints_only() -> None:
    x = nn.Parameter(vector(2.0, 0.0))
    optimizer = LBSGD(
        [x],
        eta=0.1,
        objective_smoothness=1.0,
        constraint_smoothness=1.0,
        recovery_learning_rate=0.1,
    )
    step = optimizer.step(x.sum(), x, vector(1.0, 1.0))
    assert step.branch == "recovery"
    assert step.grad_norm.item() == 1.0
    torch.testing.assert_close(x.detach(), vector(1.9, 0.0))


def test_a_new_recovery_does_not_crawl_in_the_scale_of_the_old_one() -> None:
    """After a cost a million times steeper, Adam's old second moment would freeze this one."""
    x = nn.Parameter(vector(0.0))
    optimizer = LBSGD(
        [x],
        eta=0.1,
        objective_smoothness=1.0,
        constraint_smoothness=1.0,
        recovery_learning_rate=0.01,
    )
    for _ in range(3):
        optimizer.step(x.sum(), 1e6 * (x + 1).sum(), 0.0)
    optimizer.step(x.sum(), x.sum(), 1.0)
    step = optimizer.step(x.sum(), (x + 1).sum(), 0.0)
    assert step.branch == "recovery"
    assert step.step_length.item() == pytest.approx(0.01)


def test_moments_last_as_long_as_their_recovery() -> None:
    """Adam's second step after gradients 1 and 0.1 is shorter than its first; a fresh one isn't."""
    x = nn.Parameter(vector(5.0))
    optimizer = LBSGD(
        [x],
        eta=0.1,
        objective_smoothness=1.0,
        constraint_smoothness=1.0,
        recovery_learning_rate=0.01,
    )
    lengths = [optimizer.step(x.sum(), k * x.sum(), 0.0).step_length for k in (1.0, 0.1)]
    assert lengths[0].item() == pytest.approx(0.01)
    assert lengths[1].item() < 0.008


@both_directions
def test_a_state_is_a_snapshot(direction: Direction) -> None:
    x = nn.Parameter(vector(0.0))
    optimizer = LBSGD(
        [x], eta=0.1, objective_smoothness=1.0, constraint_smoothness=1.0, direction=direction
    )
    optimizer.step(x.sum(), x.sum(), 1.0)
    optimizer.step(x.sum(), x.sum(), -1.0)
    state = optimizer.state_dict()
    before = repr(state)
    optimizer.step(x.sum(), x.sum(), 1.0)
    optimizer.step(x.sum(), x.sum(), -1.0)
    assert repr(state) == before
    optimizer.load_state_dict(state)
    optimizer.step(x.sum(), x.sum(), 1.0)
    optimizer.step(x.sum(), x.sum(), -1.0)
    assert repr(state) == before


def test_slack_zero_is_infeasible_and_the_smallest_slack_is_feasible() -> None:
    for slack, feasible in ((0.0, False), (1e-12, True)):
        x = nn.Parameter(vector(0.0))
        optimizer = LBSGD([x], eta=0.1, objective_smoothness=1.0, constraint_smoothness=1.0)
        step = optimizer.step(x.sum(), x.sum(), slack)
        assert step.feasible is feasible
        assert x.isfinite().all()


def test_eta_decays_to_its_floor() -> None:
    x = nn.Parameter(vector(0.0))
    optimizer = LBSGD(
        [x],
        eta=1.0,
        objective_smoothness=1.0,
        constraint_smoothness=1.0,
        eta_decay=0.5,
        eta_min=0.2,
    )
    steps = maximise(x, optimizer, lambda x: -x.sum(), lambda x: x.sum(), 1.0, 4)
    assert [step.eta for step in steps] == [1.0, 0.5, 0.25, 0.2]


def test_branches_name_what_bound_the_step() -> None:
    def branch(direction: Direction, slack: float, objective_smoothness: float) -> str:
        x = nn.Parameter(vector(0.0))
        optimizer = LBSGD(
            [x],
            eta=1e-9,
            objective_smoothness=objective_smoothness,
            constraint_smoothness=1.0,
            direction=direction,
            learning_rate=0.1,
        )
        return optimizer.step(x.sum(), x.sum(), slack).branch

    assert branch("gradient", 1e-3, 1.0) == "slack"
    assert branch("gradient", 10.0, 1.0) == "curvature"
    assert branch("adam", 1e-3, 1.0) == "slack"
    assert branch("adam", 10.0, 1.0) == "full"


@both_directions
def test_scalar_and_vector_arguments_agree(direction: Direction) -> None:
    def run(as_vector: bool) -> tuple[Tensor, LBSGDStep]:
        x = nn.Parameter(vector(0.1, 0.2))
        optimizer = LBSGD(
            [x], eta=0.1, objective_smoothness=1.0, constraint_smoothness=2.0, direction=direction
        )
        for _ in range(3):
            cost = x.square().sum()
            step = optimizer.step(x.sum(), cost.view(1) if as_vector else cost, 1.0)
        return x.detach(), step  # pyright: ignore[reportPossiblyUnboundVariable]

    (x, one), (y, many) = run(False), run(True)
    assert torch.equal(x, y)
    assert one.slack.shape == one.slope.shape == ()
    assert many.slack.shape == many.slope.shape == (1,)


@both_directions
def test_modules_are_one_flat_vector(direction: Direction) -> None:
    """Several tensors step exactly as one vector does; unused and frozen ones stay."""

    def run(parts: list[nn.Parameter], whole: Callable[[], Tensor]) -> Tensor:
        optimizer = LBSGD(
            parts,
            eta=0.1,
            objective_smoothness=1.0,
            constraint_smoothness=2.0,
            direction=direction,
            learning_rate=0.05,
        )
        for _ in range(5):
            x = whole()
            optimizer.step(-(x - 1).square().sum(), x.square().sum(), 2.0)
        assert all(part.grad is None for part in parts)
        return whole().detach()

    start = torch.linspace(-0.5, 0.5, 6, dtype=torch.float64)
    one = nn.Parameter(start.clone())
    first, second = nn.Parameter(start[:2].clone()), nn.Parameter(start[2:].clone().view(2, 2))
    unused = nn.Parameter(vector(7.0))
    frozen = nn.Parameter(vector(8.0), requires_grad=False)
    flat = run([one], lambda: one)
    split = run([first, unused, second, frozen], lambda: torch.cat([first, second.flatten()]))
    torch.testing.assert_close(flat, split)
    assert (unused.item(), frozen.item()) == (7.0, 8.0)


@both_directions
def test_flat_constraints_and_zero_gradients_move_nothing_wrongly(direction: Direction) -> None:
    x = nn.Parameter(vector(0.0, 1.0))
    optimizer = LBSGD(
        [x],
        eta=0.1,
        objective_smoothness=1.0,
        constraint_smoothness=0.0,
        direction=direction,
        learning_rate=0.1,
    )
    constant = vector(0.0)[0]
    step = optimizer.step(0.0 * x.sum(), constant, 1.0)  # neither depends on x
    assert step.grad_norm == 0.0
    assert x.tolist() == [0.0, 1.0]
    optimizer.step(x[0], constant, 1.0)  # now only the objective does
    assert x[0].item() > 0.05
    assert x[1].item() == 1.0
    stuck = optimizer.step(x[0], constant, -1.0)  # violated, and nothing to be done about it
    assert stuck.branch == "recovery"
    assert stuck.step_length == 0.0


@both_directions
@given(st.integers(0, 12))
@settings(max_examples=13)
def test_resumed_equals_uninterrupted(direction: Direction, pause: int) -> None:
    """Whether the pause falls into the recovery at the start or into the barrier's steps."""

    def build() -> tuple[nn.Parameter, LBSGD]:
        x = nn.Parameter(torch.tensor([1.15, 0.3]))
        return x, LBSGD(
            [x],
            eta=0.1,
            objective_smoothness=1.0,
            constraint_smoothness=2.0,
            eta_decay=0.9,
            direction=direction,
            learning_rate=0.03,
            recovery_learning_rate=0.05,
        )

    def advance(x: nn.Parameter, optimizer: LBSGD, steps: int) -> list[str]:
        run = maximise(
            x,
            optimizer,
            lambda x: -(x - 2).square().sum(),
            lambda x: x.square().sum(),
            1.0,
            steps,
        )
        return [step.branch for step in run]

    x, optimizer = build()
    branches = advance(x, optimizer, 12)
    assert {"recovery"} < set(branches)
    y, first = build()
    advance(y, first, pause)
    file = io.BytesIO()
    torch.save({"x": y.detach(), "optimizer": first.state_dict()}, file)
    advance(y, first, 3)  # must not disturb what was saved
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    z, second = build()
    z.data.copy_(saved["x"])
    second.load_state_dict(saved["optimizer"])
    assert advance(z, second, 12 - pause) == branches[pause:]
    assert torch.equal(x, z)
    assert second.eta == optimizer.eta


def test_a_wrong_state_is_named() -> None:
    def build(size: int) -> tuple[nn.Parameter, LBSGD]:
        x = nn.Parameter(torch.zeros(size))
        return x, LBSGD(
            [x], eta=0.1, objective_smoothness=1.0, constraint_smoothness=1.0, direction="adam"
        )

    x, small = build(2)
    small.step(x.sum(), x.sum(), 1.0)
    with pytest.raises(ValueError, match="for 2 parameters; allowed 3"):
        build(3)[1].load_state_dict(small.state_dict())
    with pytest.raises(ValueError, match="state: got keys"):
        small.load_state_dict({"eta": 0.1})


@pytest.mark.parametrize(
    ("objective", "cost", "budget", "name"),
    [
        (math.nan, 0.0, 1.0, "objective"),
        (math.inf, 0.0, 1.0, "objective"),
        (0.0, math.nan, 1.0, "cost_return"),
        (0.0, 0.0, math.nan, "budget"),
        (0.0, 0.0, math.inf, "budget"),
    ],
)
def test_a_value_that_is_not_finite_is_named_and_nothing_is_lost(
    objective: float, cost: float, budget: float, name: str
) -> None:
    x = nn.Parameter(torch.zeros(2))
    optimizer = LBSGD([x], eta=0.1, objective_smoothness=1.0, constraint_smoothness=1.0)
    before = optimizer.state_dict()
    with pytest.raises(ValueError, match=f"^{name}: got"):
        optimizer.step(x.sum() + objective, x.sum() + cost, budget)
    assert not x.any()
    assert optimizer.state_dict() == before


@both_directions
def test_a_gradient_that_is_not_finite_is_refused(direction: Direction) -> None:
    x = nn.Parameter(torch.zeros(2))
    optimizer = LBSGD(
        [x], eta=0.1, objective_smoothness=1.0, constraint_smoothness=1.0, direction=direction
    )
    with pytest.raises(ValueError, match="gradient of objective or cost_return: got norm"):
        optimizer.step(x.sum().sqrt(), x.sum(), 1.0)  # derivative inf at 0
    assert not x.any()


def test_wrong_shapes_are_named() -> None:
    x = nn.Parameter(torch.zeros(2))
    optimizer = LBSGD([x], eta=0.1, objective_smoothness=1.0, constraint_smoothness=1.0)
    with pytest.raises(ValueError, match=r"^objective: got shape"):
        optimizer.step(x, x.sum(), 1.0)
    with pytest.raises(ValueError, match=r"^cost_return: got shape"):
        optimizer.step(x.sum(), x.view(1, 2), 1.0)
    with pytest.raises(ValueError, match=r"^budget: got shape"):
        optimizer.step(x.sum(), x, torch.ones(3))


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("eta", -0.1),
        ("eta", math.nan),
        ("objective_smoothness", -1.0),
        ("constraint_smoothness", -1.0),
        ("constraint_smoothness", math.inf),
        ("eta_decay", 0.0),
        ("eta_decay", 1.1),
        ("eta_min", 0.2),
    ],
)
def test_a_wrong_option_is_named(option: str, value: float) -> None:
    options = {"eta": 0.1, "objective_smoothness": 1.0, "constraint_smoothness": 1.0}
    with pytest.raises(ValueError, match=f"^{option}: got"):
        LBSGD([nn.Parameter(torch.zeros(1))], **(options | {option: value}))  # pyright: ignore[reportArgumentType]


def test_no_parameters_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^params: got none"):
        LBSGD([], eta=0.1, objective_smoothness=1.0, constraint_smoothness=1.0)


def test_a_learning_rate_can_be_scheduled_and_is_resumed() -> None:
    def make() -> tuple[nn.Parameter, LBSGD]:
        x = nn.Parameter(torch.zeros(3, dtype=torch.float64))
        return x, LBSGD(
            [x],
            eta=0.1,
            objective_smoothness=1.0,
            constraint_smoothness=0.0,
            direction="adam",
            learning_rate=0.1,
        )

    x, optimizer = make()
    optimizer.learning_rate = 0.01
    step = optimizer.step(-(x - 1).square().sum(), x.sum(), 100.0)
    # Adam's first step moves every parameter by its learning rate.
    torch.testing.assert_close(x.detach(), torch.full_like(x, 0.01))
    assert float(step.step_length) == pytest.approx(0.01 * 3**0.5)
    _, resumed = make()
    resumed.load_state_dict(optimizer.state_dict())
    assert resumed.learning_rate == 0.01
    with pytest.raises(ValueError, match="learning_rate"):
        optimizer.learning_rate = 0.0


# ---- a worst case over members ---------------------------------------------------------------


@both_directions
@given(seeds, st.integers(2, 6), st.floats(-3.0, 3.0))
def test_with_every_member_watched_each_keeps_half_of_its_slack(
    direction: Direction, seed: int, members: int, exponent: float
) -> None:
    """And so does the worst of them, which is all that the barrier knows."""
    problem = random_problem(seed, members, 10.0**exponent)
    # One budget: the members' costs differ by a constant each.
    offsets = problem.budget
    smoothness = float(problem.constraint_smoothness.max())
    x = nn.Parameter(problem.start.clone())
    optimizer = LBSGD(
        [x],
        eta=0.1,
        direction=direction,
        objective_smoothness=problem.objective_smoothness,
        constraint_smoothness=smoothness,
        learning_rate=1.0,
    )
    for _ in range(5):
        costs = problem.costs(x) - offsets
        before = -costs.detach()
        step = optimizer.step(
            problem.objective(x), costs.max(), 0.0, watched=optimizer.watch(costs, 0.0)
        )
        assert step.feasible
        after = -(problem.costs(x) - offsets).detach()
        assert keeps_half(before, after)
        assert keeps_half(before.min(), after.min())


def steep_and_flat(x: Tensor) -> Tensor:
    """Two linear members: the flat one is the worst at 0, the steep one just beyond."""
    return torch.cat([0.9 + 0.9 * x, 0.89 + 10.0 * x])


@both_directions
def test_negative_control_the_worst_members_slope_alone_bounds_nothing(
    direction: Direction,
) -> None:
    """Both members are linear, so that their true smoothness is 0."""

    def slack_after_a_step(watch: bool) -> float:
        x = nn.Parameter(vector(0.0))
        optimizer = LBSGD(
            [x],
            eta=0.01,
            direction=direction,
            objective_smoothness=0.0,
            constraint_smoothness=0.0,
            learning_rate=0.3,
        )
        costs = steep_and_flat(x)
        assert float(1 - costs.max().detach()) == pytest.approx(0.1)
        optimizer.step(
            1000 * x.sum(),
            costs.max(),
            1.0,
            watched=optimizer.watch(costs, 1.0) if watch else None,
        )
        return float(1 - steep_and_flat(x).max().detach())

    assert slack_after_a_step(watch=True) >= 0.05
    # The steep member, which was not looked at, is far over the budget.
    assert slack_after_a_step(watch=False) < -0.4


def test_watching_a_constraint_itself_changes_nothing() -> None:
    taken = []
    for watch in (False, True):
        x = nn.Parameter(vector(0.0, 0.0))
        optimizer = LBSGD(
            [x], eta=0.1, objective_smoothness=1.0, constraint_smoothness=2.0, direction="adam"
        )
        for _ in range(20):
            cost = x.square().sum() + x.sum()
            watched = optimizer.watch(cost.reshape(1), 1.0) if watch else None
            taken.append(optimizer.step(5 * x.sum(), cost, 1.0, watched=watched))
    for one, other in zip(taken[:20], taken[20:], strict=True):
        assert one.step_length == other.step_length
        assert one.slope == other.slope
        assert one.slack.shape == other.slack.shape == ()


def test_a_watched_cost_without_slack_allows_no_step() -> None:
    x = nn.Parameter(vector(0.0))
    optimizer = LBSGD([x], eta=0.1, objective_smoothness=0.0, constraint_smoothness=1.0)
    watched = optimizer.watch(x + 2, 1.0)
    step = optimizer.step(x.sum(), x.sum(), 1.0, watched=watched)
    assert step.feasible
    assert float(step.step_length) == 0.0


@both_directions
def test_watching_nothing_changes_nothing(direction: Direction) -> None:
    nothing = Watched(torch.zeros(0).double(), torch.zeros(0, 1).double())
    lengths = []
    for watched in (None, nothing):
        x = nn.Parameter(vector(0.0))
        optimizer = LBSGD(
            [x], eta=0.1, objective_smoothness=1.0, constraint_smoothness=2.0, direction=direction
        )
        lengths.append(optimizer.step(x.sum(), x.sum(), 1.0, watched=watched).step_length)
    assert lengths[0] == lengths[1] > 0


class PerFunction:
    """An estimator that counts its calls and answers with a constant for each of some functions."""

    def __init__(self, functions: int) -> None:
        self.functions, self.calls = functions, 0

    def update(self, parameters: Tensor, gradients: Tensor) -> Tensor:
        self.calls += 1
        return gradients.new_ones(self.functions)

    def state_dict(self) -> dict[str, Any]:
        return {"calls": self.calls}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.calls = state["calls"]


def everything(optimizer: LBSGD) -> str:
    """The whole state, in a form that can be compared."""
    return repr(optimizer.state_dict())


@pytest.mark.parametrize(
    ("watched", "message"),
    [
        (Watched(vector(1.0).view(1, 1), torch.zeros(1, 2).double()), r"slack: got shape \[1, 1\]"),
        (Watched(torch.tensor(1.0).double(), torch.zeros(1, 2).double()), r"slack: got shape \[\]"),
        (Watched(vector(1.0), torch.zeros(2).double()), r"gradient: got shape \[2\]; .* \[1, 2\]"),
        (Watched(vector(1.0), torch.zeros(2, 2).double()), r"gradient: got shape \[2, 2\]"),
        (Watched(vector(1.0), torch.zeros(1, 3).double()), r"gradient: got shape \[1, 3\]"),
        (Watched(vector(math.nan), torch.zeros(1, 2).double()), "slack: got NaN or infinity"),
        (Watched(vector(math.inf), torch.zeros(1, 2).double()), "slack: got NaN or infinity"),
        (Watched(vector(1.0), vector(math.nan, 0.0)[None]), "gradient: got NaN or infinity"),
    ],
)
@pytest.mark.parametrize("budget", [1.0, -1.0])
@both_directions
def test_what_is_watched_wrongly_changes_nothing(
    direction: Direction, budget: float, watched: Watched, message: str
) -> None:
    """In a feasible step and in a recovery."""
    x = nn.Parameter(vector(0.0, 0.0))
    optimizer = LBSGD(
        [x],
        eta=0.1,
        eta_decay=0.5,
        objective_smoothness=SecantSmoothness(1.0),
        constraint_smoothness=SecantSmoothness(1.0),
        direction=direction,
    )
    before = everything(optimizer)
    with pytest.raises(ValueError, match=rf"^watched\.{message}"):
        optimizer.step(x.sum(), x.sum(), budget, watched=watched)
    assert not x.detach().any()
    assert everything(optimizer) == before


@both_directions
@pytest.mark.parametrize("watch", [False, True])
@pytest.mark.parametrize("constants", [vector(1.0, 2.0, 3.0), PerFunction(3)])
def test_constants_that_do_not_fit_change_nothing(
    direction: Direction, watch: bool, constants: Tensor | PerFunction
) -> None:
    """Two constraints, and with what is watched four functions, have no three constants."""
    x = nn.Parameter(vector(0.0))
    objective = PerFunction(1)
    optimizer = LBSGD(
        [x],
        eta=0.1,
        eta_decay=0.5,
        objective_smoothness=objective,
        constraint_smoothness=constants,
        direction=direction,
    )
    before = everything(optimizer)
    costs = torch.cat([x, 2 * x])
    watched = optimizer.watch(costs, 1.0) if watch else None
    functions = 4 if watch else 2
    answer = rf"^constraint_smoothness: got 3 constants; allowed one .* {functions} functions"
    with pytest.raises(ValueError, match=answer):
        optimizer.step(x.sum(), costs, 1.0, watched=watched)
    assert float(x.detach()) == 0.0
    assert everything(optimizer) == before


def test_an_objective_with_several_constants_changes_no_other_estimator() -> None:
    x = nn.Parameter(vector(0.0))
    constraint = PerFunction(1)
    optimizer = LBSGD(
        [x], eta=0.1, objective_smoothness=PerFunction(2), constraint_smoothness=constraint
    )
    before = everything(optimizer)
    with pytest.raises(ValueError, match=r"^objective_smoothness: got 2 constants"):
        optimizer.step(x.sum(), x.sum(), 1.0)
    assert everything(optimizer) == before
    assert constraint.calls == 0
    assert float(x.detach()) == 0.0


def test_an_estimator_with_a_constant_for_each_function_is_taken() -> None:
    x = nn.Parameter(vector(0.0))
    estimator = PerFunction(4)
    optimizer = LBSGD([x], eta=0.1, objective_smoothness=0.0, constraint_smoothness=estimator)
    costs = torch.cat([x, 2 * x])
    step = optimizer.step(x.sum(), costs, 1.0, watched=optimizer.watch(costs, 1.0))
    assert step.constraint_smoothness.tolist() == [1.0, 1.0]
    assert float(step.step_length) > 0
    assert estimator.calls == 1
