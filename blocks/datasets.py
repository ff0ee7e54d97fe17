"""Recorded episodes: a folder of .npz files, Minari's format, and their rows for a replay.

A file holds one episode of T agent steps:

================  =================================================================
``observations``  ``[T + 1, ...]``, the first one before any action
``actions``       ``[T, action]``, within the environment's bounds
``rewards``       ``[T]``; with an action repeat, the sum over the repeated steps
``costs``         ``[T]`` or ``[T, constraint]``, >= 0, likewise
``terminated``    whether the task ended it: one flag, or ``[T]`` of which the last counts
``truncated``     whether it was cut off, likewise
================  =================================================================
"""

import io
import os
import re
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypedDict, cast

import numpy as np
from numpy.typing import NDArray

from blocks.episodes import Episode, checked
from blocks.replay import SequenceReplay

TOLERANCE = 1e-4  # of an action's bounds, relative to half their distance


class Row(TypedDict):
    """The arguments of ``SequenceReplay.add``."""

    observation: NDArray[Any]
    action: NDArray[np.float32]
    reward: float
    cost: NDArray[np.float64]
    is_first: bool
    terminated: bool


def save_episode(folder: Path, episode: Episode) -> Path:
    """Write an episode to the next file of a folder, which is created if necessary.

    Returns:
        The file, ``episode-<number>.npz``.

    Raises:
        ValueError: a shape is wrong, a number not finite, or a cost negative.
    """
    episode = checked(episode, "the episode")
    folder.mkdir(parents=True, exist_ok=True)
    numbers = [re.fullmatch(r"episode-(\d+)", file.stem) for file in folder.glob("*.npz")]
    number = 1 + max((int(found[1]) for found in numbers if found), default=-1)
    file = folder / f"episode-{number:06d}.npz"
    unfinished = file.with_suffix(".unfinished")  # a kill leaves no half file under the final name
    with unfinished.open("wb") as stream:
        cast(Any, np).savez_compressed(stream, **episode._asdict())
        stream.flush()
        os.fsync(stream.fileno())
    unfinished.rename(file)
    return file


def load_episodes(folder: Path) -> list[Episode]:
    """Read the episodes of a folder, in the order of their files' names.

    Raises:
        ValueError: the folder has no .npz file, or a file is damaged, lacks an array, or holds a
            wrong shape, a number that is not finite, or a negative cost.
    """
    files = sorted(folder.glob("*.npz"))
    if not files:
        raise ValueError(
            f"folder: got {folder}, which has no episodes; allowed a folder of .npz files; "
            "write them with save_episode"
        )
    return [_read(file) for file in files]


def from_minari(episodes: Iterable[Any], cost: str = "cost") -> list[Episode]:
    """Convert episodes of Minari's format.

    Args:
        episodes: objects with ``observations``, ``actions``, ``rewards``, ``terminations``,
            ``truncations`` and ``infos``, as ``minari.load_dataset(...)`` iterates over.
        cost: key of ``infos`` under which the costs are, ``[T]``, or ``[T + 1]`` with the reset's.

    Raises:
        ValueError: there are no costs under this key, or an episode is wrong as in
            ``load_episodes``.
    """
    return [_from_minari(episode, cost, index) for index, episode in enumerate(episodes)]


def fill(
    replay: SequenceReplay,
    episodes: Iterable[Episode],
    *,
    low: NDArray[Any],
    high: NDArray[Any],
) -> None:
    """Add episodes to a replay; their actions become those of a policy, in [-1, 1].

    Args:
        replay: gets a row for each observation.
        episodes: any number.
        low: smallest action ``[action]`` of the environment, which becomes -1.
        high: largest action ``[action]``, which becomes 1.

    Raises:
        ValueError: an episode is wrong as in ``load_episodes``, does not fit the replay, or has an
            action out of bounds; it is not added then, nor any after it.

    Example:
        >>> replay = SequenceReplay(observation_shape=(3,), action_size=1)
        >>> episode = Episode(np.zeros((3, 3)), np.full((2, 1), 2.0), np.ones(2), np.zeros(2))
        >>> fill(replay, [episode], low=np.array([-2.0]), high=np.array([2.0]))
        >>> len(replay), replay.newest_episode().action.flatten().tolist()
        (3, [0.0, 1.0, 1.0])
    """
    for episode in episodes:
        for row in episode_rows(episode, low=low, high=high):
            replay.add(**row)


