"""LBSGD: steps on the log barrier, short enough that a feasible policy stays feasible.

After Usmanova et al., "Log Barriers for Safe Black-box Optimization with Application to Safe
Reinforcement Learning" (JMLR 2024), the optimiser of CERL (arXiv 2405.05890). The step-size rule
is a pure function in ``step_size``; this module holds the optimiser. The symbols are the same.
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
    vector_norm,
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


class Watched(NamedTuple):
    """Cost returns that limit a step without being in the barrier; ``LBSGD.watch`` makes one."""

    slack: Float[Tensor, " watched"]
    gradient: Float[Tensor, "watched parameter"]  # of the cost returns, by the flat parameters


class LBSGDStep(NamedTuple):
    """What one step of ``LBSGD`` did."""

    slack: Tensor  # like cost_return: [constraints] or a scalar; ``slack_error`` subtracted
    step_size: Tensor  # scalar: the factor on -g, or on Adam's step (then in [0, 1])
    feasible: bool  # whether every slack was > 0 before the step
    eta: float  # the barrier's weight in this step
    slope: Tensor  # like slack: d cost return / d length along the step (0 in a recovery)
    grad_norm: Tensor  # scalar: |g|, or in a recovery the norm of the violated costs' gradient
    step_length: Tensor  # scalar: distance the parameters moved
    branch: Branch  # the limit that set the length: see ``LBSGD``
    constraint_smoothness: Tensor  # like slack: M_i of this step (0 in a recovery)


class LBSGD(LearningRate):
    r"""Maximise an objective under constraints without leaving the feasible set.

    Feasible (every slack a_i > 0): a step along the gradient of the log barrier,
    :math:`g = -\nabla J + \eta \sum_i \nabla J_{c,i} / a_i`. With direction

    - ``"gradient"``, the theory: -gamma g with gamma from ``lbsgd_step_size``;
    - ``"adam"``, in practice: Adam's step u for g, *then* shortened to the smallest
      ``safe_step_length`` along u. (Scaling g before Adam has no effect, since Adam divides by the
      gradient's scale.) Adam's learning rate replaces 1 / M_2; ``objective_smoothness`` is not
      used.

    Both keep a_i' >= a_i / 2 under true constants. A *worst case* over members is not smooth: its
    slope is the active member's, and bounds nothing where another takes over. Hand its members
    over as ``watched``: then every one of them keeps half of its slack, and so does the worst.

    Then eta <- max(eta * eta_decay, eta_min). The
    step's ``branch`` names the limit that set its length: ``"slack"`` is the feasibility bound,
    ``"curvature"`` is 1 / M_2, ``"full"`` is Adam's step without a limit.

    Infeasible (any a_i <= 0): a recovery step (``branch`` is ``"recovery"``). A separate Adam
    minimises the sum of the violated cost returns. Its moments restart with every recovery: the
    scale of an older one would make its steps too short. eta stays. Satisfied constraints are
    ignored meanwhile.

    Args:
        params: parameters to optimise; those that require no gradient are left out.
        eta: weight of the barrier, >= 0, in units of the objective.
        objective_smoothness: M_0 >= 0, or an estimator; at 0 nothing limits a step where every cost
            is flat.
        constraint_smoothness: M_i >= 0, one for all or ``[constraints]``, or an estimator. Do not
            share an estimator between arguments or optimisers.
        eta_decay: factor on eta per feasible step, in (0, 1].
        eta_min: lower limit of eta's decay, in [0, eta].
        direction: ``"gradient"`` or ``"adam"``.
        learning_rate: of the Adam direction, > 0.
        recovery_learning_rate: of recovery steps, > 0.
        betas: decay rates of both Adams, each in [0, 1).
        eps: epsilon of both Adams, > 0.

    Raises:
        ValueError: an argument is out of its range.

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
        watched: Watched | None = None,
    ) -> LBSGDStep:
        """Take one step on the parameters and keep the autograd graph.

        Args:
            objective: differentiable scalar to maximise.
            cost_return: differentiable, a scalar or ``[constraints]``, to keep below the budget.
            budget: in the unit of the cost return, one for all or ``[constraints]``.
            slack_error: >= 0, bound on the overestimate of the slack: the step uses
                slack - slack_error. One for all or ``[constraints]``.
            slope_error: >= 0, bound on the norm of the error in a cost return's gradient: the step
                uses slope + slope_error. One for all or ``[constraints]``.
            watched: cost returns that are to keep half of their slack too: the members behind a
                worst case. They limit a feasible step; a recovery ignores them. Where one has no
                slack left, a feasible step has length 0.

        Returns:
            Metrics of the step. An infeasible iterate is reported there, not raised.

        Raises:
            ValueError: a value or gradient is not finite, or shapes do not fit; parameters and
                state do not change then.
        """
        slack = checked_slack(objective, cost_return, budget) - slack_error
        require("slack_error", slack_error, "not NaN", not slack.isnan().any())
        if watched is not None:
            _check_watched(watched, self._flat.size)
        costs, eta = cost_return.reshape(-1), self.eta
        feasible = bool((slack > 0).all())
        if feasible:
            move = self._barrier_move(objective, costs, slack, slope_error, watched)
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
            step_length=vector_norm(move.change),
            branch=move.branch,
            constraint_smoothness=move.constraint_smoothness.expand(len(costs)).view_as(
                cost_return
            ),
        )

    def watch(
        self, cost_return: Float[Tensor, " watched"], budget: float | int | Float[Tensor, "..."]
    ) -> Watched:
        """Prepare cost returns for ``step(watched=...)``, with a backward pass for each of them.

        Args:
            cost_return: differentiable, ``[watched]``, such as one for each member.
            budget: in their unit, one for all or ``[watched]``.
        """
        gradients = self._flat.gradients(*cost_return)
        return Watched((budget - cost_return).detach(), torch.stack(gradients))

    def state_dict(self) -> dict[str, Any]:
        """Copy what a resumed run needs: eta, estimates and Adam's moments."""
        return {
            "eta": self.eta,
            "recovering": self._recovery.active,
            "objective_smoothness": self._objective_smoothness.state_dict(),
            "constraint_smoothness": self._constraint_smoothness.state_dict(),
            "adam": self._adam.state_dict(),
            "recovery": self._recovery.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a ``state_dict`` exactly, learning rates included, as in torch.

        Raises:
            ValueError: the state is not one of ``LBSGD``, or for other parameters.
        """
        require_keys(state, self.state_dict())
        self._adam.load_state_dict(state["adam"])
        self._recovery.load_state_dict(state["recovery"], active=bool(state["recovering"]))
        self._objective_smoothness.load_state_dict(state["objective_smoothness"])
        self._constraint_smoothness.load_state_dict(state["constraint_smoothness"])
        self.eta = float(state["eta"])

    def _barrier_move(
        self,
        objective: Tensor,
        costs: Tensor,
        slack: Tensor,
        slope_error: float | int | Tensor,
        watched: Watched | None,
    ) -> _Move:
        objective_gradient, *rest = self._flat.gradients(objective, *costs)
        cost_gradients = torch.stack(rest)
        gradient = (self.eta / slack) @ cost_gradients - objective_gradient
        norm, count = finite_norm(gradient), len(costs)
        # What limits the step: the constraints, and behind them what is watched.
        limits, slopes_of = slack, cost_gradients
        if watched is not None:
            limits = torch.cat([slack, watched.slack])
            slopes_of = torch.cat([cost_gradients, watched.gradient])
        error = _one_each(slope_error, limits, count)
        smoothness, of_objective = self._constants(slopes_of, objective_gradient)
        if self._direction == "adam":
            whole = self._adam.move(gradient)
            length = vector_norm(whole)
            slope = slopes_of @ _unit(whole, length)
            safe = safe_step_length(limits, slope + error, constraint_smoothness=smoothness)
            share = (safe.min() / length).clamp(max=1.0)  # x / 0 is inf: nothing to shorten
            branch = "slack" if share < 1.0 else "full"
            return _Move(share * whole, share, slope[:count], norm, branch, smoothness[:count])
        slope = slopes_of @ _unit(-gradient, norm)
        rule: dict[str, float | Tensor] = {
            "eta": self.eta,
            "objective_smoothness": of_objective,
            "constraint_smoothness": smoothness[:count],
        }
        bound = slope.abs() + error
        step_size = lbsgd_step_size(slack, bound[:count], norm, **rule)
        # With |g| = 0 the feasibility bound is infinite, which leaves 1 / M_2.
        curvature_bound = lbsgd_step_size(slack, bound[:count], 0.0, **rule)
        if watched is not None and len(watched.slack):
            safe = safe_step_length(
                watched.slack, bound[count:], constraint_smoothness=smoothness[count:]
            )
            # 0 / 0: without a gradient there is no step to limit.
            step_size = torch.minimum(step_size, (safe.min() / norm).nan_to_num(nan=0.0))
        branch = "slack" if step_size < curvature_bound else "curvature"
        return _Move(
            -step_size * gradient, step_size, slope[:count], norm, branch, smoothness[:count]
        )

    def _constants(self, gradients: Tensor, objective_gradient: Tensor) -> tuple[Tensor, Tensor]:
        """Return M_i for each gradient and M_0; M_0 is 0 with Adam's direction, which ignores it.

        Raises:
            ValueError: they do not fit; the estimators do not change then.
        """
        here = self._flat.values()
        estimators = (self._constraint_smoothness, self._objective_smoothness)
        before = [estimator.state_dict() for estimator in estimators]
        try:
            constants = estimators[0].update(here, gradients)
            _require_fit("constraint_smoothness", constants, len(gradients))
            of_objective = torch.zeros_like(here[0])
            if self._direction == "gradient":
                of_objective = estimators[1].update(here, objective_gradient[None])
                _require_fit("objective_smoothness", of_objective, 1)
        except ValueError:
            for estimator, state in zip(estimators, before, strict=True):
                estimator.load_state_dict(state)
            raise
        return constants.expand(len(gradients)), of_objective.reshape(())

    def _recovery_move(self, costs: Tensor, slack: Tensor) -> _Move:
        change, norm = self._recovery.move(costs, slack)
        nothing = torch.zeros_like(slack)
        return _Move(change, torch.ones_like(norm), nothing, norm, "recovery", nothing)

    def _smoothness(self, name: str, value: float | int | Tensor | Smoothness) -> Smoothness:
        """Return an estimator unchanged, and a number or tensor as known constants."""
        if isinstance(value, Smoothness):
            return value
        constants = torch.as_tensor(value).to(self._flat.parameters[0])
        return KnownSmoothness(constants, f"{name}_smoothness")


def _require_fit(name: str, constants: Tensor, functions: int) -> None:
    if constants.numel() not in (1, functions):
        raise ValueError(
            f"{name}: got {constants.numel()} constants; allowed one for all or one for each of "
            f"{functions} functions, what is watched included; give the largest"
        )


def _check_watched(watched: Watched, size: int) -> None:
    """Check that there is a slack and a whole gradient for each cost return."""
    slack, gradient = watched
    if slack.dim() != 1:
        raise ValueError(
            f"watched.slack: got shape {list(slack.shape)}; allowed [watched]; give one slack for "
            "each cost return"
        )
    if gradient.shape != (len(slack), size):
        raise ValueError(
            f"watched.gradient: got shape {list(gradient.shape)}; allowed "
            f"{[len(slack), size]}; give each cost return's gradient by all parameters, flat"
        )
    for name, value in (("slack", slack), ("gradient", gradient)):
        if not value.isfinite().all():
            raise ValueError(
                f"watched.{name}: got NaN or infinity; allowed finite numbers; look for NaN in the "
                "losses"
            )


def _unit(vector: Tensor, norm: Tensor) -> Tensor:
    return vector / norm.clamp(min=torch.finfo(norm.dtype).tiny)


def _one_each(error: float | int | Tensor, limits: Tensor, count: int) -> Tensor:
    """Return an error for each limit; what is watched has the largest of the constraints'."""
    errors = torch.as_tensor(error).to(limits).expand(count)
    return torch.cat([errors, errors.max().expand(len(limits) - count)])
