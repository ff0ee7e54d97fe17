"""Methods of `lbsgd_landscape`, and the walk of a method on a landscape."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from blocks import (
    LBSGD,
    AugmentedLagrangian,
    PIDLagrangian,
    SecantSmoothness,
    estimation_errors,
    log_barrier,
)
from recipes.experiments.lbsgd_landscape.landscapes import Landscape

ETA = 0.1
"""Initial weight of the barrier, in units of the objective; it decays to ``ETA_MIN``."""
ETA_MIN = 1e-3
ETA_DECAY = 0.995
RATES = (1e-3, 1e-2, 1e-1)
"""Learning rates to choose from, with hindsight, for methods that need one."""


class BarrierAscent:
    """Runs a torch optimiser on the log barrier, without limiting its steps.

    Outside of the feasible set the barrier has no gradient, so an iterate that leaves stays there.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, unit: float) -> None:
        self._optimizer, self._unit, self._eta = optimizer, unit, ETA

    def step(self, objective: Tensor, cost_return: Tensor, budget: Tensor) -> None:
        """Take one step that increases the barrier objective."""
        self._optimizer.zero_grad()
        eta = self._eta * self._unit
        (-log_barrier(objective, budget - cost_return, eta=eta)).backward()
        self._optimizer.step()
        self._eta = max(ETA_DECAY * self._eta, ETA_MIN)


class Method(NamedTuple):
    """A function that builds an optimiser for a point, and the learning rates to try."""

    build: Callable[[nn.Parameter, Landscape, Any], Any]
    rates: tuple[float | None, ...] = RATES  # (None,): no learning rate


def lbsgd(x: nn.Parameter, landscape: Landscape, **options: Any) -> LBSGD:
    """Build LBSGD with the landscape's true constants; ``options`` replace settings."""
    settings: dict[str, Any] = {
        "eta": ETA * landscape.unit,
        "eta_min": ETA_MIN * landscape.unit,
        "eta_decay": ETA_DECAY,
        "objective_smoothness": landscape.objective_smoothness,
        "constraint_smoothness": landscape.constraint_smoothness,
    }
    return LBSGD([x], **settings | options)


def lbsgd_secant(x: nn.Parameter, landscape: Landscape, _rate: None) -> LBSGD:
    """Build LBSGD with secant estimates of the constants, from the same guess on all landscapes."""
    return lbsgd(
        x,
        landscape,
        objective_smoothness=SecantSmoothness(100.0 * landscape.unit),
        constraint_smoothness=SecantSmoothness(100.0),
    )


METHODS: dict[str, Method] = {
    "LBSGD": Method(lambda x, landscape, _rate: lbsgd(x, landscape), (None,)),
    "LBSGD, secant": Method(lbsgd_secant, (None,)),
    "LBSGD, Adam": Method(
        lambda x, landscape, rate: lbsgd(x, landscape, direction="adam", learning_rate=rate)
    ),
    "barrier, fixed": Method(
        lambda x, landscape, rate: BarrierAscent(
            torch.optim.SGD([x], rate / landscape.unit), landscape.unit
        )
    ),
    "barrier, Adam": Method(
        lambda x, landscape, rate: BarrierAscent(torch.optim.Adam([x], rate), landscape.unit)
    ),
    "Augm. Lagrangian": Method(
        lambda x, landscape, rate: AugmentedLagrangian(
            [x], learning_rate=rate, penalty=0.1 * landscape.unit, penalty_max=landscape.unit
        )
    ),
    "PID-Lagrangian": Method(
        lambda x, landscape, rate: PIDLagrangian(
            [x],
            learning_rate=rate,
            proportional_gain=landscape.unit,
            integral_gain=0.02 * landscape.unit,
        )
    ),
}


@dataclass(frozen=True)
class Noise:
    """Gaussian noise of one sample of objective and costs; an estimate averages several."""

    value: float = 0.1
    """Standard deviation of each value."""
    gradient: float = 0.5
    """Root mean square norm of each gradient's error."""
    samples: int = 16
    """Samples of each estimate."""


class Estimate(NamedTuple):
    """Noisy estimates that an optimiser gets at one iterate."""

    objective: Tensor
    costs: Tensor
    value_noise: Tensor  # [sample, constraint]
    gradient_noise: Tensor  # [sample, constraint, dimension]


