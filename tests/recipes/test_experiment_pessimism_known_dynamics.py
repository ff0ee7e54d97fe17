"""Tests coverage of a truth known in closed form: system, law, and the experiment as run."""

import json
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from processes import said
from torch import Tensor

from blocks import Particles, mean, worst_case
from recipes.experiments.pessimism_known_dynamics.linear_gaussian import (
    GAIN,
    HORIZON,
    NOISE_STD,
    PRIOR_MEAN,
    PRIOR_STD,
    START,
    Weigh,
    draw_weights,
    exact_posterior,
    exponential,
    fit,
    policy_returns,
    shares,
    simulate,
)

Launch = Callable[..., subprocess.CompletedProcess[str]]
RECIPE = "experiment_pessimism_known_dynamics"
REPLICATIONS = 4000


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("lag", [0.0, 0.3])
def test_returns_in_closed_form_are_those_of_many_rollouts(lag: float) -> None:
    generator, count = seeded(), 100_000
    weights = torch.tensor(PRIOR_MEAN, dtype=torch.float64)
    state = torch.tensor(START).double().expand(count, 2)
    before, velocity, cost = torch.zeros_like(state), torch.zeros(count), torch.zeros(count)
    for _ in range(HORIZON):
        action = (state @ torch.tensor(GAIN).double()).unsqueeze(1)
        noise = NOISE_STD * torch.randn(count, 2, generator=generator, dtype=torch.float64)
        after = torch.cat([state, action], 1) @ weights + noise
        after[:, 1] -= lag * before[:, 0]
        state, before = after, state
        velocity, cost = velocity + state[:, 1], cost + state[:, 0].square()
    exact = policy_returns(weights, lag)
    for sample, value in ((velocity, exact.objective), (cost, exact.cost_return)):
        assert abs(sample.mean() - value) < 4.5 * sample.std() / count**0.5


def test_particles_are_draws_from_the_exact_posterior_of_the_weights() -> None:
    data, members = simulate(draw_weights(1, seeded(1)), 20, seeded(2)), 3000
    exact = exact_posterior(data, 200_000, seeded(3))[:, 0]
    fitted = fit(Particles, data, members, seeded(4), steps=300)[:, 0]
    error = (fitted.mean(0) - exact.mean(0)) / exact.std(0) * members**0.5
    assert error.abs().max() < 4.5
    ratio = fitted.var(0) / exact.var(0) - 1
    assert ratio.abs().max() < 4.5 * (2 / members) ** 0.5


def variance_ratio(weigh: Weigh | None, *, data: int = 320) -> float:
    """Divide the particles' variance by the exact posterior's; mean over 150 systems and weights.

    Where the ratio is about one, its standard error is 0.017.
    """
    known = simulate(draw_weights(150, seeded(1)), data, seeded(2))
    particles = fit(Particles, known, 12, seeded(4), steps=150, weigh=weigh)
    precision = known.inputs.mT @ known.inputs / NOISE_STD**2 + torch.eye(3) / PRIOR_STD**2
    exact = torch.linalg.inv(precision).diagonal(dim1=-2, dim2=-1).unsqueeze(-1)
    return float((particles.var(0) / exact).mean())


def check_the_variance_is_that_of_the_posterior(weigh: Weigh | None) -> None:
    """Check within 4.5 standard errors; the bootstrap's bias at 320 rows is 0.02."""
    assert variance_ratio(weigh) == pytest.approx(1.0, abs=0.02 + 4.5 * 0.017)


@pytest.mark.parametrize("weigh", [None, exponential], ids=["targets", "exponential"])
def test_particles_with_exponential_weights_are_as_wide_as_the_posterior(
    weigh: Weigh | None,
) -> None:
    check_the_variance_is_that_of_the_posterior(weigh)


@pytest.mark.parametrize(("data", "ratio"), [(20, 0.82), (80, 0.89)])
def test_exponential_weights_are_a_little_narrow_where_rows_are_few(
    data: int, ratio: float
) -> None:
    """A bootstrap takes the noise from the residuals, which few rows make too small."""
    assert variance_ratio(exponential, data=data) == pytest.approx(ratio, abs=4.5 * 0.017)


def test_negative_control_shares_of_the_data_are_four_times_too_narrow() -> None:
    """A weight has variance (1 - share) / share: 0.25 for a share of 0.8, where Exp(1) has one."""
    share = partial(shares, size=0.8)
    assert variance_ratio(share) == pytest.approx(0.25, abs=0.03)
    with pytest.raises(AssertionError):
        check_the_variance_is_that_of_the_posterior(share)


