"""The LBSGD step-size rule, and a safe step length for any direction. Pure functions.

Symbols: a_i slack of constraint i (budget minus cost return), g gradient of the barrier loss,
v unit direction of the step, th_i = <grad Jc_i, v> slope, M_0 and M_i smoothness (Lipschitz
constants of the gradients) of the objective and of the cost returns.
"""

import torch
from jaxtyping import Float
from torch import Tensor


def lbsgd_step_size(
    slack: Float[Tensor, "*constraint"],
    slope: Float[Tensor, "*constraint"],
    grad_norm: float | int | Float[Tensor, ""],
    *,
    eta: float | int | Float[Tensor, ""],
    objective_smoothness: float | int | Float[Tensor, ""],
    constraint_smoothness: float | int | Float[Tensor, "..."],
) -> Float[Tensor, ""]:
    r"""Compute the factor gamma for which the step -gamma g leaves at least half of every slack.

    .. math::
        M_2 &= M_0 + 10\,\eta \sum_i M_i / a_i + 8\,\eta \sum_i \theta_i^2 / a_i^2 \\
        \gamma &= \min\left\{ \min_i \frac{a_i}{2 |\theta_i| + \sqrt{a_i M_i}}\,
                  \frac{1}{\lVert g \rVert},\; \frac{1}{M_2} \right\}

    (Usmanova et al. 2024.) The first bound keeps the step feasible at every scale of g; the second,
    from the barrier's local smoothness, makes it an ascent step. With true smoothness constants
    a_i' >= a_i / 2. For estimates, pass a lower bound of the slack and an upper bound of |slope|.

    Args:
        slack: a_i, budget minus cost return, per constraint.
        slope: th_i, derivative of cost return i per unit length along +-g; the sign has no effect.
        grad_norm: |g|, >= 0, of the barrier loss' gradient g.
        eta: weight of the barrier, >= 0.
        objective_smoothness: M_0 >= 0, in units of the objective per squared parameter length.
        constraint_smoothness: M_i >= 0, one for all constraints or one each.

    Returns:
        gamma >= 0, a finite scalar; 0 if any slack is <= 0 or any input is NaN.

    Example:
        >>> slack, slope = torch.tensor([1.0]), torch.tensor([0.5])
        >>> constants = dict(eta=0.1, objective_smoothness=1.0, constraint_smoothness=4.0)
        >>> lbsgd_step_size(slack, slope, 10.0, **constants)  # 1 / (2 * 0.5 + 2) / 10
        tensor(0.0333)
        >>> lbsgd_step_size(slack - 1.0, slope, 10.0, **constants)
        tensor(0.)
    """
    feasible = slack > 0  # False for NaN
    tiny = torch.finfo(slack.dtype).tiny
    safe = torch.where(feasible, slack, torch.ones_like(slack)).clamp(min=tiny)
    norm = torch.as_tensor(grad_norm, dtype=slack.dtype, device=slack.device).clamp(min=tiny)
    length = safe / (2.0 * slope.abs() + (safe * constraint_smoothness).sqrt())
    curvature = objective_smoothness + eta * (
        (10.0 * constraint_smoothness / safe).sum() + (8.0 * (slope / safe).square()).sum()
    )
    step_size = torch.minimum(length.min() / norm, 1.0 / curvature.clamp(min=tiny))
    usable = feasible.all() & step_size.isfinite()
    return torch.where(usable, step_size, torch.zeros_like(step_size))


def safe_step_length(
    slack: Float[Tensor, "*constraint"],
    slope: Float[Tensor, "*constraint"],
    *,
    constraint_smoothness: float | int | Float[Tensor, "..."],
) -> Float[Tensor, "*constraint"]:
    r"""Compute how long a step along *any* unit direction may be to keep half of the slack.

    .. math::
        s_i = \frac{a_i}{\theta_i + \sqrt{\theta_i^2 + a_i M_i}}

    Derivation (ours). If Jc_i is M_i-smooth, a step s v with \|v\| = 1 leaves
    :math:`a_i' \ge a_i - s\,\theta_i - s^2 M_i / 2`. The right side is concave in s and a_i at
    s = 0, so it is at least a_i / 2 up to its only positive crossing of a_i / 2, the root of
    :math:`M_i s^2 + 2 \theta_i s - a_i = 0`, which is s_i above. The derivation holds for every v,
    for a preconditioned direction as well as for the gradient. LBSGD's bound is
    a / (2\|th\| + sqrt(a M)). Since th + sqrt(th^2 + a M) <= 2\|th\| + sqrt(a M), s_i is never
    shorter; and it hardly limits a direction that lowers the cost (th < 0), where the symmetric
    bound lets a policy move away from its constraint only slowly.

    Args:
        slack: a_i, per constraint.
        slope: th_i, derivative of cost return i per unit length along the direction, signed
            (an upper bound, where estimated).
        constraint_smoothness: M_i >= 0, one for all constraints or one each.

    Returns:
        s_i >= 0 per constraint, in units of parameter length; ``inf`` where nothing limits the
        step, 0 where slack <= 0.

    Example:
        >>> slack, slope = torch.tensor([1.0, 1.0]), torch.tensor([1.5, -1.5])
        >>> safe_step_length(slack, slope, constraint_smoothness=4.0)
        tensor([0.2500, 1.0000])
    """
    root = (slope.square() + slack.clamp(min=0.0) * constraint_smoothness).sqrt()
    # Two forms of the same root; each avoids cancellation for its sign of the slope.
    outward = slack / (slope.clamp(min=0.0) + root)
    inward = (root - slope.clamp(max=0.0)) / constraint_smoothness
    length = torch.where(slope < 0, inward, outward)
    return torch.where(slack > 0, length, torch.zeros_like(length))
