"""Constrained problems with known optimum, smoothness constants and strictly feasible start.

Each maximises an objective while every cost stays below its budget, in double precision.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from scipy.optimize import brentq
from torch import Tensor


@dataclass(frozen=True)
class Landscape:
    """One problem; points are ``[..., dimension]``."""

    name: str
    objective: Callable[[Tensor], Tensor]
    """Points -> values ``[...]``, to be maximised."""
    costs: Callable[[Tensor], Tensor]
    """Points -> costs ``[..., constraint]``."""
    budget: Tensor
    """``[constraint]``"""
    start: Tensor
    """Strictly feasible point ``[dimension]``."""
    optimum: Tensor
    """The best feasible point ``[dimension]``."""
    objective_smoothness: float
    """Lipschitz constant of the objective's gradient on the feasible set."""
    constraint_smoothness: Tensor
    """Lipschitz constant of each cost's gradient, everywhere, ``[constraint]``."""
    unit: float = 1.0
    """Unit of the objective; eta and multipliers scale with it."""
    steps: int = 1500
    """Number of steps of each method."""

    @property
    def dimension(self) -> int:
        return len(self.start)

    def slack(self, x: Tensor) -> Tensor:
        """Compute budget minus cost, ``[..., constraint]``."""
        return self.budget - self.costs(x)

    def gap(self, x: Tensor) -> Tensor:
        """Compute the distance to the optimal value in units of the start's, ``[...]``.

        Negative where an infeasible point is better than every feasible one.
        """
        best, first = self.objective(self.optimum), self.objective(self.start)
        return (best - self.objective(x)) / (best - first)

    def in_units_of(self, unit: float) -> "Landscape":
        """Return the same problem with another unit of the objective."""
        return replace(
            self,
            name=f"{self.name} x {unit:g}",
            objective=lambda x: unit * self.objective(x),
            objective_smoothness=unit * self.objective_smoothness,
            unit=unit,
        )


def _vector(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def line() -> Landscape:
    """Maximise -(x - 2)^2 where x <= 1."""
    return Landscape(
        name="line",
        objective=lambda x: -(x - 2).square().sum(-1),
        costs=lambda x: x,
        budget=_vector(1.0),
        start=_vector(0.0),
        optimum=_vector(1.0),
        objective_smoothness=2.0,
        constraint_smoothness=_vector(0.0),
    )


def ball(dimension: int) -> Landscape:
    """Maximise a concave quadratic in the unit ball; curvatures 0.1 to 1, peak at distance 2.

    The optimum solves H (c - x) = m x for the multiplier m at which it lies on the sphere.
    """
    generator = torch.Generator().manual_seed(dimension)
    curvature = torch.logspace(-1, 0, dimension, dtype=torch.float64)
    peak = torch.randn(dimension, generator=generator, dtype=torch.float64)
    peak = 2 * peak / peak.norm()

    def solution(multiplier: float) -> Tensor:
        return curvature * peak / (curvature + multiplier)

    multiplier: Any = brentq(lambda m: float(solution(m).norm()) - 1, 0.0, 10.0, xtol=1e-15)
    return Landscape(
        name=f"ball, {dimension}",
        objective=lambda x: -(curvature * (x - peak).square()).sum(-1) / 2,
        costs=lambda x: x.square().sum(-1, keepdim=True) / 2,
        budget=_vector(0.5),
        start=torch.zeros(dimension, dtype=torch.float64),
        optimum=solution(multiplier),
        objective_smoothness=1.0,
        constraint_smoothness=_vector(1.0),
    )


def box(dimension: int) -> Landscape:
    """Maximise a linear objective in a box: two linear constraints for each coordinate."""
    generator = torch.Generator().manual_seed(dimension)
    slope = torch.randn(dimension, generator=generator, dtype=torch.float64)
    slope = slope / slope.norm()
    return Landscape(
        name=f"box, {dimension}",
        objective=lambda x: x @ slope,
        costs=lambda x: torch.cat([x, -x], dim=-1),
        budget=torch.ones(2 * dimension, dtype=torch.float64),
        start=torch.zeros(dimension, dtype=torch.float64),
        optimum=slope.sign(),
        objective_smoothness=0.0,
        constraint_smoothness=torch.zeros(2 * dimension, dtype=torch.float64),
    )


def three_disks() -> Landscape:
    """Maximise a linear objective where three disks overlap (a Reuleaux triangle).

    Each disk of radius 1 is centred on one corner of an equilateral triangle of side 1, so each
    corner lies on the rims of the other two disks. The optimum is the upper corner.
    """
    height = 0.75**0.5
    corners = torch.tensor([[0.0, height], [-0.5, 0.0], [0.5, 0.0]], dtype=torch.float64)
    return Landscape(
        name="three disks",
        objective=lambda x: x[..., 1],
        costs=lambda x: (x.unsqueeze(-2) - corners).square().sum(-1),
        budget=torch.ones(3, dtype=torch.float64),
        start=_vector(0.3, 0.1),
        optimum=corners[0],
        objective_smoothness=0.0,
        constraint_smoothness=torch.full((3,), 2.0, dtype=torch.float64),
    )


def ring() -> Landscape:
    """Move to the right in a ring, from the left of its hole; the feasible set is not convex."""

    def costs(x: Tensor) -> Tensor:
        radius = x.square().sum(-1)
        return torch.stack([radius, -radius], dim=-1)

    return Landscape(
        name="ring",
        objective=lambda x: x[..., 0],
        costs=costs,
        budget=_vector(4.0, -1.0),
        start=_vector(-1.5, 0.2),
        optimum=_vector(2.0, 0.0),
        objective_smoothness=0.0,
        constraint_smoothness=_vector(2.0, 2.0),
    )


def rosenbrock() -> Landscape:
    """Maximise minus Rosenbrock's function in the unit disk; the objective is not concave.

    The unconstrained optimum (1, 1) lies outside of the disk. On the disk, the Hessian's largest
    eigenvalue is below 1370 (at y near -1/6 on the rim).
    """

    def objective(x: Tensor) -> Tensor:
        first, second = x[..., 0], x[..., 1]
        return -((1 - first).square() + 100 * (second - first.square()).square())

    return Landscape(
        name="Rosenbrock in a disk",
        objective=objective,
        costs=lambda x: x.square().sum(-1, keepdim=True),
        budget=_vector(1.0),
        start=_vector(-0.5, 0.0),
        optimum=_vector(0.7864151541684, 0.6176983125233),
        objective_smoothness=1370.0,
        constraint_smoothness=_vector(2.0),
        steps=4000,
    )


LANDSCAPES: dict[str, Landscape] = {
    problem.name: problem
    for problem in (
        line(),
        line().in_units_of(1e-3),
        line().in_units_of(1e3),
        ball(2),
        ball(10),
        ball(10).in_units_of(1e-3),
        ball(10).in_units_of(1e3),
        ball(100),
        ball(1000),
        box(10),
        three_disks(),
        ring(),
        rosenbrock(),
    )
}
