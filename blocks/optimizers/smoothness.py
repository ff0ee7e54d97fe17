"""Smoothness constants (of gradients): known ones, and estimates from gradients seen on the way."""

import math
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor


@runtime_checkable
class Smoothness(Protocol):
    """What an optimiser asks for its constants, at each iterate."""

    def update(
        self,
        parameters: Float[Tensor, " parameter"],
        gradients: Float[Tensor, "function parameter"],
    ) -> Float[Tensor, "..."]:
        """The constants for the step from this iterate, one for all or `[function]`."""
        ...

    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class KnownSmoothness:
    """Constants that are known and stay.

    Args:
        constants: M >= 0, one for all functions or `[function]`.
        name: of the argument they came in, for the error.

    Raises:
        ValueError: if a constant is negative or not finite.
    """

    def __init__(self, constants: Float[Tensor, "..."], name: str) -> None:
        if not ((constants >= 0) & constants.isfinite()).all():
            raise ValueError(f"{name} is {constants.tolist()}, but must be finite and >= 0")
        self._constants = constants

    def update(
        self,
        parameters: Float[Tensor, " parameter"],
        gradients: Float[Tensor, "function parameter"],
    ) -> Float[Tensor, "..."]:
        """The constants; the arguments are not looked at."""
        return self._constants

    def state_dict(self) -> dict[str, Any]:
        """Empty."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to restore.

        Raises:
            ValueError: if the state is that of an estimator.
        """
        if state:
            raise ValueError(f"state has {sorted(state)}: it was saved with estimated smoothness")


class SecantSmoothness:
    r"""Estimates how fast gradients change, from those of successive iterates.

    .. math::
        M_t = \max\Big\{\text{decay} \cdot M_{t-1},\;
            \text{factor} \cdot \frac{\lVert \nabla f(x_t) - \nabla f(x_{t-1}) \rVert}
                                     {\lVert x_t - x_{t-1} \rVert}\Big\},
        \qquad M_0 = \text{initial}

    for each function f. If f is M-smooth, a secant of exact gradients is at most M, so the estimate
    never exceeds max(initial, factor * M). It may fall below M: curvature that no step has met is
    unknown, hence the factor, and an `initial` that is rather too large. Backtracking, the usual
    alternative, must evaluate a step before it is taken back, and a step that is not safe must not
    be evaluated.

    Noise of standard deviation s in each gradient adds about 1.4 s per step length to the secant,
    so short steps make the estimate large, hence the next step shorter. Use it for exact gradients,
    or for noise that is small beside the change of the gradient over one step.

    Args:
        initial: estimate before the second iterate, > 0, in units of f per squared length.
        factor: by how much a secant is increased, >= 1.
        decay: of the estimate per step in which no secant exceeds it, in (0, 1].

    Raises:
        ValueError: if an argument is out of its range.

    Example:
        >>> smoothness = SecantSmoothness(100.0, factor=2.0, decay=0.5)
        >>> for x in (0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0):  # f = 1.5 x^2, f' = 3 x
        ...     estimate = smoothness.update(torch.tensor([x]), torch.tensor([[3.0 * x]]))
        >>> estimate
        tensor([6.])
    """

    def __init__(self, initial: float, *, factor: float = 2.0, decay: float = 0.99) -> None:
        for name, value, allowed, holds in (
            ("initial", initial, "finite and > 0", 0 < initial < math.inf),
            ("factor", factor, "finite and >= 1", 1 <= factor < math.inf),
            ("decay", decay, "in (0, 1]", 0 < decay <= 1),
        ):
            if not holds:
                raise ValueError(f"{name} is {value}, but must be {allowed}")
        self._initial, self._factor, self._decay = float(initial), float(factor), float(decay)
        self._estimate: Tensor | None = None
        self._parameters: Tensor | None = None
        self._gradients: Tensor | None = None

    @torch.no_grad()
    def update(
        self,
        parameters: Float[Tensor, " parameter"],
        gradients: Float[Tensor, "function parameter"],
    ) -> Float[Tensor, " function"]:
        """Take the gradients at one more iterate.

        Args:
            parameters: the iterate, flat.
            gradients: of each function there.

        Returns:
            The estimates M, one for each function, for the step from this iterate.

        Raises:
            ValueError: if a gradient is not finite, or shapes differ from those before. Nothing
                has changed then.
        """
        if not gradients.isfinite().all():
            raise ValueError("gradients are not finite: look for NaN in the losses")
        if self._parameters is None or self._gradients is None or self._estimate is None:
            estimate = gradients.new_full((len(gradients),), self._initial)
        else:
            if gradients.shape != self._gradients.shape:
                raise ValueError(
                    f"gradients has shape {list(gradients.shape)}, but had "
                    f"{list(self._gradients.shape)}: take a new estimator for another problem"
                )
            moved = torch.linalg.vector_norm(parameters - self._parameters)
            change = torch.linalg.vector_norm(gradients - self._gradients, dim=-1)
            # An iterate that stayed where it was teaches nothing.
            secant = torch.where(moved > 0, change / moved, torch.zeros_like(change))
            estimate = torch.maximum(self._decay * self._estimate, self._factor * secant)
        self._estimate = estimate
        self._parameters, self._gradients = parameters.clone(), gradients.clone()
        return estimate

    def state_dict(self) -> dict[str, Any]:
        """A copy of the estimate and of the last iterate with its gradients (None at first)."""
        state = (self._estimate, self._parameters, self._gradients)
        names = ("estimate", "parameters", "gradients")
        return {n: None if x is None else x.clone() for n, x in zip(names, state, strict=True)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue exactly where `state_dict` was taken.

        Raises:
            ValueError: if the state is not one of `SecantSmoothness`.
        """
        names = ("estimate", "parameters", "gradients")
        if set(state) != set(names):
            raise ValueError(f"state has {sorted(state)}, but needs {sorted(names)}")
        self._estimate, self._parameters, self._gradients = (
            None if state[name] is None else state[name].clone() for name in names
        )
