"""A constrained linear-Gaussian system, its returns in closed form, and posteriors fitted to it.

State x = (position, velocity), action u, ``x' = [x, u] W + noise`` with unknown weights W. The
policy is linear and the horizon finite. So the first and second moments of the state are known
exactly for every W, and with them the objective (velocity) and the cost return (squared position).
Replications are a batch axis: one posterior has weights ``[replication, 3, 2]`` of all of them, and
they do not interact.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from blocks import EnsemblePosterior
from blocks.posteriors.ensemble import MakeFamily
from blocks.posteriors.mean_field import MeanField

PRIOR_MEAN = ((0.95, -0.15), (0.2, 0.85), (0.0, 0.2))  # a damped spring, pushed by the action
PRIOR_STD, NOISE_STD = 0.1, 0.1
GAIN, START = (-0.5, -0.5), (1.0, 0.0)
HORIZON, EPISODE = 15, 5

Weigh = Callable[[tuple[int, ...], torch.Generator], Tensor]
"""Draws each member's weights of the rows, one on average, in a given shape."""


class Data(NamedTuple):
    """Transitions: ``inputs`` [replication, row, 3] are states and actions, ``targets`` states."""

    inputs: Tensor
    targets: Tensor


class Returns(NamedTuple):
    """Expected sums over the horizon."""

    objective: Tensor
    cost_return: Tensor


def draw_weights(count: int, generator: torch.Generator, shift: float = 0.0) -> Tensor:
    """Draw true weights ``[count, 3, 2]`` from the prior, shifted by ``shift`` prior deviations.

    The shift increases every weight from state to state, so the system is less damped than the
    prior expects.
    """
    noise = torch.randn(count, 3, 2, generator=generator, dtype=torch.float64)
    noise[:, :2] += shift
    return torch.tensor(PRIOR_MEAN, dtype=torch.float64) + PRIOR_STD * noise


