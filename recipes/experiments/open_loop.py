"""Predict open loop: filter up to a start row, then follow the recorded actions; measure errors.

Start row s of an episode is the last row that the model sees. Horizon h is row s + h: its
observation, and the reward and cost received on arrival.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from blocks import ImageDecoder, State, Transitions, WorldModel, imagine
from blocks.imagination import recorded_actions

SIGNALS = ("observation", "reward", "cost")
FIRST_START = 8
"""First start row of an episode."""
SAMPLES = 2
"""States sampled for each start row."""


class Signals(NamedTuple):
    """Predicted or true signals, ``[horizon, start, ...]``.

    Observations are in the unit of the model's decoder: vectors in standard deviations of the
    training data, images in units of a byte's range. Reward and cost are per agent step.
    """

    observation: Tensor
    reward: Tensor
    cost: Tensor


class Start(NamedTuple):
    """An episode ``[1, time, ...]`` and the rows ``[start]`` to predict from."""

    episode: Transitions
    rows: Tensor

    def ahead(self, horizon: int) -> Tensor:
        """Return the rows to predict, ``[horizon, start]``."""
        return self.rows + torch.arange(1, horizon + 1).unsqueeze(-1)


def starts_of(episodes: list[Transitions], horizon: int, every: int = 1) -> list[Start]:
    """Choose start rows; leave out episodes that are too short.

    Args:
        episodes: episodes ``[1, time, ...]``.
        horizon: number of agent steps to predict.
        every: distance between start rows.

    Raises:
        ValueError: every episode is too short.
    """
    lengths = [episode.row.numel() for episode in episodes]
    longest = max(lengths) - 1 - FIRST_START
    if horizon > longest:
        raise ValueError(
            f"horizon: got {horizon}; at most {longest} is possible, because the longest held-out "
            f"episode has {max(lengths)} rows and the first start row is {FIRST_START}."
        )
    rows = [torch.arange(FIRST_START, max(FIRST_START, n - horizon), every) for n in lengths]
    return [Start(*pair) for pair in zip(episodes, rows, strict=True) if len(pair[1])]


# ---- predictors ----------------------------------------------------------------------------------


def truth(model: WorldModel, starts: list[Start], horizon: int) -> Signals:
    """Return the true signals."""
    return _recorded(model, starts, lambda start: start.ahead(horizon))


def last_value(model: WorldModel, starts: list[Start], horizon: int) -> Signals:
    """Predict the signals of the start row at every horizon."""
    return _recorded(model, starts, lambda start: start.rows.expand(horizon, -1))


def training_mean(model: WorldModel, training: Transitions, like: Signals) -> Signals:
    """Predict the mean of the ``training`` rows everywhere.

    An episode's first row has no reward or cost, so their means leave it out.
    """
    arrived = ~training.is_first
    observation = as_decoded(model, training.observation).flatten(0, 1).mean(0)
    return Signals(
        observation.expand_as(like.observation),
        training.reward[arrived].mean().expand_as(like.reward),
        training.cost[arrived].mean().expand_as(like.cost),
    )


def as_decoded(model: WorldModel, observation: Tensor) -> Tensor:
    """Convert recorded observations to the unit of the model's decoder."""
    if isinstance(model.decoder, ImageDecoder):
        return model.decoder.from_bytes(observation)
    return model.normalizer(observation)


@torch.no_grad()
def open_loop(
    model: WorldModel, starts: list[Start], horizon: int, *, seed: int, samples: int = SAMPLES
) -> Signals:
    """Predict the mean over members and sampled states.

    All members start from the same states, filtered from each episode's first row.

    Args:
        model: the world model.
        starts: episodes and start rows.
        horizon: number of agent steps.
        seed: seed of the state noise.
        samples: number of states sampled for each start row.
    """
    generator = torch.Generator().manual_seed(seed)
    return _join([_open_loop(model, start, horizon, samples, generator) for start in starts])