@pytest.mark.parametrize(
    ("weigh", "variance"), [(exponential, 1.0), (partial(shares, size=0.8), 0.25)]
)
def test_rows_count_once_on_average(weigh: Weigh, variance: float) -> None:
    weights = weigh((50, 4000, 1), seeded())
    assert weights.shape == (50, 4000, 1)
    assert float(weights.mean()) == pytest.approx(1.0, abs=0.01)
    assert float(weights.var()) == pytest.approx(variance, rel=0.04)


# ---- the law of coverage -------------------------------------------------------------------------


def covered(aggregate: Callable[[Tensor], Tensor], *, lag: float = 0.0, data: int = 20) -> float:
    """Compute how often K = 5 exact posterior samples, aggregated, cover the true cost return."""
    generator = seeded()
    weights = draw_weights(REPLICATIONS, generator)
    known = simulate(weights, data, generator, lag)
    returns = policy_returns(exact_posterior(known, 5, generator)).cost_return
    truth = policy_returns(weights, lag).cost_return
    return float((aggregate(returns) >= truth).double().mean())


def check_worst_of_five_covers_in_five_of_six(aggregate: Callable[[Tensor], Tensor]) -> None:
    """Check within 4.5 standard errors of the order statistics' prediction."""
    expected = 5 / 6
    error = (expected * (1 - expected) / REPLICATIONS) ** 0.5
    assert covered(aggregate) == pytest.approx(expected, abs=4.5 * error)


def test_the_worst_of_five_exact_samples_covers_in_five_of_six_replications() -> None:
    check_worst_of_five_covers_in_five_of_six(worst_case)


def test_an_aggregator_that_takes_the_mean_fails_the_law_of_coverage() -> None:
    """Negative control: an aggregator without pessimism fails the check."""
    with pytest.raises(AssertionError):
        check_worst_of_five_covers_in_five_of_six(mean)


def test_the_guarantee_breaks_outside_of_the_posteriors_support() -> None:
    """With an unmodelled lag more data cover less: the posterior narrows around a wrong model."""
    few, many = (covered(worst_case, lag=0.3, data=data) for data in (5, 320))
    assert few < 5 / 6 - 0.03
    assert many < few - 0.2


# ---- the recipe ----------------------------------------------------------------------------------


def test_smoke_leaves_figure_summary_and_provenance(tmp_path: Path, launch: Launch) -> None:
    run = launch(RECIPE, "--smoke", "--seed", 3, "--out", tmp_path / "run")
    assert run.returncode == 0, run.stderr[-2000:]
    for case in ("well specified", "unmodelled lag", "prior excludes"):
        assert f"{case}, K = 5" in run.stdout
    folder = tmp_path / "run"
    assert (folder / "coverage.png").stat().st_size > 10_000
    config = json.loads((folder / "config.json").read_text())
    assert config["seed"] == 3
    assert "torch" in config["versions"]
    summary = json.loads((folder / "summary.json").read_text())
    families, aggregators, sizes = 8, 5, 2
    assert len(summary["rows"]) == families * aggregators * sizes * (2 + 1 + 1)
    for row in summary["rows"]:
        assert 0 <= row["lower"] <= row["coverage"] <= row["upper"] <= 1
    assert [row["expected"] for row in summary["acceptance"]] == [5 / 6, 5 / 6]
    again = launch(RECIPE, "--smoke", "--seed", 3, "--out", tmp_path / "again")
    assert again.returncode == 0
    assert json.loads((tmp_path / "again/summary.json").read_text())["rows"] == summary["rows"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--members", 0, 5), "members: got (0, 5); an ensemble needs at least 1 member."),
        (("--data", 7), "data: got (7,); transitions come in episodes of 5."),
        (("--shown", 3), "shown: got 3; choose one of members (1, 2, 5, 10, 20)."),
        (("--replications", 0), "replications: got 0; allowed: at least 1."),
    ],
)
def test_bad_input_is_an_error_without_a_traceback(
    arguments: tuple[object, ...], message: str, tmp_path: Path, launch: Launch
) -> None:
    run = launch(RECIPE, *arguments, "--out", tmp_path / "run")
    assert run.returncode == 2
    assert message in said(run.stderr)
    assert "Traceback" not in run.stderr
    assert not (tmp_path / "run").exists()