def simulate(weights: Tensor, rows: int, generator: torch.Generator, lag: float = 0.0) -> Data:
    """Simulate transitions under random actions, in short episodes from random states.

    Args:
        weights: true weights ``[replication, 3, 2]``.
        rows: transitions for each replication, a multiple of 5.
        generator: source of starts, actions and noise.
        lag: effect of the *previous* position on the velocity, which no W can express.
    """
    if rows < EPISODE or rows % EPISODE:
        raise ValueError(f"rows: got {rows}; transitions come in episodes of {EPISODE}.")
    shape = (len(weights), rows // EPISODE)
    state = torch.randn(*shape, 2, generator=generator, dtype=torch.float64)
    before = torch.zeros_like(state)
    inputs, targets = [], []
    for _ in range(EPISODE):
        draws = torch.randn(*shape, 3, generator=generator, dtype=torch.float64)
        inputs.append(torch.cat([state, draws[..., :1]], -1))
        after = inputs[-1] @ weights + before @ _lag(lag) + NOISE_STD * draws[..., 1:]
        state, before = after, state
        targets.append(after)
    return Data(torch.cat(inputs, 1), torch.cat(targets, 1))


def policy_returns(weights: Tensor, lag: float = 0.0) -> Returns:
    """Compute exact objective and cost return of the policy under weights ``[..., 3, 2]``.

    ``s = (x_t, x_{t-1})`` obeys ``s' = s M + noise``: its mean m and second moment S become ``m M``
    and ``M' S M + noise covariance``.
    """
    step = weights.new_zeros(*weights.shape[:-2], 4, 4)
    step[..., :2, :2] = (
        weights[..., :2, :] + weights.new_tensor(GAIN)[:, None] * weights[..., 2:, :]
    )
    step[..., :2, 2:] = torch.eye(2)
    step[..., 2:, :2] = _lag(lag)
    noise = torch.diag(weights.new_tensor([NOISE_STD**2, NOISE_STD**2, 0, 0]))
    mean = weights.new_tensor([*START, 0, 0]).unsqueeze(0)
    second = mean.T @ mean
    objective, cost_return = weights.new_zeros(()), weights.new_zeros(())
    for _ in range(HORIZON):
        mean = mean @ step
        second = step.mT @ second @ step + noise
        objective = objective + mean[..., 0, 1]
        cost_return = cost_return + second[..., 0, 0]
    return Returns(objective, cost_return)


def exact_posterior(data: Data, members: int, generator: torch.Generator) -> Tensor:
    """Draw independent samples ``[member, replication, 3, 2]`` from the exact posterior."""
    precision, linear = _statistics(data)
    precision = precision + torch.eye(3) / PRIOR_STD**2
    linear = linear + torch.tensor(PRIOR_MEAN, dtype=torch.float64) / PRIOR_STD**2
    noise = torch.randn(members, *linear.shape, generator=generator, dtype=torch.float64)
    factor = torch.linalg.cholesky(precision)
    deviation = torch.linalg.solve_triangular(factor.mT, noise, upper=True)
    return torch.cholesky_solve(linear, factor) + deviation


def fit(
    family: MakeFamily,
    data: Data,
    members: int,
    generator: torch.Generator,
    *,
    steps: int,
    weigh: Weigh | None = None,
) -> Tensor:
    """Fit members ``[member, replication, 3, 2]`` of a family as a world model does.

    Args:
        family: class of the ``EnsemblePosterior``.
        data: transitions of every replication.
        members: number of members.
        generator: source of the members' separate data and of a guide's noise.
        steps: steps of Adam.
        weigh: how each member weighs the rows, for families with separate data; a ``WorldModel``
            draws ``exponential`` weights. None perturbs each member's targets instead, which is
            exact.
    """
    template = nn.ParameterDict(
        {"w": torch.tensor(PRIOR_MEAN).double().repeat(len(data.inputs), 1, 1)}
    )
    with torch.random.fork_rng(devices=[]):  # anchors come from torch's global generator
        torch.manual_seed(int(torch.randint(2**31, (), generator=generator)))
        posterior = EnsemblePosterior(
            template, members=members, family=family, prior_std={"w": PRIOR_STD}
        ).double()
    log_likelihood = _log_likelihood(data, members, generator, posterior.separate_data, weigh)
    optimizer = torch.optim.Adam(posterior.parameters(), 0.2)
    if family is not MeanField:  # a guide's parameters are in prior deviations
        optimizer.param_groups[0]["lr"] *= PRIOR_STD
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        fitted = log_likelihood(posterior.sample(generator=generator)["w"]).mean()
        optimizer.zero_grad()
        (-(fitted + posterior.log_prior().mean()) / data.inputs.shape[1]).backward()
        optimizer.step()
        schedule.step()
    return posterior.sample(members, generator=generator)["w"].detach()


def exponential(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Draw Exp(1) weights: the weighted likelihood bootstrap (Newton and Raftery 1994)."""
    return -torch.log1p(-torch.rand(shape, generator=generator, dtype=torch.float64))


def shares(shape: tuple[int, ...], generator: torch.Generator, *, size: float) -> Tensor:
    """Draw a share of the rows: weights 1 / size with probability ``size``, else 0."""
    return (torch.rand(shape, generator=generator, dtype=torch.float64) < size).double() / size


def _log_likelihood(
    data: Data,
    members: int,
    generator: torch.Generator,
    separate_data: bool,
    weigh: Weigh | None,
) -> Callable[[Tensor], Tensor]:
    """Build the log-likelihood of each member, summed over replications, up to a constant."""
    precision, linear = _statistics(data)
    rows = (members, *data.inputs.shape[:2], 1)
    if separate_data and weigh is not None:
        weight = weigh(rows, generator)
        precision = (data.inputs * weight).mT @ data.inputs / NOISE_STD**2
        linear = (data.inputs * weight).mT @ data.targets / NOISE_STD**2
    elif separate_data:
        noise = torch.randn(*rows[:-1], 2, generator=generator, dtype=torch.float64)
        linear = linear + data.inputs.mT @ noise / NOISE_STD
    return lambda w: (w * (linear - 0.5 * precision @ w)).sum((-3, -2, -1))


def _statistics(data: Data) -> tuple[Tensor, Tensor]:
    """Compute the data's precision ``[replication, 3, 3]`` and linear term ``[..., 3, 2]``."""
    return tuple(data.inputs.mT @ x / NOISE_STD**2 for x in data)  # type: ignore[return-value]


def _lag(strength: float) -> Tensor:
    return torch.tensor([[0.0, -strength], [0.0, 0.0]], dtype=torch.float64)