def _open_loop(
    model: WorldModel, start: Start, horizon: int, samples: int, generator: torch.Generator
) -> Signals:
    episode, rows = start
    copies = Transitions(*(x.expand(samples, *x.shape[1:]) for x in episode))
    filtered = model.filter(copies, generator).state
    # [sample, start, ...] -> [member, sample * start, ...]
    state = State(*(x[:, rows].flatten(0, 1).expand(model.members, -1, -1) for x in filtered))
    actions = episode.action[0, start.ahead(horizon)].repeat(1, samples, 1)
    weights = model.parameter_posterior.sample()
    imagined = imagine(
        model.transition(weights),
        recorded_actions(actions),
        state,
        horizon,
        action_size=episode.action.shape[-1],
        generator=generator,
    )
    feat = imagined.state.feat[:, 1:]
    predicted = model.decoder(feat), model.reward(feat), model.cost(feat, weights)[..., 0]
    # [member, horizon, sample * start, ...] -> [horizon, start, ...]
    return Signals(*(x.unflatten(2, (samples, len(rows))).mean((0, 2)) for x in predicted))


def _recorded(
    model: WorldModel, starts: list[Start], rows_of: Callable[[Start], Tensor]
) -> Signals:
    parts = []
    for start in starts:
        episode, rows = start.episode, rows_of(start)
        observation = as_decoded(model, episode.observation[0, rows])
        parts.append(Signals(observation, episode.reward[0, rows], episode.cost[0, rows, 0]))
    return _join(parts)


def _join(parts: list[Signals]) -> Signals:
    """Concatenate the start rows of several episodes."""
    return Signals(*(torch.cat(signal, 1) for signal in zip(*parts, strict=True)))


# ---- measures ------------------------------------------------------------------------------------


def normalised_error(predicted: Tensor, target: Tensor) -> list[float | None]:
    """Compute the mean squared error at each horizon in units of the target's variance.

    ``error[h] = sum_i mean_s (predicted[h, s, i] - target[h, s, i])^2 / sum_i var_i``, where s are
    start rows, i the entries of the signal (one for reward and cost), and ``var_i`` the population
    variance of entry i over all start rows and horizons of ``target``. An exact prediction has
    error 0; predicting the held-out mean itself has error 1, averaged over horizons.

    Args:
        predicted, target: ``[horizon, start, ...]``.

    Returns:
        One error per horizon, or None for all if the target is constant.
    """
    goal = target.double().reshape(*target.shape[:2], -1)
    variance = goal.flatten(0, 1).var(0, unbiased=False).sum()
    if variance == 0:
        return [None] * len(target)
    squared = (predicted.double().reshape(goal.shape) - goal).square()
    return (squared.mean(1).sum(-1) / variance).tolist()


def precision_recall(predicted: Tensor, cost: Tensor, threshold: float) -> dict[str, Any]:
    """Compute precision and recall of the prediction that a row is costly.

    Args:
        predicted: expected cost of rows ``[row]``, per agent step.
        cost: true cost of these rows; a row is costly if it is above 0.
        threshold: expected cost above which a row is called costly.

    Returns:
        ``called``, the number of rows called costly; ``costly``, the number of costly rows;
        ``precision``, the share of called rows that are costly; ``recall``, the share of costly
        rows that are called. A share of no rows is None.
    """
    called, costly = predicted > threshold, cost > 0
    count, true, both = (int(rows.sum()) for rows in (called, costly, called & costly))
    return {
        "called": count,
        "costly": true,
        "precision": both / count if count else None,
        "recall": both / true if true else None,
    }


def error_rows(
    updates: int, predictions: Mapping[str, Signals], target: Signals
) -> list[dict[str, Any]]:
    """Return the normalised errors of all predictors, one row for each signal and horizon."""
    rows = []
    for name in SIGNALS:
        goal = getattr(target, name)
        errors = {k: normalised_error(getattr(p, name), goal) for k, p in predictions.items()}
        rows += [
            {"updates": updates, "signal": name, "horizon": h + 1}
            | {predictor: values[h] for predictor, values in errors.items()}
            for h in range(len(goal))
        ]
    return rows


def call_rows(
    updates: int, predictions: Mapping[str, Signals], target: Signals, threshold: float
) -> list[dict[str, Any]]:
    """Return precision and recall of costly rows at the shortest and longest horizon."""
    return [
        {"updates": updates, "horizon": h, "predictor": predictor}
        | precision_recall(predictions[predictor].cost[h - 1], target.cost[h - 1], threshold)
        for h in sorted({1, len(target.cost)})
        for predictor in ("model", "last_value")
    ]
