"""The methods of `experiment_lbsgd_landscape`, and a walk of one of them across one landscape."""

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
"""Weight of the barrier at the start, in units of the objective; it falls to `ETA_MIN`."""
ETA_MIN = 1e-3
ETA_DECAY = 0.995
RATES = (1e-3, 1e-2, 1e-1)
"""Learning rates from which every method but LBSGD's own rule has the best one with hindsight."""


class BarrierAscent:
    """A torch optimiser on the log barrier, with nothing to limit its steps.

    Outside the feasible set the barrier has no gradient, so who leaves it stays there.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, unit: float) -> None:
        self._optimizer, self._unit, self._eta = optimizer, unit, ETA

    def step(self, objective: Tensor, cost_return: Tensor, budget: Tensor) -> None:
        """One step up the barrier."""
        self._optimizer.zero_grad()
        eta = self._eta * self._unit
        (-log_barrier(objective, budget - cost_return, eta=eta)).backward()
        self._optimizer.step()
        self._eta = max(ETA_DECAY * self._eta, ETA_MIN)


class Method(NamedTuple):
    """How to build an optimiser for a point in a landscape, and with which learning rates."""

    build: Callable[[nn.Parameter, Landscape, Any], Any]
    rates: tuple[float | None, ...] = RATES  # (None,): it has no learning rate


def lbsgd(x: nn.Parameter, landscape: Landscape, **options: Any) -> LBSGD:
    """LBSGD with the landscape's true constants, unless `options` say otherwise."""
    settings: dict[str, Any] = {
        "eta": ETA * landscape.unit,
        "eta_min": ETA_MIN * landscape.unit,
        "eta_decay": ETA_DECAY,
        "objective_smoothness": landscape.objective_smoothness,
        "constraint_smoothness": landscape.constraint_smoothness,
    }
    return LBSGD([x], **settings | options)


def lbsgd_secant(x: nn.Parameter, landscape: Landscape, _rate: None) -> LBSGD:
    """LBSGD that knows no constants; the first guess is the same in every landscape."""
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
    """Gaussian noise of one sample of objective and costs; an estimate is a mean of several."""

    value: float = 0.1
    """Standard deviation of each value."""
    gradient: float = 0.5
    """Root mean square length of each gradient's error."""
    samples: int = 16
    """Samples of each estimate."""


class Estimate(NamedTuple):
    """What an optimiser sees at one iterate."""

    objective: Tensor
    costs: Tensor
    value_noise: Tensor  # [sample, constraint]
    gradient_noise: Tensor  # [sample, constraint, dimension]


def estimate(
    landscape: Landscape, x: nn.Parameter, noise: Noise, generator: torch.Generator
) -> Estimate:
    """Differentiable objective and costs whose values and gradients are means of noisy samples."""
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
    """Where a method went."""

    points: Tensor  # [step + 1, dimension]
    held: Tensor  # [step]: whether all confidence bounds of the step were true


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
        landscape: what to optimise.
        build: of a `Method`.
        rate: the method's learning rate; None where it has none.
        steps: number of steps.
        noise: of the estimates; exact values and gradients without.
        level: confidence of the bounds that LBSGD is given at each step; none without.
        seed: of the noise.
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
            errors, true = _errors(seen, level)
            optimizer.step(seen.objective, seen.costs, landscape.budget, **errors)
            held.append(true)
        points.append(x.detach().clone())
    return Walk(torch.stack(points), torch.tensor(held))


def _errors(seen: Estimate, level: float | None) -> tuple[dict[str, Tensor], bool]:
    """Arguments of LBSGD's step, and whether they bound the errors that were really made."""
    if level is None:
        return {}, bool((seen.value_noise.mean(0) >= 0).all())
    # Only the spread of the samples counts, so the noise is as good as the samples.
    errors = estimation_errors(seen.value_noise, seen.gradient_noise, level=level)
    slack_held = -seen.value_noise.mean(0) <= errors.slack_error
    slope_held = seen.gradient_noise.mean(0).norm(dim=-1) <= errors.slope_error
    return errors._asdict(), bool((slack_held & slope_held).all())


def measure(landscape: Landscape, points: Tensor) -> dict[str, float | int | None]:
    """What a walk was worth.

    Returns:
        ``iterations`` until the gap is first at most 5% with no slack below -1% of the start's
        (None: never); ``gap`` averaged over the last tenth; ``worst_slack`` of all iterates in
        units of the start's; ``infeasible``, the number of iterates outside.
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
    """The row of the learning rate one would choose in hindsight.

    Those that reached the optimum first, of them those with the fewest infeasible iterates, then
    the fastest, then the nearest.
    """

    def key(row: dict[str, Any]) -> tuple[bool, int, int, float]:
        never = row["iterations"] is None
        return never, row["infeasible"], 0 if never else row["iterations"], abs(row["gap"])

    return min(rows, key=key)
