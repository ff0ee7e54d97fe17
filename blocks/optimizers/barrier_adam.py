"""Adam on the log barrier: an interior-point method without LBSGD's guarantee (ablations).

The barrier pushes away from the constraint, but nothing limits the length of a step.
"""

import math
from collections.abc import Iterable
from typing import Any, NamedTuple, Protocol, runtime_checkable

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


@runtime_checkable
class Scale(Protocol):
    """A factor on the barrier's gradient, such as ``lbsgd_step_size`` with bound constants."""

    def __call__(
        self, slack: Tensor, slope: Tensor, grad_norm: Tensor, /, *, eta: float
    ) -> Tensor: ...


def unscaled(slack: Tensor, slope: Tensor, grad_norm: Tensor, /, *, eta: float) -> Tensor:
    """Return one: the gradient stays as it is."""
    return torch.ones_like(grad_norm)


class BarrierAdamStep(NamedTuple):
    """What one step of ``BarrierAdam`` did."""

    slack: Tensor  # [constraints], or a scalar as the cost return was
    step_size: Tensor  # scalar: the factor on the gradient before Adam (1 in a recovery)
    feasible: bool  # whether every slack was > 0 before the step
    eta: float  # the barrier's weight in this step
    grad_norm: Tensor  # scalar: norm of the unscaled gradient (in a recovery, the violated costs')
    step_length: Tensor  # scalar: distance the parameters moved


class BarrierAdam(LearningRate):
    r"""Maximise the log barrier with Adam; nothing limits its steps.

    Feasible (every slack a_i > 0): Adam's step for
    :math:`\gamma g,\; g = -\nabla J + \eta \sum_i \nabla J_{c,i} / a_i`, then
    eta <- max(eta * eta_decay, eta_min). The factor gamma is

    - 1 without ``scale``: a log barrier and an ordinary optimiser;
    - LBSGD's step size with ``scale=partial(lbsgd_step_size, ...)``: the rule *before* Adam, as in
      the public code of LBSGD for deep policies and its derivatives. Adam normalises its gradients,
      so a constant gamma has no effect and the feasibility bound is lost. Only the deviation of
      gamma from its average in Adam's moments reaches the step and, where gamma g is as small as
      ``eps``, a shorter step. ``LBSGD`` with ``direction="adam"`` shortens Adam's step itself.

    Infeasible: the same recovery as in ``LBSGD``. (In that public code the recovery shares the
    barrier's Adam; here it does not.)

    Args:
        params: parameters to optimise; those that require no gradient are left out.
        eta: weight of the barrier, >= 0, in units of the objective.
        eta_decay: factor on eta per feasible step, in (0, 1].
        eta_min: lower limit of eta's decay, in [0, eta].
        scale: maps slack, \|slope\| along the gradient, its norm and eta to gamma >= 0.
        learning_rate: of Adam on the barrier, > 0.
        recovery_learning_rate: of recovery steps, > 0.
        betas: decay rates of both Adams, each in [0, 1).
        eps: epsilon of both Adams, > 0.

    Raises:
        ValueError: an argument is out of its range.

    Example:
        >>> x = nn.Parameter(torch.zeros(()))
        >>> optimizer = BarrierAdam([x], eta=0.1, learning_rate=0.001)
        >>> for _ in range(1500):  # maximise -(x - 2)^2 subject to x <= 1
        ...     step = optimizer.step(-((x - 2) ** 2), x, 1.0)
        >>> round(x.item(), 2)  # inside, where 2 (2 - x) (1 - x) = eta
        0.95
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        *,
        eta: float | int,
        eta_decay: float | int = 1.0,
        eta_min: float | int = 0.0,
        scale: Scale = unscaled,
        learning_rate: float | int = 3e-4,
        recovery_learning_rate: float | int = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float | int = 1e-8,
    ) -> None:
        require("eta", eta, "finite and >= 0", 0 <= eta < math.inf)
        require("eta_decay", eta_decay, "in (0, 1]", 0 < eta_decay <= 1)
        require("eta_min", eta_min, "in [0, eta]", 0 <= eta_min <= eta)
        self.eta = float(eta)
        self._eta_decay, self._eta_min = float(eta_decay), float(eta_min)
        self._scale = scale
        self._flat = FlatParameters(params)
        self._adam = FlatAdam(self._flat, learning_rate, betas, eps)
        self._recovery = Recovery(self._flat, recovery_learning_rate, betas, eps)

    def step(
        self,
        objective: Float[Tensor, "..."],
        cost_return: Float[Tensor, "..."],
        budget: float | int | Float[Tensor, "..."],
    ) -> BarrierAdamStep:
        """Take one step on the parameters and keep the autograd graph.

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
        costs, eta = cost_return.reshape(-1), self.eta
        feasible = bool((slack > 0).all())
        if feasible:
            change, factor, norm = self._barrier_move(objective, costs, slack)
            self._recovery.active = False
            self.eta = max(eta * self._eta_decay, self._eta_min)
        else:
            change, norm = self._recovery.move(costs, slack)
            factor = torch.ones_like(norm)
        self._flat.add_(change)
        return BarrierAdamStep(
            slack.view_as(cost_return),
            factor,
            feasible,
            eta,
            norm,
            vector_norm(change),
        )

    def state_dict(self) -> dict[str, Any]:
        """Copy what a resumed run needs: eta and Adam's moments."""
        return {
            "eta": self.eta,
            "recovering": self._recovery.active,
            "adam": self._adam.state_dict(),
            "recovery": self._recovery.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a ``state_dict`` exactly, learning rates included, as in torch.

        Raises:
            ValueError: the state is not one of ``BarrierAdam``, or for other parameters.
        """
        require_keys(state, self.state_dict())
        self._adam.load_state_dict(state["adam"])
        self._recovery.load_state_dict(state["recovery"], active=bool(state["recovering"]))
        self.eta = float(state["eta"])

    def _barrier_move(
        self, objective: Tensor, costs: Tensor, slack: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        objective_gradient, *rest = self._flat.gradients(objective, *costs)
        cost_gradients = torch.stack(rest)
        gradient = (self.eta / slack) @ cost_gradients - objective_gradient
        norm = finite_norm(gradient)
        along = (cost_gradients @ gradient).abs() / norm.clamp(min=torch.finfo(norm.dtype).tiny)
        factor = self._scale(slack, along, norm, eta=self.eta)
        return self._adam.move(factor * gradient), factor, norm