def episode_rows(episode: Episode, *, low: NDArray[Any], high: NDArray[Any]) -> Iterator[Row]:
    """Iterate over an episode's rows; the arguments and errors are those of ``fill``."""
    episode = checked(episode, "the episode")
    actions = _scaled(episode.actions, low, high)
    costs = episode.costs.reshape(len(actions), -1).astype(np.float64)
    yield Row(
        observation=episode.observations[0],
        action=np.zeros(actions.shape[1], np.float32),
        reward=0.0,
        cost=np.zeros_like(costs[0]),
        is_first=True,
        terminated=False,
    )
    last = len(actions) - 1
    for step, action in enumerate(actions):
        yield Row(
            observation=episode.observations[step + 1],
            action=action,
            reward=float(episode.rewards[step]),
            cost=costs[step],
            is_first=False,
            terminated=episode.terminated and step == last,
        )


def _read(file: Path) -> Episode:
    try:
        # Not from the file itself: numpy leaves it open if it is damaged.
        with np.load(io.BytesIO(file.read_bytes()), allow_pickle=False) as content:
            arrays: dict[str, NDArray[Any]] = {name: content[name] for name in content.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, TypeError, AttributeError) as error:
        raise ValueError(
            f"folder: got {file}, which cannot be read ({error}); allowed .npz files of plain "
            "arrays; write it again with save_episode, or remove it"
        ) from error
    missing = [name for name in Episode._fields if name not in arrays]
    if missing:
        raise ValueError(
            f"{missing[0]}: got none in {file}, which has {', '.join(arrays) or 'no array'}; "
            f"allowed all of {', '.join(Episode._fields)}; add it"
        )
    return checked(Episode(*(cast(Any, arrays[name]) for name in Episode._fields)), str(file))


def _from_minari(episode: Any, cost: str, index: int) -> Episode:
    where, infos = f"episode {index}", episode.infos
    if not isinstance(infos, Mapping) or cost not in infos:
        names = ", ".join(map(str, cast(Any, infos))) if isinstance(infos, Mapping) else "none"
        raise ValueError(
            f"cost: got {cost!r}, but the infos of {where} are: {names or 'none'}; allowed one of "
            "these; give the key under which the dataset has its costs"
        )
    costs = np.asarray(cast(Any, infos)[cost])
    if costs.shape[:1] == (len(episode.rewards) + 1,):
        costs = costs[1:]  # the first one is the reset's
    converted = Episode(
        episode.observations,
        episode.actions,
        episode.rewards,
        costs,
        episode.terminations,
        episode.truncations,
    )
    return checked(converted, where)


def _scaled(actions: NDArray[Any], low: NDArray[Any], high: NDArray[Any]) -> NDArray[np.float32]:
    """Map actions from the environment's bounds to [-1, 1]."""
    low, high = (np.asarray(bound, np.float64) for bound in (low, high))
    if low.shape != actions.shape[1:] or high.shape != low.shape:
        raise ValueError(
            f"actions: got {actions.shape[1]} numbers an action; allowed {low.shape} as low, "
            f"{high.shape} as high; give the bounds of the environment that was recorded"
        )
    if not (np.isfinite(low) & np.isfinite(high) & (low < high)).all():
        raise ValueError(
            f"low, high: got {low.tolist()}, {high.tolist()}; allowed finite, low below high; "
            "give the bounds of the action space"
        )
    scaled = (2 * actions - (high + low)) / (high - low)
    step, entry = np.unravel_index(np.abs(scaled).argmax(), scaled.shape)
    if abs(scaled[step, entry]) > 1 + TOLERANCE:
        raise ValueError(
            f"actions: got {actions[step, entry]:g} as entry {entry} of step {step}; allowed "
            f"{low[entry]:g} to {high[entry]:g}; clip the actions if the environment did, or give "
            "its bounds"
        )
    return np.clip(scaled, -1, 1).astype(np.float32)
