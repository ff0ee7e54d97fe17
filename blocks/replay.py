"""Sequence replay: whole episodes in flat arrays, sampled as sequences, restored exactly."""

import os
from collections.abc import Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.lib import format as npy_format
from numpy.typing import NDArray
from torch import Tensor

from blocks.types import Transitions


class SequenceReplay:
    """Ring buffer of agent steps that samples sequences within and across episodes.

    A row is an observation with the action, reward and cost that led to it; the first row of an
    episode has ``is_first`` set. A sequence may cross an episode's boundary: filtering resets its
    state at ``is_first``.

    A row of vectors takes ``4 * (observation_size + action_size + 2) + 2`` bytes, 102 for 17
    numbers and 6 actions: a million rows take 102 MB. A row of 64x64x3 bytes takes
    ``12288 + 4 * (action_size + 2) + 2``, 12,306 for 2 actions: a million rows take 12.3 GB. Memory
    use grows as rows are added.

    With a ``folder`` the observations are in a file there (12.3 GB for a million such images, all
    reserved at the first row) and the rest in memory (18 MB). The operating system can reclaim
    mapped pages. Such a replay never overwrites a row: once it is full, ``add`` raises. Its
    ``state_dict`` holds no observations; it needs the file.

    Args:
        capacity: number of rows kept, >= 2; the oldest are overwritten. With a ``folder``, at least
            the rows of the whole run.
        observation_shape: shape of one observation.
        action_size: size of the action.
        observation_dtype: dtype of an observation (uint8 for images).
        seed: seed of the sampling generator.
        folder: folder for the observations' file; without one they are in memory.

    Raises:
        ValueError: the capacity is below 2.
    """

    def __init__(
        self,
        capacity: int,
        *,
        observation_shape: tuple[int, ...],
        action_size: int,
        observation_dtype: torch.dtype = torch.float32,
        seed: int = 0,
        folder: Path | None = None,
    ) -> None:
        if capacity < 2:
            raise ValueError(
                f"capacity: got {capacity}; allowed 2 and above; a sequence needs at least 2 rows"
            )
        self.capacity = capacity
        dtype: np.dtype[Any] = cast(Any, torch.empty(0, dtype=observation_dtype)).numpy().dtype
        self._layout = ((capacity, *observation_shape), dtype)  # of all observations
        self._file = None if folder is None else folder / "observations.npy"
        self._mapped: np.memmap[Any, Any] | None = None  # set when a row is added or restored
        in_memory = capacity if self._file is None else 0
        # np.zeros allocates memory as rows are written; torch.zeros would allocate it all at once.
        self._arrays: list[NDArray[Any]] = [
            np.zeros((in_memory, *observation_shape), dtype),
            np.zeros((capacity, action_size), np.float32),
            np.zeros(capacity, np.float32),
            np.zeros(capacity, np.float32),
            np.zeros(capacity, np.bool_),
            np.zeros(capacity, np.bool_),
        ]
        # The tensors share the arrays' memory; numpy writes a row several times as fast.
        self._stores = [_shared(array) for array in self._arrays]
        self.added = 0
        self._episode_starts: list[int] = []
        self._generator = np.random.default_rng(seed)

    def __len__(self) -> int:
        """Number of rows that can be sampled."""
        return min(self.added, self.capacity)

    @property
    def observations(self) -> Tensor:
        """All stored observations, in no particular order."""
        return self._stores[0][: len(self)]

    def add(
        self,
        observation: NDArray[Any] | Tensor | Sequence[float],
        action: NDArray[Any] | Tensor | Sequence[float],
        *,
        reward: float,
        cost: float,
        is_first: bool,
        terminated: bool = False,
    ) -> None:
        """Append one row.

        Args:
            observation: ``[*observation_shape]``.
            action: ``[action]``, which led to the observation; zero if ``is_first``.
            reward: received on arrival.
            cost: received on arrival, >= 0.
            is_first: whether the row starts an episode.
            terminated: whether the observation is terminal.

        Raises:
            ValueError: NaN or infinity in any field, or a wrong shape; with a ``folder``, the
                replay is full or the folder holds another replay's file. Nothing is stored then.
        """
        given = (observation, action, reward, cost, is_first, terminated)
        with np.errstate(over="ignore"):  # overflow becomes infinity, which is rejected below
            row: list[NDArray[Any]] = [
                np.asarray(
                    value.detach().cpu() if isinstance(value, Tensor) else value, array.dtype
                )
                for value, array in zip(given, self._arrays, strict=True)
            ]
        for name, value, array in zip(Transitions._fields, row, self._arrays, strict=False):
            if value.shape != array.shape[1:]:
                raise ValueError(
                    f"{name}: got shape {value.shape}; allowed {array.shape[1:]}; reshape it or "
                    "build the replay for it"
                )
            if not np.isfinite(value).all():
                raise ValueError(
                    f"{name}: got NaN or infinity at row {self.added}; allowed finite numbers; "
                    "look for the step that produced it"
                )
        if self._file is not None:
            self._make_room(self._file)
        if is_first:
            self._episode_starts.append(self.added)
        for value, array in zip(row, self._arrays, strict=True):
            array[self.added % self.capacity] = value
        self.added += 1

    def sample(
        self,
        batch_size: int,
        seq_len: int,
        *,
        recent_episodes: int = 1,
        recent_fraction: float = 0.0,
        initial_fraction: float = 0.0,
        costly_fraction: float = 0.0,
    ) -> Transitions:
        """Sample sequences ``[batch, time, ...]`` with uniformly distributed starts.

        The fractions exchange parts of the batch for sequences of particular interest.

        Args:
            batch_size: number of sequences.
            seq_len: rows in a sequence.
            recent_episodes: number of newest episodes that count as recent, >= 1. They are drawn
                with equal probability, whatever their length.
            recent_fraction: share of the batch that starts in a recent episode.
            initial_fraction: share of the batch that starts on the first row of a recent episode.
            costly_fraction: share of the batch that contains a row with a cost, once there is one.

        Returns:
            The sequences.

        Raises:
            ValueError: fewer rows are stored than one sequence needs, or an argument is out of
                range.
        """
        self._require_rows(seq_len)
        fractions = (recent_fraction, initial_fraction, costly_fraction)
        if recent_episodes < 1 or min(fractions) < 0 or sum(fractions) > 1:
            raise ValueError(
                "recent_episodes, recent_fraction, initial_fraction, costly_fraction: got "
                f"{recent_episodes}, {', '.join(map(str, fractions))}; allowed at least 1 episode, "
                "and fractions that add up to at most 1; reduce the fractions"
            )
        draw = cast(Any, self._generator).integers  # not fully typed
        recent, initial, costly = (round(batch_size * fraction) for fraction in fractions)
        oldest, last = self.added - len(self), self.added - seq_len
        borders = np.array([*self._episode_starts[-recent_episodes:], self.added])
        episode: NDArray[np.int64] = draw(len(borders) - 1, size=recent + initial)
        starts: NDArray[np.int64] = draw(oldest, last + 1, size=batch_size)
        starts[:recent] = draw(borders[episode[:recent]], borders[episode[:recent] + 1])
        starts[recent : recent + initial] = borders[episode[recent:]]
        # Starts too near the end are replaced by one of the last whole sequences.
        late: NDArray[np.int64] = draw(max(oldest, last + 1 - seq_len), last + 1, size=batch_size)
        starts = np.where(starts > last, late, starts)
        rows = self._costly_rows() if costly else ()
        if len(rows):
            chosen = rows[draw(len(rows), size=costly)] - draw(seq_len, size=costly)
            starts[batch_size - costly :] = np.minimum(chosen, last)
        starts = starts.clip(oldest)
        return self.gather(_shared(starts), seq_len)

    def effective_size(
        self,
        seq_len: int,
        *,
        recent_episodes: int = 1,
        recent_fraction: float = 0.0,
        initial_fraction: float = 0.0,
        costly_fraction: float = 0.0,
    ) -> float:
        r"""Compute how many equally likely rows would inform as much as what ``sample`` draws.

        .. math::
            n_{eff} = 1 / \sum_i p_i^2

        with the probability :math:`p_i` that an entry of a batch is row i (Kish 1965). Rows drawn
        more often than others make a posterior no narrower than this.

        Args: as for ``sample``.

        Returns:
            A number of rows, at most ``len(self)``.

        Raises:
            ValueError: fewer rows are stored than one sequence needs.
        """
        self._require_rows(seq_len)
        size, oldest = len(self), self.added - len(self)
        starts = np.zeros(size)  # probability that a sequence starts there
        rows = self._costly_rows() - oldest
        costly = costly_fraction if len(rows) else 0.0
        starts += (1 - recent_fraction - initial_fraction - costly) / size
        borders = np.array([*self._episode_starts[-recent_episodes:], self.added]) - oldest
        for first, end in pairwise(borders.clip(0)):
            if end > first:
                starts[first:end] += recent_fraction / (len(borders) - 1) / (end - first)
                starts[first] += initial_fraction / (len(borders) - 1)
        for back in range(seq_len if costly else 0):
            np.add.at(starts, (rows - back).clip(0), costly / len(rows) / seq_len)
        # A sequence covers the rows after its start; none goes past the newest.
        starts[size - seq_len] += starts[size - seq_len + 1 :].sum()
        starts[size - seq_len + 1 :] = 0
        covered = np.cumsum(starts)
        covered[seq_len:] -= covered[:-seq_len].copy()
        share = covered / covered.sum()
        return float(1 / np.square(share).sum())

    def _require_rows(self, seq_len: int) -> None:
        if len(self) < seq_len:
            raise ValueError(
                f"seq_len: got {seq_len}; only {len(self)} rows are stored; collect more or ask "
                "for shorter sequences"
            )

    def _costly_rows(self) -> NDArray[np.int64]:
        """Return the numbers of the stored rows with a cost, counted since the first ever added."""
        oldest = self.added - len(self)
        stored = np.flatnonzero(self._arrays[3][: len(self)])
        return oldest + (stored - oldest) % self.capacity

    def newest_episode(self) -> Transitions:
        """Return the stored rows of the newest episode as one sequence ``[1, time, ...]``."""
        first = max(self._episode_starts[-1], self.added - len(self))
        return self.gather(torch.tensor([first]), self.added - first)

    def gather(self, starts: Tensor, seq_len: int) -> Transitions:
        """Return the sequences that start at the given rows, counted since the first ever added."""
        rows = starts.unsqueeze(-1) + torch.arange(seq_len)
        return Transitions(*(store[rows % self.capacity] for store in self._stores), row=rows)

    def state_dict(self) -> dict[str, Any]:
        """Copy what is needed to sample the same sequences again, as tensors and plain values.

        With a ``folder`` the state holds no observations; they are on disk when this returns.
        """
        stored = {name: store[: len(self)].clone() for name, store in self._saved_stores().items()}
        state = self._generator.bit_generator.state
        inner = {k: str(v) for k, v in state["state"].items()}  # 128-bit integers
        saved: dict[str, Any] = {
            "rows": stored,
            "added": self.added,
            "episode_starts": list(self._episode_starts),
            "generator": {**state, "state": inner},
        }
        if self._mapped is not None and self.added:
            self._mapped.flush()  # before the caller saves a state that needs these rows
            saved["newest_observation"] = self._stores[0][self.added - 1].clone()
        return saved

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a ``state_dict`` in a replay of the same capacity.

        Raises:
            ValueError: the state or the file in the ``folder`` belongs to another replay, or the
                file is missing or damaged; the replay does not change then.
        """
        rows = min(int(state["added"]), self.capacity)
        stores = self._saved_stores()
        if state["rows"].keys() != stores.keys():
            raise ValueError(
                f"folder: got {self._file and self._file.parent}, and a state that holds "
                f"{', '.join(state['rows'])}; a state without observations needs the folder of "
                "their file, a state with observations needs a replay without a folder"
            )
        for name, store in stores.items():
            saved = state["rows"][name]
            if len(saved) != rows or saved.shape[1:] != store.shape[1:]:
                raise ValueError(
                    f"{name}: got saved rows of shape {tuple(saved.shape)}; this replay holds "
                    f"{rows} rows of shape {tuple(store.shape[1:])}; build it with the same "
                    "arguments"
                )
        if self._file is not None and (rows or self._file.exists()):
            self._map(self._reopened(self._file, state))
        for name, store in stores.items():
            store[:rows] = state["rows"][name]
        self.added = int(state["added"])
        self._episode_starts = list(state["episode_starts"])
        generator = dict(state["generator"])
        generator["state"] = {k: int(v) for k, v in generator["state"].items()}
        self._generator.bit_generator.state = generator

    def _saved_stores(self) -> dict[str, Tensor]:
        """Return the stores in the state: all except observations in a file."""
        stores = dict(zip(Transitions._fields, self._stores, strict=False))
        if self._file is not None:
            del stores["observation"]
        return stores

    def _make_room(self, file: Path) -> None:
        """Prepare the file for one more row: create it if necessary, and never wrap around.

        A checkpoint needs the rows below its ``added`` unchanged. A process that loads a checkpoint
        writes only rows from its ``added`` on. So the rows of this and of older checkpoints stay
        unchanged whenever the process is killed, and later rows are written again. A full ring
        would break this: its next row would overwrite one that the last checkpoint needs.
        """
        if self.added >= self.capacity:
            raise ValueError(
                f"capacity: got {self.capacity}, and so many rows are stored; with a folder no row "
                "is overwritten; give a capacity of at least the rows of the whole run"
            )
        if self._mapped is None:
            self._map(_create_file(file, *self._layout))

    def _reopened(self, file: Path, state: dict[str, Any]) -> "np.memmap[Any, Any]":
        """Map the file that belongs to a saved state."""
        mapped, added = _reopen_file(file, *self._layout), int(state["added"])
        if added and not np.array_equal(mapped[added - 1], state["newest_observation"].numpy()):
            raise ValueError(
                f"observation: got {file}, whose row {added - 1} differs from the saved state's; "
                "put back the file of the same run"
            )
        return mapped

    def _map(self, mapped: "np.memmap[Any, Any]") -> None:
        self._mapped = self._arrays[0] = mapped
        self._stores[0] = _shared(mapped)


def _shared(array: NDArray[Any]) -> Tensor:
    """Return a tensor that shares the array's memory."""
    return cast(Any, torch).from_numpy(array)


