"""Shared parts of the constrained optimisers: argument checks, flat parameters, recovery steps."""

import math
from collections.abc import Iterable
from copy import deepcopy
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from blocks.acceleration.threads import side_by_side


class FlatParameters:
    """A view of parameters as one flat vector, for gradients and changes.

    Args:
        params: those that require no gradient are left out.

    Raises:
        ValueError: no parameter requires a gradient.
    """

    def __init__(self, params: Iterable[nn.Parameter]) -> None:
        self.parameters = [parameter for parameter in params if parameter.requires_grad]
        if not self.parameters:
            raise ValueError(
                "params: got none that requires a gradient; allowed one or more; "
                "pass the parameters of an unfrozen module"
            )
        self.sizes = [parameter.numel() for parameter in self.parameters]
        self.size = sum(self.sizes)

    def gradient(self, value: Tensor) -> Tensor:
        """Compute the flat gradient of a scalar: zero where it does not depend on a parameter.

        The graph is kept, because objective and cost returns share it.
        """
        if not value.requires_grad:
            return self.parameters[0].new_zeros(self.size)
        parts = torch.autograd.grad(
            value, self.parameters, retain_graph=True, allow_unused=True, materialize_grads=True
        )
        return torch.cat([part.flatten() for part in parts])

    def gradients(self, *values: Tensor) -> tuple[Tensor, ...]:
        """Compute the flat gradients of scalars, on several threads if ``set_threads`` allows."""
        return side_by_side(*(partial(self.gradient, value) for value in values))

    @torch.no_grad()
    def values(self) -> Tensor:
        """Copy the parameters to one flat vector."""
        return torch.cat([parameter.flatten() for parameter in self.parameters])

    @torch.no_grad()
    def add_(self, change: Tensor) -> None:
        """Move the parameters in place."""
        for parameter, part in zip(self.parameters, torch.split(change, self.sizes), strict=True):
            parameter.add_(part.view_as(parameter))


