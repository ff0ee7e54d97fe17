"""LBSGD: steps on the log barrier, short enough that a feasible policy stays feasible.

After Usmanova et al., "Log Barriers for Safe Black-box Optimization with Application to Safe
Reinforcement Learning" (JMLR 2024), the optimiser of CERL (arXiv 2405.05890). The step-size rule
is a pure function in `lbsgd_rule`; here is the optimiser around it. Symbols as there.
"""

import math
from collections.abc import Iterable
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from blocks.optimizers.flat_parameters import (
    FlatAdam,
    FlatParameters,
    LearningRate,
    Recovery,
    checked_slack,
    finite_norm,
    require,
    require_keys,
)
from blocks.optimizers.smoothness import KnownSmoothness, Smoothness
from blocks.optimizers.step_size import lbsgd_step_size, safe_step_length

Branch = Literal["slack", "curvature", "full", "recovery"]


class _Move(NamedTuple):
    change: Tensor  # of the parameters, flat
    step_size: Tensor
    slope: Tensor
    grad_norm: Tensor
    branch: Branch
    constraint_smoothness: Tensor


class LBSGDStep(NamedTuple):
    """What one step of `LBSGD` did."""

    slack: Tensor  # [constraints], or a scalar as the cost return was; less `slack_error`
    step_size: Tensor  # scalar: the factor on -g, or on Adam's step (then in [0, 1])
    feasible: bool  # whether every slack was > 0 before the step
    eta: float  # the barrier's weight in this step
    slope: Tensor  # like slack: d cost return / d length along the step (0 in a recovery)
    grad_norm: Tensor  # scalar: |g|, or in a recovery the norm of the violated costs' gradient
    step_length: Tensor  # scalar: distance the parameters moved
    branch: Branch  # what decided the length: see `LBSGD`
    constraint_smoothness: Tensor  # like slack: M_i of this step (0 in a recovery)


