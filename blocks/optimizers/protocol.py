"""Protocols of constrained optimisers: an ablation exchanges one optimiser for another."""

from typing import Any, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor


@runtime_checkable
class ConstrainedStep(Protocol):
    """Metrics of one step; optimisers add further ones: eta, branch, multiplier, ..."""

    @property
    def slack(self) -> Tensor:
        """Budget minus cost return before the step; a scalar or ``[constraints]``."""
        ...

    @property
    def step_size(self) -> Tensor:
        """Scalar: the factor on the step's direction."""
        ...

    @property
    def feasible(self) -> bool:
        """Whether every slack was above 0 before the step."""
        ...

    @property
    def grad_norm(self) -> Tensor:
        """Scalar: norm of the gradient that the step descends."""
        ...

    @property
    def step_length(self) -> Tensor:
        """Scalar: distance the parameters moved."""
        ...


class ConstrainedOptimizer(Protocol):
    """Maximises an objective under constraints, one step at a time.

    Its constructor takes the parameters. ``learning_rate`` is settable, for a schedule.
    """

    @property
    def learning_rate(self) -> float:
        """Length scale of a step; settable, for a schedule."""
        ...

    @learning_rate.setter
    def learning_rate(self, value: float) -> None: ...

    def step(
        self,
        objective: Float[Tensor, ""],
        cost_return: Float[Tensor, "..."],
        budget: float | Float[Tensor, "..."],
    ) -> ConstrainedStep:
        """Take one step on the parameters.

        Args:
            objective: differentiable scalar to maximise.
            cost_return: differentiable, a scalar or ``[constraints]``, to keep below the budget.
            budget: in the unit of the cost return, one for all or ``[constraints]``.

        Returns:
            Metrics of the step. An infeasible iterate is reported there, not raised.

        Raises:
            ValueError: a value or gradient is not finite, or shapes do not fit.
        """
        ...

    def state_dict(self) -> dict[str, Any]:
        """Copy what a resumed run needs."""
        ...

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        """Restore a ``state_dict`` exactly."""
        ...
