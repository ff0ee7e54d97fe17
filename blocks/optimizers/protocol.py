"""What every constrained optimiser promises: an ablation exchanges one object for another."""

from typing import Any, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor


@runtime_checkable
class ConstrainedStep(Protocol):
    """What one step did. Optimisers add fields of their own: eta, branch, multiplier, ..."""

    @property
    def slack(self) -> Tensor:
        """Budget minus cost return before the step; a scalar or ``[constraints]``."""
        ...

    @property
    def step_size(self) -> Tensor:
        """Scalar: the factor on the direction stepped along."""
        ...

    @property
    def feasible(self) -> bool:
        """Whether every slack was above 0 before the step."""
        ...

    @property
    def grad_norm(self) -> Tensor:
        """Scalar: norm of the gradient that was followed."""
        ...

    @property
    def step_length(self) -> Tensor:
        """Scalar: distance the parameters moved."""
        ...


class ConstrainedOptimizer(Protocol):
    """Maximises an objective under constraints, one step at a time.

    Built on the parameters that it moves. ``learning_rate`` can be set, for a schedule.
    """

    learning_rate: float

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
            What happened. An infeasible iterate is such a value, not an exception.

        Raises:
            ValueError: a value or gradient is not finite, or shapes do not fit.
        """
        ...

    def state_dict(self) -> dict[str, Any]:
        """All that a resumed run needs."""
        ...

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        """Continue exactly where ``state_dict`` was taken."""
        ...