class FlatAdam:
    """Computes torch's Adam step without taking it, so that the caller can shorten it.

    Adam moves a flat scratch vector that starts at zero; its new value is the step.
    """

    def __init__(
        self,
        flat: FlatParameters,
        learning_rate: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        self._scratch = flat.parameters[0].new_zeros(flat.size)
        self._adam = torch.optim.Adam([self._scratch], learning_rate, betas=betas, eps=eps)

    @property
    def learning_rate(self) -> float:
        """Adam's learning rate; settable, for a schedule. Part of the state."""
        return self._adam.param_groups[0]["lr"]

    @learning_rate.setter
    def learning_rate(self, value: float) -> None:
        require("learning_rate", value, "finite and > 0", 0 < value < math.inf)
        self._adam.param_groups[0]["lr"] = float(value)

    def move(self, gradient: Tensor) -> Tensor:
        """Return the step that descends the gradient; the next call overwrites it."""
        self._scratch.zero_()
        self._scratch.grad = gradient
        self._adam.step()  # pyright: ignore[reportUnknownMemberType]
        return self._scratch

    def reset(self) -> None:
        """Clear the moments."""
        self._adam.state.clear()

    def state_dict(self) -> dict[str, Any]:
        """Copy torch's state."""
        return deepcopy(self._adam.state_dict())

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a ``state_dict``, learning rates included, as in torch.

        Raises:
            ValueError: the moments are for another number of parameters.
        """
        for moments in state["state"].values():
            size, needed = moments["exp_avg"].numel(), self._scratch.numel()
            if size != needed:
                raise ValueError(
                    f"state: got moments for {size} parameters; allowed {needed}; build the "
                    "network that the state was saved with"
                )
        self._adam.load_state_dict(deepcopy(state))


class Recovery:
    """A separate Adam that minimises the violated cost returns, from outside the feasible set.

    Its moments restart with every recovery: the scale of an older one would make its steps too
    short. ``active`` says whether the last step was a recovery.
    """

    def __init__(
        self,
        flat: FlatParameters,
        learning_rate: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        self._flat, self._adam = flat, FlatAdam(flat, learning_rate, betas, eps)
        self.active = False

    def move(self, costs: Tensor, slack: Tensor) -> tuple[Tensor, Tensor]:
        """Return the step and the norm of the violated costs' gradient.

        Raises:
            ValueError: the gradient is not finite; the state does not change then.
        """
        gradient = self._flat.gradient(costs[slack <= 0].sum())
        norm = finite_norm(gradient)
        if not self.active:
            self._adam.reset()
        self.active = True
        return self._adam.move(gradient), norm

    def state_dict(self) -> dict[str, Any]:
        """Copy Adam's state; the caller saves ``active``."""
        return self._adam.state_dict()

    def load_state_dict(self, state: dict[str, Any], *, active: bool) -> None:
        """Restore a ``state_dict``."""
        self._adam.load_state_dict(state)
        self.active = active


class LearningRate:
    """The ``learning_rate`` property of optimisers that use a ``FlatAdam``."""

    _adam: FlatAdam

    @property
    def learning_rate(self) -> float:
        """Learning rate of Adam's step; settable, for a schedule. Part of ``state_dict``."""
        return self._adam.learning_rate

    @learning_rate.setter
    def learning_rate(self, value: float) -> None:
        self._adam.learning_rate = value


def checked_slack(objective: Tensor, cost_return: Tensor, budget: float | Tensor) -> Tensor:
    """Return budget minus cost return, flat and detached.

    Raises:
        ValueError: the objective is not a scalar, the cost return neither a scalar nor
            ``[constraints]``, the budget does not fit it, or one of them is not finite.
    """
    bound = torch.as_tensor(budget, dtype=cost_return.dtype, device=cost_return.device)
    if objective.ndim != 0:
        raise ValueError(
            f"objective: got shape {list(objective.shape)}; allowed a scalar; "
            "average over start states and members first"
        )
    if cost_return.ndim > 1 or cost_return.numel() == 0:
        raise ValueError(
            f"cost_return: got shape {list(cost_return.shape)}; allowed a scalar or "
            "[constraints]; average over start states and aggregate over members first"
        )
    if bound.shape not in (torch.Size(), cost_return.shape):
        raise ValueError(
            f"budget: got shape {list(bound.shape)}; allowed a scalar or cost_return's "
            f"{list(cost_return.shape)}; give one budget per constraint"
        )
    for name, value in (("objective", objective), ("cost_return", cost_return), ("budget", bound)):
        if not value.isfinite().all():
            raise ValueError(
                f"{name}: got {cast(Any, value).tolist()}; allowed finite numbers; "
                "look for NaN in the losses"
            )
    return (bound - cost_return).detach().reshape(-1)


def vector_norm(vector: Tensor) -> Tensor:
    """Compute the Euclidean norm of a flat vector."""
    return cast(Any, torch.linalg).vector_norm(vector)  # torch gives it no type


def finite_norm(gradient: Tensor) -> Tensor:
    """Compute the Euclidean norm of a gradient.

    Raises:
        ValueError: the gradient, or its square, which Adam needs, is not finite.
    """
    norm = vector_norm(gradient)
    if not norm.isfinite():
        raise ValueError(
            f"gradient of objective or cost_return: got norm {float(norm)}; allowed a finite one; "
            "look for NaN in the losses, or a slack too small for its floating-point type"
        )
    return norm


def require(name: str, value: object, allowed: str, holds: bool | Tensor) -> None:
    """Check an argument's condition.

    Raises:
        ValueError: the condition does not hold.
    """
    if not holds:
        raise ValueError(f"{name}: got {value}; allowed {allowed}; change it")


def require_keys(state: dict[str, Any], expected: dict[str, Any]) -> None:
    """Check the keys of a state dict.

    Raises:
        ValueError: the keys differ from the expected ones.
    """
    if state.keys() != expected.keys():
        raise ValueError(
            f"state: got keys {sorted(state)}; allowed {sorted(expected)}; "
            "load the state of the same kind of optimiser"
        )