class LBSGD(LearningRate):
    r"""Maximise an objective under constraints without leaving the feasible set on the way.

    Feasible (every slack a_i > 0): a step along the gradient of the log barrier,
    :math:`g = -\nabla J + \eta \sum_i \nabla J_{c,i} / a_i`. With direction

    - `"gradient"`, the theory: -gamma g with gamma from `lbsgd_step_size`;
    - `"adam"`, in practice: Adam's step u for g, *then* shortened to the smallest
      `safe_step_length` along u itself. (Scaling g before Adam changes nothing, since Adam divides
      by the gradient's scale.) Adam's learning rate takes the place of 1 / M_2;
      `objective_smoothness` is not used.

    Both keep a_i' >= a_i / 2 under true constants. Then eta <- max(eta * eta_decay, eta_min). The
    step's `branch` says what decided its length: `"slack"` the feasibility bound, `"curvature"`
    1 / M_2, `"full"` Adam alone.

    Infeasible (any a_i <= 0): a recovery step, Adam on the sum of the violated cost returns with
    moments of its own that start afresh whenever a recovery begins, so that it doesn't crawl in
    the scale of an older one (`branch` is `"recovery"`). eta stays. Satisfied constraints are not
    watched meanwhile.

    Args:
        params: the parameters to optimise; those that require no gradient are left out.
        eta: weight of the barrier, >= 0, in units of the objective.
        objective_smoothness: M_0 >= 0, or an estimator; at 0 nothing limits a step where every cost
            is flat.
        constraint_smoothness: M_i >= 0, one for all or `[constraints]`, or an estimator. One
            estimator serves one argument of one optimiser.
        eta_decay: factor on eta per feasible step, in (0, 1].
        eta_min: eta does not decay below, in [0, eta].
        direction: `"gradient"` or `"adam"`.
        learning_rate: of the Adam direction, > 0.
        recovery_learning_rate: of recovery steps, > 0.
        betas: Adam's decay rates, each in [0, 1), for both.
        eps: Adam's epsilon, > 0, for both.

    Raises:
        ValueError: if an argument is out of its range.

    Example:
        >>> x = nn.Parameter(torch.zeros(()))
        >>> optimizer = LBSGD([x], eta=0.01, objective_smoothness=2.0, constraint_smoothness=0.0)
        >>> for _ in range(300):  # maximise -(x - 2)^2 subject to x <= 1
        ...     step = optimizer.step(-((x - 2) ** 2), x, 1.0)
        ...     assert step.feasible
        >>> round(x.item(), 3)  # just inside: the gap is eta / 2
        0.995
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        *,
        eta: float | int,
        objective_smoothness: float | int | Smoothness,
        constraint_smoothness: float | int | Float[Tensor, "..."] | Smoothness,
        eta_decay: float | int = 1.0,
        eta_min: float | int = 0.0,
        direction: Literal["gradient", "adam"] = "gradient",
        learning_rate: float | int = 3e-4,
        recovery_learning_rate: float | int = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float | int = 1e-8,
    ) -> None:
        self._flat = FlatParameters(params)
        directions = ("gradient", "adam")
        require("eta", eta, "finite and >= 0", 0 <= eta < math.inf)
        require("eta_decay", eta_decay, "in (0, 1]", 0 < eta_decay <= 1)
        require("eta_min", eta_min, "in [0, eta]", 0 <= eta_min <= eta)
        require("direction", direction, f"one of {directions}", direction in directions)
        self.eta = float(eta)
        self._eta_decay, self._eta_min = float(eta_decay), float(eta_min)
        self._direction = direction
        self._objective_smoothness = self._smoothness("objective", objective_smoothness)
        self._constraint_smoothness = self._smoothness("constraint", constraint_smoothness)
        self._adam = FlatAdam(self._flat, learning_rate, betas, eps)
        self._recovery = Recovery(self._flat, recovery_learning_rate, betas, eps)

    def step(
        self,
        objective: Float[Tensor, "..."],
        cost_return: Float[Tensor, "..."],
        budget: float | int | Float[Tensor, "..."],
        *,
        slack_error: float | int | Float[Tensor, "..."] = 0.0,
        slope_error: float | int | Float[Tensor, "..."] = 0.0,
    ) -> LBSGDStep:
        r"""Take one step on the parameters; the graph is left intact for other uses.

        Args:
            objective: differentiable scalar to maximise.
            cost_return: differentiable, a scalar or `[constraints]`, to keep below the budget.
            budget: same unit, one for all or `[constraints]`.
            slack_error: >= 0, how much too large the slack may be: the step relies on
                slack - slack_error. One for all or `[constraints]`.
            slope_error: >= 0, norm of the error a cost return's gradient may have: the step
                relies on slope + slope_error. One for all or `[constraints]`.

        Returns:
            What happened. An infeasible iterate is such a value, not an exception.

        Raises:
            ValueError: if a value or gradient is not finite, or shapes do not fit; parameters and
                state are then as before.
        """
        slack = checked_slack(objective, cost_return, budget) - slack_error
        costs, eta = cost_return.reshape(-1), self.eta
        feasible = bool((slack > 0).all())
        if feasible:
            move = self._barrier_move(objective, costs, slack, slope_error)
            self._recovery.active = False
            self.eta = max(eta * self._eta_decay, self._eta_min)
        else:
            move = self._recovery_move(costs, slack)
        self._flat.add_(move.change)
        return LBSGDStep(
            slack=slack.view_as(cost_return),
            step_size=move.step_size,
            feasible=feasible,
            eta=eta,
            slope=move.slope.view_as(cost_return),
            grad_norm=move.grad_norm,
            step_length=torch.linalg.vector_norm(move.change),
            branch=move.branch,
            constraint_smoothness=move.constraint_smoothness.expand(len(costs)).view_as(
                cost_return
            ),
        )

    def state_dict(self) -> dict[str, Any]:
        """A copy of all that a resumed run needs: eta, estimates and Adam's moments."""
        return {
            "eta": self.eta,
            "recovering": self._recovery.active,
            "objective_smoothness": self._objective_smoothness.state_dict(),
            "constraint_smoothness": self._constraint_smoothness.state_dict(),
            "adam": self._adam.state_dict(),
            "recovery": self._recovery.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue exactly where `state_dict` was taken; learning rates come with it, as in torch.

        Raises:
            ValueError: if the state is not one of `LBSGD`, or for other parameters.
        """
        require_keys(state, self.state_dict())
        self._adam.load_state_dict(state["adam"])
        self._recovery.load_state_dict(state["recovery"], active=bool(state["recovering"]))
        self._objective_smoothness.load_state_dict(state["objective_smoothness"])
        self._constraint_smoothness.load_state_dict(state["constraint_smoothness"])
        self.eta = float(state["eta"])

    def _barrier_move(
        self, objective: Tensor, costs: Tensor, slack: Tensor, slope_error: Any
    ) -> _Move:
        objective_gradient, *rest = self._flat.gradients(objective, *costs)
        cost_gradients = torch.stack(rest)
        gradient = (self.eta / slack) @ cost_gradients - objective_gradient
        norm = finite_norm(gradient)
        here = self._flat.values()
        smoothness = self._constraint_smoothness.update(here, cost_gradients)
        if self._direction == "adam":
            whole = self._adam.move(gradient)
            length = torch.linalg.vector_norm(whole)
            slope = cost_gradients @ _unit(whole, length)
            safe = safe_step_length(slack, slope + slope_error, constraint_smoothness=smoothness)
            share = (safe.min() / length).clamp(max=1.0)  # x / 0 is inf: nothing to shorten
            branch = "slack" if share < 1.0 else "full"
            return _Move(share * whole, share, slope, norm, branch, smoothness)
        slope = cost_gradients @ _unit(-gradient, norm)
        of_objective = self._objective_smoothness.update(here, objective_gradient[None])
        rule = {
            "eta": self.eta,
            "objective_smoothness": of_objective.reshape(()),
            "constraint_smoothness": smoothness,
        }
        bound = slope.abs() + slope_error
        step_size = lbsgd_step_size(slack, bound, norm, **rule)
        # With |g| = 0 the rule's other bound is infinite, which leaves 1 / M_2.
        curvature_bound = lbsgd_step_size(slack, bound, 0.0, **rule)
        branch = "slack" if step_size < curvature_bound else "curvature"
        return _Move(-step_size * gradient, step_size, slope, norm, branch, smoothness)

    def _recovery_move(self, costs: Tensor, slack: Tensor) -> _Move:
        change, norm = self._recovery.move(costs, slack)
        nothing = torch.zeros_like(slack)
        return _Move(change, torch.ones_like(norm), nothing, norm, "recovery", nothing)

    def _smoothness(self, name: str, value: Any) -> Smoothness:
        """An estimator as it is; a number or tensor as known constants."""
        if isinstance(value, Smoothness):
            return value
        constants = torch.as_tensor(value).to(self._flat.parameters[0])
        return KnownSmoothness(constants, f"{name}_smoothness")


def _unit(vector: Tensor, norm: Tensor) -> Tensor:
    return vector / norm.clamp(min=torch.finfo(norm.dtype).tiny)
