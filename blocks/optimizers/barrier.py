"""Log barrier: an objective that falls to minus infinity at the constraint."""

import torch
from jaxtyping import Float
from torch import Tensor


def log_barrier(
    objective: Float[Tensor, ""],
    slack: Float[Tensor, "*constraint"],
    *,
    eta: float | int | Float[Tensor, ""],
) -> Float[Tensor, ""]:
    r"""Add the log barrier to an objective that is maximised.

    .. math::
        B_\eta = J + \eta \sum_i \log a_i, \qquad a_i = d_i - J_{c,i}

    (Interior-point methods; CERL, arXiv 2405.05890, section 4, and LBSGD, Usmanova et al. 2024.)
    Its maximiser is strictly feasible. In a concave problem with c constraints it is at most
    ``c * eta`` worse than the constrained optimum.

    Outside the feasible set, where any slack is <= 0 or NaN, the value is ``-inf`` and every
    gradient is zero. There the caller must descend the cost return instead, as ``LBSGD`` does.

    Args:
        objective: scalar to maximise.
        slack: budget minus cost return, one per constraint; feasible iff all are > 0.
        eta: weight of the barrier, >= 0, in units of the objective.

    Returns:
        The value, a scalar: finite iff all slacks are > 0 and the objective is finite.

    Example:
        >>> slack = torch.tensor([1.0, 0.5], requires_grad=True)
        >>> value = log_barrier(torch.tensor(2.0), slack, eta=0.1)
        >>> value.backward()
        >>> round(value.item(), 4), slack.grad
        (1.9307, tensor([0.1000, 0.2000]))
        >>> log_barrier(torch.tensor(2.0), torch.tensor([1.0, -0.5]), eta=0.1)
        tensor(-inf)
    """
    feasible = slack > 0  # False for NaN
    # Autograd differentiates both sides of ``where``, so the unused side must be finite too. The
    # clamp keeps 1 / slack finite for subnormal slacks (0 * inf would be NaN at eta = 0).
    inside = torch.where(feasible, slack, torch.ones_like(slack))
    inside = inside.clamp(min=torch.finfo(slack.dtype).tiny)
    value = objective + eta * inside.log().sum()
    return torch.where(feasible.all(), value, torch.full_like(value, -torch.inf))
