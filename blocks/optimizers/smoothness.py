"""Smoothness constants (Lipschitz constants of gradients): known, or estimated during training."""

import math
from typing import Any, Protocol, cast, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor


@runtime_checkable
class Smoothness(Protocol):
    """Source of an optimiser's smoothness constants at each iterate."""

    def update(
        self,
        parameters: Float[Tensor, " parameter"],
        gradients: Float[Tensor, "function parameter"],
    ) -> Float[Tensor, "..."]:
        """Return the constants for the step from this iterate, one for all or ``[function]``."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Copy what a resumed run needs."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a ``state_dict`` exactly."""
        ...


class KnownSmoothness:
    """Known, fixed constants.

    Args:
        constants: M >= 0, one for all functions or ``[function]``.
        name: name of the caller's argument, for the error.

    Raises:
        ValueError: a constant is negative or not finite.
    """

    def __init__(self, constants: Float[Tensor, "..."], name: str) -> None:
        if not ((constants >= 0) & constants.isfinite()).all():
            raise ValueError(
                f"{name}: got {cast(Any, constants).tolist()}; allowed finite and >= 0; change it"
            )
        self._constants = constants

    def update(
        self,
        parameters: Float[Tensor, " parameter"],
        gradients: Float[Tensor, "function parameter"],
    ) -> Float[Tensor, "..."]:
        """Return the constants; the arguments have no effect."""
        return self._constants

    def state_dict(self) -> dict[str, Any]:
        """Return an empty dict: there is nothing to save."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Check that there is nothing to restore.

        Raises:
            ValueError: the state is that of an estimator.
        """
        if state:
            raise ValueError(
                f"state: got keys {sorted(state)}; allowed none; "
                "it was saved with estimated smoothness, so pass an estimator"
            )


class SecantSmoothness:
    r"""Estimates the smoothness from the gradients at successive iterates.

    .. math::
        M_t = \max\Big\{\text{decay} \cdot M_{t-1},\;
            \text{factor} \cdot \frac{\lVert \nabla f(x_t) - \nabla f(x_{t-1}) \rVert}
                                     {\lVert x_t - x_{t-1} \rVert}\Big\},
        \qquad M_0 = \text{initial}

    for each function f. If f is M-smooth, a secant of exact gradients is at most M, so the estimate
    never exceeds max(initial, factor * M). It may fall below M, because curvature off the path is
    unknown: hence the factor, and choose ``initial`` rather too large. Backtracking, the usual
    alternative, evaluates a step before taking it back, and an unsafe step must not be evaluated.

    Noise of standard deviation s in each gradient adds about 1.4 s per step length to the secant:
    short steps raise the estimate, which shortens the next step. Use it for exact gradients, or for
    noise that is small compared to the change of the gradient over one step.

    Args:
        initial: estimate before the second iterate, > 0, in units of f per squared length.
        factor: factor on each secant, >= 1.
        decay: factor on the estimate per step in which no secant exceeds it, in (0, 1].

    Raises:
        ValueError: an argument is out of its range.

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
                raise ValueError(f"{name}: got {value}; allowed {allowed}; change it")
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
        """Update the estimates with the gradients at one more iterate.

        Args:
            parameters: the iterate, flat.
            gradients: gradient of each function there.

        Returns:
            The estimates M, one per function, for the step from this iterate.

        Raises:
            ValueError: a gradient is not finite, or shapes differ from the last ones; the estimates
                do not change then.
        """
        if not gradients.isfinite().all():
            raise ValueError(
                "gradients: got NaN or infinity; allowed finite numbers; look for NaN in the losses"
            )
        if self._parameters is None or self._gradients is None or self._estimate is None:
            estimate = gradients.new_full((len(gradients),), self._initial)
        else:
            if gradients.shape != self._gradients.shape:
                raise ValueError(
                    f"gradients: got shape {list(gradients.shape)}; allowed that of the last call, "
                    f"{list(self._gradients.shape)}; take a new estimator for another problem"
                )
            vector_norm = cast(Any, torch.linalg).vector_norm  # torch gives it no type
            moved: Tensor = vector_norm(parameters - self._parameters)
            change: Tensor = vector_norm(gradients - self._gradients, dim=-1)
            # Without movement there is no information.
            secant = torch.where(moved > 0, change / moved, torch.zeros_like(change))
            estimate = torch.maximum(self._decay * self._estimate, self._factor * secant)
        self._estimate = estimate
        self._parameters, self._gradients = parameters.clone(), gradients.clone()
        return estimate

    def state_dict(self) -> dict[str, Any]:
        """Copy the estimate and the last iterate with its gradients (None at first)."""
        state = (self._estimate, self._parameters, self._gradients)
        names = ("estimate", "parameters", "gradients")
        return {n: None if x is None else x.clone() for n, x in zip(names, state, strict=True)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a ``state_dict`` exactly.

        Raises:
            ValueError: the state is not one of ``SecantSmoothness``.
        """
        names = ("estimate", "parameters", "gradients")
        if set(state) != set(names):
            raise ValueError(
                f"state: got keys {sorted(state)}; allowed {sorted(names)}; "
                "load the state of a SecantSmoothness"
            )
        self._estimate, self._parameters, self._gradients = (
            None if state[name] is None else state[name].clone() for name in names
        )
