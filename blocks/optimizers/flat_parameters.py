"""What the constrained optimisers share: checks, flat parameters, and the way back inside."""

import math
from collections.abc import Iterable
from copy import deepcopy
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from blocks.acceleration.threads import side_by_side


class FlatParameters:
    """Parameters seen as one flat vector: gradients come out flat, changes go in flat.

    Raises:
        ValueError: if no parameter requires a gradient (those that do not are left out).
    """

    def __init__(self, params: Iterable[nn.Parameter]) -> None:
        self.parameters = [parameter for parameter in params if parameter.requires_grad]
        if not self.parameters:
            raise ValueError("params is empty or frozen: pass parameters that require gradients")
        self.sizes = [parameter.numel() for parameter in self.parameters]
        self.size = sum(self.sizes)

    def gradient(self, value: Tensor) -> Tensor:
        """The flat gradient of a scalar, zero where (or if) it does not depend on the parameters.

        The graph is kept, because objective and cost returns share it.
        """
        if not value.requires_grad:
            return self.parameters[0].new_zeros(self.size)
        parts = torch.autograd.grad(
            value, self.parameters, retain_graph=True, allow_unused=True, materialize_grads=True
        )
        return torch.cat([part.flatten() for part in parts])

    def gradients(self, *values: Tensor) -> tuple[Tensor, ...]:
        """The flat gradient of each, at the same time where there are threads for it."""
        return side_by_side(*(partial(self.gradient, value) for value in values))

    @torch.no_grad()
    def values(self) -> Tensor:
        """A flat copy."""
        return torch.cat([parameter.flatten() for parameter in self.parameters])

    @torch.no_grad()
    def add_(self, change: Tensor) -> None:
        """Move the parameters in place."""
        for parameter, part in zip(self.parameters, change.split(self.sizes), strict=True):
            parameter.add_(part.view_as(parameter))


class FlatAdam:
    """torch's Adam, asked for the step that it would take, so that a caller may shorten it.

    Adam steps a flat scratch vector from zero: where it ends up is the step.
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
        """The length scale of a step; settable, for a schedule. Part of the state."""
        return self._adam.param_groups[0]["lr"]

    @learning_rate.setter
    def learning_rate(self, value: float) -> None:
        require("learning_rate", value, "finite and > 0", 0 < value < math.inf)
        self._adam.param_groups[0]["lr"] = float(value)

    def move(self, gradient: Tensor) -> Tensor:
        """The step that descends the gradient, to be used before the next call overwrites it."""
        self._scratch.zero_()
        self._scratch.grad = gradient
        self._adam.step()
        return self._scratch

    def reset(self) -> None:
        """Forget the moments."""
        self._adam.state.clear()

    def state_dict(self) -> dict[str, Any]:
        """A copy of torch's state."""
        return deepcopy(self._adam.state_dict())

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken; learning rates come with it, as in torch.

        Raises:
            ValueError: if the moments are for another number of parameters.
        """
        for moments in state["state"].values():
            size, needed = moments["exp_avg"].numel(), self._scratch.numel()
            if size != needed:
                raise ValueError(
                    f"state is for {size} parameters, but there are {needed}: build the network "
                    "that the state was saved with"
                )
        self._adam.load_state_dict(deepcopy(state))


class Recovery:
    """From outside the feasible set: an Adam of its own down the violated cost returns.

    Its moments start afresh whenever a recovery begins, so that it doesn't crawl in the scale of
    an older one. `active` says whether the last step was a recovery.
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
        """The step, and the norm of the violated costs' gradient.

        Raises:
            ValueError: if the gradient is not finite; the state is then as before.
        """
        gradient = self._flat.gradient(costs[slack <= 0].sum())
        norm = finite_norm(gradient)
        if not self.active:
            self._adam.reset()
        self.active = True
        return self._adam.move(gradient), norm

    def state_dict(self) -> dict[str, Any]:
        """A copy of Adam's state; `active` is the caller's to keep."""
        return self._adam.state_dict()

    def load_state_dict(self, state: dict[str, Any], *, active: bool) -> None:
        """Continue where `state_dict` was taken."""
        self._adam.load_state_dict(state)
        self.active = active


class LearningRate:
    """The property of optimisers whose steps are those of a `FlatAdam`."""

    _adam: FlatAdam

    @property
    def learning_rate(self) -> float:
        """Learning rate of Adam's step; settable, for a schedule. Part of `state_dict`."""
        return self._adam.learning_rate

    @learning_rate.setter
    def learning_rate(self, value: float) -> None:
        self._adam.learning_rate = value


def checked_slack(objective: Tensor, cost_return: Tensor, budget: float | Tensor) -> Tensor:
    """Budget minus cost return, flat and detached.

    Raises:
        ValueError: if the objective is no scalar, the cost return neither a scalar nor
            `[constraints]`, the budget does not fit it, or any of them is not finite.
    """
    bound = torch.as_tensor(budget, dtype=cost_return.dtype, device=cost_return.device)
    if objective.ndim != 0:
        raise ValueError(f"objective has shape {list(objective.shape)}, but must be a scalar")
    if cost_return.ndim > 1 or cost_return.numel() == 0:
        raise ValueError(
            f"cost_return has shape {list(cost_return.shape)}, but must be a scalar or "
            "[constraints]: average over start states and aggregate over members first"
        )
    if bound.shape not in (torch.Size(), cost_return.shape):
        raise ValueError(
            f"budget has shape {list(bound.shape)}, but must be a number or like cost_return "
            f"{list(cost_return.shape)}"
        )
    for name, value in (("objective", objective), ("cost_return", cost_return), ("budget", bound)):
        if not value.isfinite().all():
            raise ValueError(f"{name} is {value.tolist()}, but must be finite")
    return (bound - cost_return).detach().reshape(-1)


def finite_norm(gradient: Tensor) -> Tensor:
    """The Euclidean norm.

    Raises:
        ValueError: if the gradient, or the square that Adam needs, is not finite.
    """
    norm = torch.linalg.vector_norm(gradient)
    if not norm.isfinite():
        raise ValueError(
            "the gradient of objective or cost_return is not finite (or its square overflows): "
            "look for NaN in the losses, or a slack too small for its floating-point type"
        )
    return norm


def require(name: str, value: object, allowed: str, holds: bool | Tensor) -> None:
    """
    Raises:
        ValueError: unless the argument's condition holds.
    """
    if not holds:
        raise ValueError(f"{name} is {value}, but must be {allowed}")


def require_keys(state: dict[str, Any], expected: dict[str, Any]) -> None:
    """
    Raises:
        ValueError: unless a state dict has the expected keys.
    """
    if state.keys() != expected.keys():
        raise ValueError(
            f"state has {sorted(state)}, but needs {sorted(expected)}: it belongs to something else"
        )
