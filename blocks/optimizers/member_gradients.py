"""The gradient of every member's value by the parameters they share, for the price of one."""

from collections.abc import Mapping
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn

from blocks.acceleration.threads import side_by_side


def stack_parameters(module: nn.Module, copies: int) -> dict[str, Tensor]:
    """Stack copies of a module's parameters, ``[copy, *parameter]`` by name: one for each member.

    A backward pass through computations in which member k uses copy k leaves member k's gradient
    at copy k. Parameters that require no gradient are left out.
    """
    return {
        name: torch.stack([parameter.detach()] * copies).requires_grad_()
        for name, parameter in module.named_parameters()
        if parameter.requires_grad
    }


def member_gradients(
    stacked: Mapping[str, Tensor], *values: Float[Tensor, "..."]
) -> tuple[Float[Tensor, "member parameter"], ...]:
    """Compute the gradients of sums of values, apart for every member; one backward pass each.

    Let ``values`` be one value for each member, each by the member's own copy of the parameters:
    row k is then the gradient of member k's value by the parameters that all members share. For a
    single value that depends on all members (their mean), the sum of the rows is its gradient.

    Args:
        stacked: what ``stack_parameters`` returned.
        values: differentiable, of any shape; summed. On several threads if ``set_threads`` allows.

    Returns:
        For each of the values ``[member, parameter]``, in the order of a flat module. The graph is
        kept.

    Example:
        >>> linear = nn.Linear(2, 1, bias=False)
        >>> stacked = stack_parameters(linear, copies=3)
        >>> x = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
        >>> costs = (stacked["weight"][:, 0] * x).sum(-1)  # one a member
        >>> member_gradients(stacked, costs)[0]
        tensor([[1., 2.],
                [3., 4.],
                [5., 6.]])
    """
    return side_by_side(*(partial(_gradient, stacked, value) for value in values))


def _gradient(stacked: Mapping[str, Tensor], value: Tensor) -> Tensor:
    copies = list(stacked.values())
    if not value.requires_grad:
        return torch.cat([torch.zeros_like(copy).flatten(1) for copy in copies], dim=1)
    parts = torch.autograd.grad(
        value.sum(), copies, retain_graph=True, allow_unused=True, materialize_grads=True
    )
    return torch.cat([part.flatten(1) for part in parts], dim=1)