# The file of a replay's observations: a mapped .npy, whose header holds shape and dtype.


def _open_memmap(file: Path, **options: Any) -> "np.memmap[Any, Any]":
    return cast(Any, npy_format).open_memmap(file, **options)


def _create_file(file: Path, shape: tuple[int, ...], dtype: np.dtype[Any]) -> "np.memmap[Any, Any]":
    """Create and map a file for ``[capacity, *observation_shape]`` with all its disk space.

    Raises:
        ValueError: the file exists, or cannot be created (the disk is too small).
    """
    if file.exists():
        raise ValueError(
            f"folder: got {file.parent}, which already holds the observations of a replay; load "
            "that replay's state first, or take an empty folder"
        )
    # Create it under a temporary name: a kill then leaves no incomplete file under the final one.
    unfinished = file.with_name(f"{file.stem}.unfinished{file.suffix}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        array = _open_memmap(unfinished, mode="w+", dtype=dtype, shape=shape)
        _reserve_space(unfinished)
        unfinished.rename(file)
        _sync_folder(file.parent)
    except OSError as error:
        with suppress(OSError):
            unfinished.unlink()
        raise ValueError(
            f"folder: got {file.parent}, which cannot hold observations {shape} of {dtype} "
            f"({error}); take another folder, or a smaller capacity"
        ) from error
    return array


def _reopen_file(file: Path, shape: tuple[int, ...], dtype: np.dtype[Any]) -> "np.memmap[Any, Any]":
    """Map an existing file of ``_create_file``.

    Raises:
        ValueError: the file is missing, damaged, or of another capacity, shape or dtype.
    """
    try:
        found = _open_memmap(file, mode="r")  # "r+" would extend a truncated file
    except FileNotFoundError as error:
        raise ValueError(
            f"observation: got no file {file}; the saved rows are in it, so put it back"
        ) from error
    except ValueError as error:
        needed = int(np.prod(shape)) * dtype.itemsize
        raise ValueError(
            f"observation: got {file} of {file.stat().st_size} bytes, cut short or damaged "
            f"({error}); this replay needs {needed} bytes and a header; put back the whole file"
        ) from error
    asked: dict[str, tuple[object, object]] = {
        "capacity": (shape[:1], found.shape[:1]),
        "observation_shape": (shape[1:], found.shape[1:]),
        "observation_dtype": (dtype, found.dtype),
    }
    for name, (ours, theirs) in asked.items():
        if ours != theirs:
            raise ValueError(
                f"{name}: got {ours}; allowed {theirs}, with which {file} was made; use the same"
            )
    return _open_memmap(file, mode="r+")


def _reserve_space(file: Path) -> None:
    """Reserve disk space: writing to a mapped file on a full disk would kill the process."""
    reserve = getattr(os, "posix_fallocate", None)  # macOS has none
    if reserve is not None:
        with file.open("r+b") as stream:
            reserve(stream.fileno(), 0, file.stat().st_size)


def _sync_folder(folder: Path) -> None:
    """Write the folder's entries to disk, as ``flush`` does for a file's contents."""
    descriptor = os.open(folder, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)
