"""The bounds hold as often as they promise, whatever the gradient's covariance."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor, nn

from blocks.optimizers.confidence import estimation_errors, student_t_quantile
from blocks.optimizers.lbsgd import LBSGD
from blocks.safety_metrics import violation_interval

SPECTRA = {
    "one parameter": torch.tensor([1.0]),
    "a line in many": torch.tensor([1.0] + [0.0] * 19),
    "isotropic": torch.ones(20),
    "mixed": 0.7 ** torch.arange(20.0),
}


def holds(
    spectrum: Tensor, level: float, samples: int, constraints: int, replications: int = 1500
) -> tuple[Tensor, Tensor]:
    """Whether each bound held, `[replication, constraint]`, for slack and for slope; truth is 0."""
    generator = torch.Generator().manual_seed(0)
    held = []
    for _ in range(replications):
        costs = torch.randn(samples, constraints, generator=generator)
        gradients = torch.randn(samples, constraints, len(spectrum), generator=generator)
        gradients = gradients * spectrum.sqrt()
        errors = estimation_errors(costs, gradients, level=level)
        off = torch.linalg.vector_norm(gradients.mean(0), dim=-1)
        held.append((-costs.mean(0) <= errors.slack_error, off <= errors.slope_error))
    slack, slope = zip(*held, strict=True)
    return torch.stack(slack), torch.stack(slope)


def interval(successes: Tensor) -> tuple[float, float]:
    """99.9% interval of a rate."""
    return violation_interval(int(successes.sum()), successes.numel(), confidence=0.999)


@pytest.mark.parametrize("name", SPECTRA)
@pytest.mark.parametrize("samples", [2, 20])
def test_all_bounds_hold_together_as_often_as_promised(name: str, samples: int) -> None:
    slack, slope = holds(SPECTRA[name], 0.8, samples, constraints=3)
    assert interval((slack & slope).all(dim=1))[1] >= 0.8


@pytest.mark.parametrize("name", ["one parameter", "a line in many"])
@pytest.mark.parametrize("samples", [2, 5])
def test_each_bound_is_exact_where_the_gradient_varies_along_a_line(
    name: str, samples: int
) -> None:
    for held in holds(SPECTRA[name], 0.8, samples, constraints=1):
        low, high = interval(held)
        assert low <= 0.9 <= high


def test_negative_control_a_normal_quantile_breaks_the_promise() -> None:
    generator = torch.Generator().manual_seed(0)
    costs = torch.randn(4000, 3, generator=generator)
    error = stats.norm.ppf(0.95) * costs.std(dim=1) / math.sqrt(3)
    assert interval(-costs.mean(dim=1) <= error)[1] < 0.95


def test_negative_control_the_spread_along_the_estimated_gradient_breaks_the_promise() -> None:
    """The direction was chosen from the same samples, so the bound must hold along all of them."""
    generator = torch.Generator().manual_seed(0)
    gradients = torch.randn(1000, 5, 20, generator=generator)
    direction = torch.nn.functional.normalize(gradients.mean(1), dim=-1)
    along = torch.einsum("rnp,rp->rn", gradients, direction)
    error = stats.t.ppf(0.9, 4) * along.std(dim=1) / math.sqrt(5)
    assert interval(along.mean(dim=1) <= error)[1] < 0.9


def test_steps_with_bounds_stay_feasible_as_often_as_promised_and_others_do_not() -> None:
    """Many steps from the same iterate, close to the wall x <= 1, each with separate noise."""
    generator = torch.Generator().manual_seed(0)
    feasible: dict[float, list[bool]] = {0.0: [], 0.9: []}
    for level in feasible:
        for _ in range(600):
            x = nn.Parameter(torch.tensor([0.98, 0.0]))
            optimizer = LBSGD([x], eta=1e-3, objective_smoothness=0.0, constraint_smoothness=0.0)
            value = 0.15 * torch.randn(8, generator=generator)
            slope = torch.randn(8, 2, generator=generator) + torch.tensor([1.0, 0.0])
            costs = value + (slope * (x - x.detach())).sum(-1) + x[0].detach()
            errors = estimation_errors(costs.detach(), slope, level=level) if level else (0.0, 0.0)
            optimizer.step(
                costs.mean(), costs.mean(), 1.0, slack_error=errors[0], slope_error=errors[1]
            )
            feasible[level].append(bool(x[0] < 1.0))
    assert interval(torch.tensor(feasible[0.9]))[1] >= 0.9
    assert interval(torch.tensor(feasible[0.0]))[1] < 0.9


@given(st.integers(0, 2**16), st.floats(0.6, 0.98), st.floats(1e-3, 1e3))
def test_bounds_scale_with_the_samples_and_grow_with_the_level(
    seed: int, level: float, scale: float
) -> None:
    generator = torch.Generator().manual_seed(seed)
    costs = torch.randn(6, 2, generator=generator, dtype=torch.float64)
    gradients = torch.randn(6, 2, 3, generator=generator, dtype=torch.float64)
    errors = estimation_errors(costs, gradients, level=level)
    scaled = estimation_errors(scale * costs + 7.0, scale * gradients + 7.0, level=level)
    higher = estimation_errors(costs, gradients, level=level + 0.01)
    for error, larger, surer in zip(errors, scaled, higher, strict=True):
        torch.testing.assert_close(larger, scale * error)
        assert (surer > error).all()


def test_one_constraint_may_be_a_scalar() -> None:
    costs, gradients = torch.randn(5), torch.randn(5, 3)
    scalar = estimation_errors(costs, gradients, level=0.9)
    listed = estimation_errors(costs[:, None], gradients[:, None], level=0.9)
    assert scalar.slack_error.shape == scalar.slope_error.shape == ()
    torch.testing.assert_close(scalar.slack_error, listed.slack_error[0])
    torch.testing.assert_close(scalar.slope_error, listed.slope_error[0])


@given(st.floats(0.5, 1 - 1e-6), st.integers(1, 300))
def test_quantiles_are_those_of_scipy(probability: float, freedom: int) -> None:
    expected = stats.t.ppf(probability, freedom)
    assert student_t_quantile(probability, freedom) == pytest.approx(expected, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize(
    ("costs", "gradients", "level", "message"),
    [
        (torch.zeros(1), torch.zeros(1, 2), 0.9, "costs: got 1 samples"),
        (torch.zeros(3), torch.zeros(4, 2), 0.9, r"gradients: got shape \[4, 2\]"),
        (torch.zeros(3, 2), torch.zeros(3, 5), 0.9, r"gradients: got shape \[3, 5\]"),
        (torch.zeros(3), torch.zeros(3, 2), 0.5, "level: got 0.5"),
        (torch.zeros(3), torch.zeros(3, 2), 1.0, "level: got 1.0"),
        (torch.zeros(3), torch.zeros(3, 2), math.nan, "level: got nan"),
    ],
)
def test_bad_input_is_named(costs: Tensor, gradients: Tensor, level: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        estimation_errors(costs, gradients, level=level)


@pytest.mark.parametrize(("probability", "freedom"), [(0.4, 3), (1.0, 3), (0.9, 0)])
def test_quantiles_out_of_range_are_refused(probability: float, freedom: int) -> None:
    with pytest.raises(ValueError, match=r"probability: got|freedom: got"):
        student_t_quantile(probability, freedom)