def estimate(
    landscape: Landscape, x: nn.Parameter, noise: Noise, generator: torch.Generator
) -> Estimate:
    """Estimate objective and costs, differentiably, as means of noisy values and gradients."""
    constraints = len(landscape.budget)

    def normal(*shape: int) -> Tensor:
        return torch.randn(noise.samples, *shape, generator=generator, dtype=x.dtype)

    value = noise.value * normal(constraints)
    gradient = noise.gradient * normal(1 + constraints, landscape.dimension)
    gradient = gradient / landscape.dimension**0.5
    tilt = gradient.mean(0) @ (x - x.detach())  # zero, with the noise as its gradient
    return Estimate(
        objective=landscape.objective(x) + landscape.unit * tilt[0],
        costs=landscape.costs(x) + value.mean(0) + tilt[1:],
        value_noise=value,
        gradient_noise=gradient[:, 1:],
    )


class Walk(NamedTuple):
    """Iterates of a method."""

    points: Tensor  # [step + 1, dimension]
    held: Tensor  # [step]: whether all confidence bounds of the step held


def walk(
    landscape: Landscape,
    build: Callable[[nn.Parameter, Landscape, Any], Any],
    rate: float | None,
    steps: int,
    *,
    noise: Noise | None = None,
    level: float | None = None,
    seed: int = 0,
) -> Walk:
    """Optimise from the landscape's start.

    Args:
        landscape: problem to optimise.
        build: ``build`` of a ``Method``.
        rate: learning rate; None if the method has none.
        steps: number of steps.
        noise: noise of the estimates; None for exact values and gradients.
        level: confidence of LBSGD's bounds at each step; None for no bounds.
        seed: seed of the noise.
    """
    x = nn.Parameter(landscape.start.clone())
    optimizer = build(x, landscape, rate)
    generator = torch.Generator().manual_seed(seed)
    points, held = [landscape.start], []
    for _ in range(steps):
        if noise is None:
            optimizer.step(landscape.objective(x), landscape.costs(x), landscape.budget)
        else:
            seen = estimate(landscape, x, noise, generator)
            errors, bounds_held = _errors(seen, level)
            optimizer.step(seen.objective, seen.costs, landscape.budget, **errors)
            held.append(bounds_held)
        points.append(x.detach().clone())
    return Walk(torch.stack(points), torch.tensor(held))


def _errors(seen: Estimate, level: float | None) -> tuple[dict[str, Tensor], bool]:
    """Compute the error bounds for LBSGD's step, and whether they hold for the true errors."""
    if level is None:
        return {}, bool((seen.value_noise.mean(0) >= 0).all())
    # Only the spread of the samples matters, so the noise can stand for the samples.
    errors = estimation_errors(seen.value_noise, seen.gradient_noise, level=level)
    slack_held = -seen.value_noise.mean(0) <= errors.slack_error
    slope_held = seen.gradient_noise.mean(0).norm(dim=-1) <= errors.slope_error
    return errors._asdict(), bool((slack_held & slope_held).all())


def measure(landscape: Landscape, points: Tensor) -> dict[str, float | int | None]:
    """Measure the quality of a walk.

    Returns:
        ``iterations``, until the gap is first at most 5% with no slack below -1% of the start's
        (None: never); ``gap``, averaged over the last tenth; ``worst_slack``, of all iterates in
        units of the start's; ``infeasible``, the number of infeasible iterates.
    """
    gap = landscape.gap(points)
    slack = (landscape.slack(points) / landscape.slack(landscape.start)).amin(-1)
    reached = ((gap <= 0.05) & (slack >= -0.01)).nonzero().flatten().tolist()
    return {
        "iterations": next(iter(reached), None),
        "gap": float(gap[-max(len(gap) // 10, 1) :].mean()),
        "worst_slack": float(slack.min()),
        "infeasible": int((slack < -1e-9).sum()),
    }


def best(rows: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Choose the row of the best learning rate in hindsight.

    Prefers rows that reach the optimum, then fewer infeasible iterates, then fewer iterations, then
    a smaller gap.
    """

    def key(row: dict[str, Any]) -> tuple[bool, int, int, float]:
        never = row["iterations"] is None
        return never, row["infeasible"], 0 if never else row["iterations"], abs(row["gap"])

    return min(rows, key=key)
