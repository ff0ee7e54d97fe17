"""Prediction without looking: filter up to a row, then only the recorded actions, and the errors.

A start row s of an episode is where the model stops to look. Horizon h asks for row s + h: the
observation there, and the reward and cost received on arrival.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from blocks import State, Transitions, WorldModel, imagine

SIGNALS = ("observation", "reward", "cost")


class Signals(NamedTuple):
    """What is predicted, ``[horizon, start, ...]``.

    The observation is normalised as the model sees it (in standard deviations of the training
    data), reward and cost are per agent step.
    """

    observation: Tensor
    reward: Tensor
    cost: Tensor


class Start(NamedTuple):
    """An episode ``[1, time, ...]`` and the rows ``[start]`` to predict from.

    A start row is at most ``time - 1 - horizon``.
    """

    episode: Transitions
    rows: Tensor

    def ahead(self, horizon: int) -> Tensor:
        """The rows to predict, ``[horizon, start]``."""
        return self.rows + torch.arange(1, horizon + 1).unsqueeze(-1)


def start_rows(rows: int, horizon: int, *, first: int, every: int) -> Tensor:
    """Start rows ``[start]`` of an episode of so many rows; none where it is too short."""
    return torch.arange(first, max(first, rows - horizon), every)


def truth(model: WorldModel, start: Start, horizon: int) -> Signals:
    """What the episode then held."""
    return _recorded(model, start.episode, start.ahead(horizon))


def last_value(model: WorldModel, start: Start, horizon: int) -> Signals:
    """The trivial predictor for which nothing changes after the start row."""
    return _recorded(model, start.episode, start.rows.expand(horizon, -1))


def training_mean(model: WorldModel, training: Transitions, like: Signals) -> Signals:
    """The trivial predictor for which every row is the mean of the ``training`` rows.

    Nothing is received at an episode's first row: rewards and costs are averaged over the others.
    """
    arrived = ~training.is_first
    observation = model.normalizer(training.observation).flatten(0, 1).mean(0)
    return Signals(
        observation.expand_as(like.observation),
        training.reward[arrived].mean().expand_as(like.reward),
        training.cost[arrived].mean().expand_as(like.cost),
    )


@torch.no_grad()
def open_loop(
    model: WorldModel, start: Start, horizon: int, *, samples: int, generator: torch.Generator
) -> Signals:
    """The model's predictive mean: over all members and over sampled states.

    Args:
        model: a world model; every member predicts from the same filtered states.
        start: episode and start rows; the episode is filtered from its first row.
        horizon: number of agent steps.
        samples: states sampled for each start row, by the filter and at each step after it.
        generator: source of their noise.
    """
    episode, rows = start
    copies = Transitions(*(x.expand(samples, *x.shape[1:]) for x in episode))
    filtered = model.filter(copies, generator).state
    # [sample, start, ...] -> [member, sample * start, ...]
    state = State(*(x[:, rows].flatten(0, 1).expand(model.members, -1, -1) for x in filtered))
    actions = iter(episode.action[0, start.ahead(horizon)].repeat(1, samples, 1))
    weights = model.parameter_posterior.sample()
    imagined = imagine(
        model.transition(weights),
        lambda feat, noise: (next(actions).expand(*feat.shape[:2], -1), feat[..., 0]),
        state,
        horizon,
        action_size=episode.action.shape[-1],
        generator=generator,
    )
    feat = imagined.state.feat[:, 1:]
    predicted = model.decoder(feat), model.reward(feat), model.cost(feat, weights)
    # [member, horizon, sample * start, ...] -> [horizon, start, ...]
    return Signals(*(x.unflatten(2, (samples, len(rows))).mean((0, 2)) for x in predicted))


def _recorded(model: WorldModel, episode: Transitions, rows: Tensor) -> Signals:
    observation = model.normalizer(episode.observation[0])
    return Signals(observation[rows], episode.reward[0, rows], episode.cost[0, rows])


def join(parts: list[Signals]) -> Signals:
    """Several episodes' start rows side by side."""
    return Signals(*(torch.cat(signal, 1) for signal in zip(*parts, strict=True)))


def normalised_error(predicted: Tensor, target: Tensor) -> list[float | None]:
    """Mean squared error at each horizon, in units of the held-out signal's own variance.

    ``error[h] = sum_i mean_s (predicted[h, s, i] - target[h, s, i])^2 / sum_i var_i``, where s are
    start rows, i the entries of the signal (one for reward and cost), and ``var_i`` the population
    variance of entry i over all start rows and horizons of ``target``. A prediction that is exact
    has error 0, and the held-out mean itself, averaged over horizons, 1.

    Args:
        predicted, target: ``[horizon, start, ...]``.

    Returns:
        One error per horizon; None where the target never changes, and no unit is to be had.
    """
    flat = target.double().reshape(*target.shape[:2], -1)
    variance = flat.flatten(0, 1).var(0, unbiased=False).sum()
    if variance == 0:
        return [None] * len(target)
    error = (predicted.double().reshape(flat.shape) - flat).square().mean(1).sum(-1)
    return (error / variance).tolist()


def precision_recall(predicted: Tensor, cost: Tensor, threshold: float) -> dict[str, float | None]:
    """Whether a costly row is foreseen: of an expected cost above ``threshold``.

    Args:
        predicted: expected cost of rows ``[row]``, per agent step.
        cost: what they then cost; a row that costs anything is costly.
        threshold: expected cost above which a row is called costly.

    Returns:
        ``precision``, the share of rows called costly that are, ``recall``, the share of costly
        rows that are called so (each None where there are no such rows), and the three counts.
    """
    called, costly = predicted > threshold, cost > 0
    both = int((called & costly).sum())
    return {
        "called": int(called.sum()),
        "costly": int(costly.sum()),
        "precision": both / int(called.sum()) if called.any() else None,
        "recall": both / int(costly.sum()) if costly.any() else None,
    }
