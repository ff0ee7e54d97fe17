"""Backtracking: go back towards the old parameters until a check accepts the new ones."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor


@torch.no_grad()
def backtrack(
    parameters: Iterable[Tensor],
    old: Iterable[Tensor],
    accepts: Callable[[], bool],
    *,
    attempts: int = 4,
) -> float:
    r"""Halve the way from the old parameters to the new ones until they are accepted.

    .. math::
        \theta \leftarrow \theta_{old} + s\,(\theta_{new} - \theta_{old}),
        \qquad s = 1, \tfrac12, \tfrac14, \ldots

    After ``attempts`` refusals the old parameters are restored: they are not checked.

    Args:
        parameters: new parameters, changed in place.
        old: their old values, in the same order; must not share memory with them.
        accepts: checks the present parameters.
        attempts: number of shares s to try, >= 1.

    Returns:
        The share s of the way that is kept: a power of 1/2, or 0.

    Raises:
        ValueError: ``attempts`` is below 1, or the lists differ in length.

    Example:
        >>> x = torch.tensor([8.0])
        >>> backtrack([x], [torch.tensor([0.0])], lambda: bool(x < 3)), x
        (0.25, tensor([2.]))
    """
    if attempts < 1:
        raise ValueError(f"attempts: got {attempts}; allowed 1 and above; try at least the whole")
    pairs = [(now, now.clone(), before) for now, before in zip(parameters, old, strict=True)]
    share = 1.0
    for _ in range(attempts):
        if accepts():
            return share
        share /= 2
        for now, new, before in pairs:
            now.copy_(torch.lerp(before, new, share))
    for now, _, before in pairs:
        now.copy_(before)
    return 0.0
