"""Tests the landscapes' constants, the walks and their measures, and the experiment as run."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import said
from scipy.optimize import nnls
from torch import Tensor, nn

from recipes.experiments.lbsgd_landscape.landscapes import (
    LANDSCAPES,
    Landscape,
    ball,
    line,
    rosenbrock,
)
from recipes.experiments.lbsgd_landscape.methods import (
    METHODS,
    RATES,
    Noise,
    best,
    estimate,
    measure,
    walk,
)

Launch = Callable[..., subprocess.CompletedProcess[str]]
RECIPE = "experiment_lbsgd_landscape"
every_landscape = pytest.mark.parametrize("landscape", LANDSCAPES.values(), ids=LANDSCAPES)


def gradients(function: Any, x: Tensor) -> Tensor:
    return torch.func.jacrev(function)(x)


def feasible_points(landscape: Landscape, count: int) -> Tensor:
    """Sample random points around the origin and the start; keep the feasible ones."""
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(count, landscape.dimension, generator=generator, dtype=torch.float64)
    points = points / points.norm(dim=1, keepdim=True).clamp_min(1e-9)
    reach = 2.5 * torch.rand(count, 1, generator=generator, dtype=torch.float64)
    points = torch.cat([reach * points, landscape.start + 0.3 * reach * points])
    return points[(landscape.slack(points) > 0).all(-1)]


# ---- constants of the landscapes -----------------------------------------------------------------


@every_landscape
def test_the_start_is_strictly_feasible_and_the_optimum_feasible(landscape: Landscape) -> None:
    assert (landscape.slack(landscape.start) > 0).all()
    assert (landscape.slack(landscape.optimum) >= -1e-9).all()
    assert landscape.gap(landscape.start) == 1
    assert landscape.gap(landscape.optimum) == 0


@every_landscape
def test_the_optimum_has_multipliers(landscape: Landscape) -> None:
    """Karush, Kuhn and Tucker: the objective's gradient is a sum of active costs' gradients."""
    active = landscape.slack(landscape.optimum) < 1e-6
    of_costs = gradients(landscape.costs, landscape.optimum)[active]
    of_objective = gradients(landscape.objective, landscape.optimum)
    multipliers, residual = nnls(of_costs.T.numpy(), of_objective.numpy())
    assert residual < 1e-6 * of_objective.norm()
    assert (multipliers > 0).all()


@every_landscape
def test_no_feasible_point_is_better_than_the_optimum(landscape: Landscape) -> None:
    """The conditions above do not imply this where a problem is not convex."""
    points = feasible_points(landscape, 20_000 if landscape.dimension == 2 else 2000)
    assert len(points) > 100
    assert (landscape.gap(points) > 0).all()


@every_landscape
def test_no_gradient_changes_faster_than_its_constant(landscape: Landscape) -> None:
    points = feasible_points(landscape, 200)[:60]
    apart = torch.cdist(points, points)[..., None] + 1e-12
    for function, constants in (
        (lambda x: landscape.objective(x)[None], torch.tensor([landscape.objective_smoothness])),
        (landscape.costs, landscape.constraint_smoothness),
    ):
        found = torch.stack(
            [gradients(function, x) for x in points]
        )  # [point, function, dimension]
        change = (found[:, None] - found[None]).norm(dim=-1)
        assert (change <= constants * apart + 1e-9 * landscape.unit).all()


def test_rosenbrocks_constant_is_the_largest_eigenvalue_on_the_disk() -> None:
    problem = rosenbrock()
    point = torch.tensor([(35 / 36) ** 0.5, -1 / 6], dtype=torch.float64)
    hessian = torch.func.hessian(problem.objective)(point)
    largest = torch.linalg.matrix_norm(hessian, ord=2)
    assert 0.995 * problem.objective_smoothness < largest < problem.objective_smoothness


# ---- walks ---------------------------------------------------------------------------------------


@every_landscape
def test_lbsgd_with_true_constants_never_leaves_the_feasible_set(landscape: Landscape) -> None:
    points = walk(landscape, METHODS["LBSGD"].build, None, 60).points
    slack = landscape.slack(points)
    assert (slack[1:] >= slack[:-1] / 2 - 1e-12).all()
    assert landscape.gap(points[-1]) < 1


@pytest.mark.parametrize("unit", [1e-3, 1e3])
def test_lbsgd_does_not_depend_on_the_unit_of_the_objective(unit: float) -> None:
    build = METHODS["LBSGD"].build
    walks = [walk(x, build, None, 200).points for x in (ball(10), ball(10).in_units_of(unit))]
    torch.testing.assert_close(*walks)


def test_an_iterate_that_leaves_the_barrier_stays_outside() -> None:
    points = walk(line(), METHODS["barrier, fixed"].build, 0.4, 20).points
    outside = (line().slack(points) < 0).flatten().nonzero().flatten()
    assert len(outside) > 10
    assert (points[outside] == points[outside[0]]).all()


def test_estimates_have_the_stated_noise() -> None:
    landscape, noise = ball(10), Noise(value=0.2, gradient=0.6, samples=5000)
    x = nn.Parameter(landscape.start.clone())
    seen = estimate(landscape, x, noise, torch.Generator().manual_seed(0))
    assert seen.value_noise.std() == pytest.approx(0.2, rel=0.05)
    assert seen.gradient_noise.square().sum(-1).mean() == pytest.approx(0.36, rel=0.05)
    torch.testing.assert_close(seen.costs - landscape.costs(x), seen.value_noise.mean(0))
    (gradient,) = torch.autograd.grad(seen.costs.sum(), x)
    exact = gradients(landscape.costs, x.detach())[0]
    torch.testing.assert_close(gradient, exact + seen.gradient_noise.mean(0)[0])


def test_a_walk_is_measured_by_hand() -> None:
    points = torch.tensor([[0.0], [0.5], [1.2], [0.98], [0.99]], dtype=torch.float64)
    measured = measure(line(), points)
    assert measured["iterations"] == 3  # the third is better than the optimum, but outside
    assert measured["infeasible"] == 1
    assert measured["worst_slack"] == pytest.approx(-0.2)
    assert measured["gap"] == pytest.approx((1.01**2 - 1) / 3)


def test_hindsight_prefers_arrival_then_safety_then_speed() -> None:
    def row(rate: float, iterations: int | None, infeasible: int) -> dict[str, Any]:
        return {"rate": rate, "iterations": iterations, "infeasible": infeasible, "gap": 0.1}

    rows = [row(1, None, 0), row(2, 5, 3), row(3, 50, 0), row(4, 20, 0)]
    assert best(rows)["rate"] == 4
    assert best(rows[:2])["rate"] == 2


# ---- the recipe ----------------------------------------------------------------------------------


def test_smoke_leaves_figure_and_summary(tmp_path: Path, launch: Launch) -> None:
    run = launch(RECIPE, "--smoke", "--seed", 3, "--out", tmp_path)
    assert run.returncode == 0, run.stderr[-2000:]
    assert "three disks with noise" in run.stdout
    assert (tmp_path / "landscape.png").stat().st_size > 10_000
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert len(summary["exact"]) == 2 * len(METHODS)
    assert len(summary["noisy"]) == len(METHODS) + 1
    assert all(row["rate"] in (None, *RATES) for row in summary["exact"])
    assert [row["infeasible"] for row in summary["acceptance"]] == [0, 0]
    for row in summary["confidence"]:
        for name in ("bounds", "steps", "walks"):
            rate = row[name]
            assert 0 <= rate["lower"] <= rate["rate"] <= rate["upper"] <= 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--landscapes", "hill"), "landscapes: got 'hill'; choose from line,"),
        (("--walks", 0), "walks: got 0; allowed: at least 1."),
    ],
)
def test_bad_input_is_an_error_without_a_traceback(
    arguments: tuple[object, ...], message: str, tmp_path: Path, launch: Launch
) -> None:
    run = launch(RECIPE, *arguments, "--out", tmp_path / "run")
    assert run.returncode == 2
    assert message in said(run.stderr)
    assert "Traceback" not in run.stderr
