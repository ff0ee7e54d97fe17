"""Lagrangian methods with LBSGD's interface: the usual way to train a constrained policy.

Both may start outside the feasible set and leave it during training: the ablation for LBSGD. (The
library cooper-optim has them for problems described with its problem, constraint and multiplier
classes. Here values arrive as tensors, so only the two lines that update a multiplier would remain
of it.)
"""

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from blocks.optimizers.flat_parameters import (
    FlatAdam,
    FlatParameters,
    LearningRate,
    checked_slack,
    finite_norm,
    require,
    require_keys,
    vector_norm,
)


class LagrangianStep(NamedTuple):
    """What one step of a Lagrangian method did."""

    slack: Tensor  # [constraints], or a scalar as the cost return was
    step_size: Tensor  # scalar: the factor on Adam's step, always 1
    feasible: bool  # whether every slack was > 0 before the step
    multiplier: Tensor  # like slack: the weight of each cost return's gradient in this step
    grad_norm: Tensor  # scalar: norm of the gradient handed to Adam
    step_length: Tensor  # scalar: distance the parameters moved


class AugmentedLagrangian(LearningRate):
    r"""Maximise an objective under constraints with a multiplier and a quadratic penalty.

    .. math::
        \max_x\; J(x) - \sum_i \psi(a_i, \lambda_i; \mu), \qquad
        \psi(a, \lambda; \mu) = \begin{cases}
            -\lambda a + \mu a^2 / 2 & \text{if } \lambda - \mu a \ge 0 \\
            -\lambda^2 / (2 \mu) & \text{otherwise} \end{cases}

    with slack a, then :math:`\lambda \leftarrow \max(0, \lambda - \mu a)` and
    :math:`\mu \leftarrow \min(\mu (1 + \text{growth}), \mu_{max})` (Nocedal and Wright 2006,
    equation 17.65; as used by LAMBDA, As et al. 2022, with one Adam step per update). The gradient
    of psi is computed as the *updated* multiplier times the cost return's gradient.

    Args:
        params: parameters to optimise; those that require no gradient are left out.
        learning_rate: of the inner Adam, > 0.
        multiplier: initial multiplier, >= 0, in units of objective / cost return.
        penalty: initial mu, > 0, in units of objective / cost return squared.
        penalty_growth: relative growth of mu per step, >= 0.
        penalty_max: upper limit of mu's growth, >= penalty.
        betas: Adam's decay rates, each in [0, 1).
        eps: Adam's epsilon, > 0.

    Raises:
        ValueError: an argument is out of its range.

    Example:
        >>> x = nn.Parameter(torch.zeros(()))
        >>> optimizer = AugmentedLagrangian([x], learning_rate=0.02, penalty=0.1)
        >>> for _ in range(1500):  # maximise -(x - 2)^2 subject to x <= 1: x = 1, multiplier 2
        ...     step = optimizer.step(-((x - 2) ** 2), x, 1.0)
        >>> round(x.item(), 2), round(step.multiplier.item(), 1)
        (1.0, 2.0)
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        *,
        learning_rate: float | int = 3e-4,
        multiplier: float | int = 0.0,
        penalty: float | int = 1e-2,
        penalty_growth: float | int = 1e-5,
        penalty_max: float | int = 1.0,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float | int = 1e-8,
    ) -> None:
        require("multiplier", multiplier, ">= 0", 0 <= multiplier < math.inf)
        require("penalty", penalty, "> 0", 0 < penalty < math.inf)
        require("penalty_growth", penalty_growth, ">= 0", 0 <= penalty_growth < math.inf)
        require("penalty_max", penalty_max, ">= penalty", penalty_max >= penalty)
        self._flat = FlatParameters(params)
        self._adam = FlatAdam(self._flat, learning_rate, betas, eps)
        self._multiplier = self._flat.parameters[0].new_tensor(multiplier)
        self._penalty, self._growth, self._penalty_max = float(penalty), penalty_growth, penalty_max

    def step(
        self,
        objective: Float[Tensor, "..."],
        cost_return: Float[Tensor, "..."],
        budget: float | int | Float[Tensor, "..."],
    ) -> LagrangianStep:
        """Take one Adam step on the augmented Lagrangian and update the multiplier.

        Args:
            objective: differentiable scalar to maximise.
            cost_return: differentiable, a scalar or ``[constraints]``, to keep below the budget.
            budget: in the unit of the cost return, one for all or ``[constraints]``.

        Returns:
            Metrics of the step.

        Raises:
            ValueError: a value or gradient is not finite, or shapes do not fit.
        """
        slack = checked_slack(objective, cost_return, budget)
        multiplier = (self._multiplier - self._penalty * slack).clamp(min=0.0)
        loss = (multiplier * cost_return.reshape(-1)).sum() - objective
        norm, length = _descend(loss, self._flat, self._adam)
        self._multiplier = multiplier
        grown = min(self._penalty * (1.0 + self._growth), self._penalty_max)
        self._penalty = max(self._penalty, grown)
        return _report(slack, cost_return, multiplier, norm, length)

    def state_dict(self) -> dict[str, Any]:
        """Copy what a resumed run needs: multipliers, penalty and Adam's moments."""
        return {
            "multiplier": self._multiplier.clone(),
            "penalty": self._penalty,
            "adam": self._adam.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a ``state_dict`` exactly.

        Raises:
            ValueError: the state is not one of ``AugmentedLagrangian``, or for other parameters.
        """
        require_keys(state, self.state_dict())
        self._adam.load_state_dict(state["adam"])
        self._multiplier = state["multiplier"].to(self._multiplier, copy=True)
        self._penalty = float(state["penalty"])


class PIDLagrangian(LearningRate):
    r"""Maximise an objective under constraints with a multiplier set by a PID controller.

    .. math::
        \delta_t &= J_c - d, \qquad I_t = \max(0, I_{t-1} + \delta_t) \\
        \lambda_t &= \max\{0,\; K_P \delta_t + K_I I_t
                     + K_D \max(0, J_{c,t} - J_{c,t-1})\} \\
        x &\leftarrow \text{Adam ascent on } (J - \lambda_t J_c) / (1 + \lambda_t)

    (Stooke, Achiam and Abbeel 2020, algorithm 2; with several constraints the divisor is one plus
    the sum.) The proportional term damps the integral's overshoot. Without it and the derivative
    this is the plain Lagrangian method.

    Args:
        params: parameters to optimise; those that require no gradient are left out.
        learning_rate: of the inner Adam, > 0.
        proportional_gain: K_P >= 0, in units of objective / cost return squared, as the others.
        integral_gain: K_I >= 0, per step.
        derivative_gain: K_D >= 0.
        betas: Adam's decay rates, each in [0, 1).
        eps: Adam's epsilon, > 0.

    Raises:
        ValueError: an argument is out of its range.

    Example:
        >>> x = nn.Parameter(torch.zeros(()))
        >>> optimizer = PIDLagrangian([x], learning_rate=0.02)
        >>> for _ in range(1500):  # maximise -(x - 2)^2 subject to x <= 1: x = 1, multiplier 2
        ...     step = optimizer.step(-((x - 2) ** 2), x, 1.0)
        >>> round(x.item(), 2), round(step.multiplier.item(), 1)
        (1.0, 2.0)
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        *,
        learning_rate: float | int = 3e-4,
        proportional_gain: float | int = 1.0,
        integral_gain: float | int = 0.02,
        derivative_gain: float | int = 0.0,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float | int = 1e-8,
    ) -> None:
        gains = (proportional_gain, integral_gain, derivative_gain)
        for name, gain in zip(("proportional", "integral", "derivative"), gains, strict=True):
            require(f"{name}_gain", gain, ">= 0", 0 <= gain < math.inf)
        self._gains = gains
        self._flat = FlatParameters(params)
        self._adam = FlatAdam(self._flat, learning_rate, betas, eps)
        self._integral = self._flat.parameters[0].new_tensor(0.0)
        self._previous_cost: Tensor | None = None

    def step(
        self,
        objective: Float[Tensor, "..."],
        cost_return: Float[Tensor, "..."],
        budget: float | int | Float[Tensor, "..."],
    ) -> LagrangianStep:
        """Update the multiplier with the controller and take one Adam step under it.

        Args:
            objective: differentiable scalar to maximise.
            cost_return: differentiable, a scalar or ``[constraints]``, to keep below the budget.
            budget: in the unit of the cost return, one for all or ``[constraints]``.

        Returns:
            Metrics of the step.

        Raises:
            ValueError: a value or gradient is not finite, or shapes do not fit.
        """
        slack = checked_slack(objective, cost_return, budget)
        costs = cost_return.reshape(-1)
        current = costs.detach().clone()
        previous = current if self._previous_cost is None else self._previous_cost
        integral = (self._integral - slack).clamp(min=0.0)
        proportional, integral_gain, derivative = self._gains
        multiplier = (
            -proportional * slack
            + integral_gain * integral
            + derivative * (current - previous).clamp(min=0.0)
        ).clamp(min=0.0)
        loss = ((multiplier * costs).sum() - objective) / (1.0 + multiplier.sum())
        norm, length = _descend(loss, self._flat, self._adam)
        self._integral, self._previous_cost = integral, current
        return _report(slack, cost_return, multiplier, norm, length)

    def state_dict(self) -> dict[str, Any]:
        """Copy what a resumed run needs: integral, last cost return and Adam's moments."""
        previous = self._previous_cost
        return {
            "integral": self._integral.clone(),
            "previous_cost": None if previous is None else previous.clone(),
            "adam": self._adam.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a ``state_dict`` exactly.

        Raises:
            ValueError: the state is not one of ``PIDLagrangian``, or for other parameters.
        """
        require_keys(state, self.state_dict())
        self._adam.load_state_dict(state["adam"])
        self._integral = state["integral"].to(self._integral, copy=True)
        previous = state["previous_cost"]
        self._previous_cost = None if previous is None else previous.to(self._integral, copy=True)


def _descend(loss: Tensor, flat: FlatParameters, adam: FlatAdam) -> tuple[Tensor, Tensor]:
    """Take one Adam step; return the gradient's norm and the step's length."""
    gradient = flat.gradient(loss)
    norm = finite_norm(gradient)
    change = adam.move(gradient)
    flat.add_(change)
    return norm, vector_norm(change)


def _report(
    slack: Tensor, cost_return: Tensor, multiplier: Tensor, norm: Tensor, length: Tensor
) -> LagrangianStep:
    shape = cost_return.shape
    feasible = bool((slack > 0).all())
    one = torch.ones_like(norm)
    return LagrangianStep(
        slack.view(shape), one, feasible, multiplier.clone().view(shape), norm, length
    )
