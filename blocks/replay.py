"""Sequence replay: whole episodes in flat arrays, sampled as sequences, restored exactly."""

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.lib.format import open_memmap
from torch import Tensor

from blocks.types import Transitions


class SequenceReplay:
    """Ring buffer of agent steps that samples sequences within and across episode borders.

    A row is an observation with the action, reward and cost that led to it; the first row of an
    episode has ``is_first`` set. A sequence may run over a border: filtering resets its state at
    ``is_first``.

    A row of vectors takes ``4 * (observation_size + action_size + 2) + 2`` bytes, 102 for 17
    numbers and 6 actions: a million rows take 102 MB. A row of 64x64x3 bytes takes
    ``12288 + 4 * (action_size + 2) + 2``, 12,306 for 2 actions: a million rows take 12.3 GB. Memory
    is taken as rows are added.

    With a ``folder`` the observations are in a file in it (12.3 GB for a million such images, all
    of it reserved at the first row) and the rest in memory (18 MB). Mapped
    pages can be reclaimed by the operating system. Such a replay never overwrites a row: once it is
    full, ``add`` raises. Its ``state_dict`` holds no observations; it counts on the file.

    Args:
        capacity: number of rows kept; the oldest are overwritten. With a ``folder``, at least the
            rows of the whole run.
        observation_shape, observation_dtype: of one observation (uint8 for images).
        action_size: size of the action.
        seed: seed of the sampling generator.
        folder: where to keep the observations; without one they are in memory.
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
            raise ValueError(f"capacity: got {capacity}; a sequence needs at least 2 rows.")
        self.capacity = capacity
        dtype = torch.empty(0, dtype=observation_dtype).numpy().dtype
        self._layout = ((capacity, *observation_shape), dtype)  # of all observations
        self._file = None if folder is None else folder / "observations.npy"
        self._mapped: np.memmap | None = None  # from the first row added or restored on
        in_memory = capacity if self._file is None else 0
        # By numpy, which takes memory as rows are written; torch.zeros would take it all at once.
        self._arrays = [
            np.zeros((in_memory, *observation_shape), dtype),
            np.zeros((capacity, action_size), np.float32),
            np.zeros(capacity, np.float32),
            np.zeros(capacity, np.float32),
            np.zeros(capacity, np.bool_),
            np.zeros(capacity, np.bool_),
        ]
        # The same memory: numpy writes a row several times as fast.
        self._stores = [torch.from_numpy(array) for array in self._arrays]
        self.added = 0
        self._episode_starts: list[int] = []
        self._generator = np.random.default_rng(seed)

    def __len__(self) -> int:
        """Number of rows that can be sampled."""
        return min(self.added, self.capacity)

    @property
    def observations(self) -> Tensor:
        """Every stored observation, in no particular order."""
        return self._stores[0][: len(self)]

    def add(
        self,
        observation: Any,
        action: Any,
        *,
        reward: float,
        cost: float,
        is_first: bool,
        terminated: bool = False,
    ) -> None:
        """Append one row.

        Raises:
            ValueError: a NaN or an infinity in any field, or a wrong shape; with a ``folder``, it
                is full or holds another replay's file. Nothing is stored then.
        """
        given = (observation, action, reward, cost, is_first, terminated)
        with np.errstate(over="ignore"):  # what overflows is refused below
            row = [
                np.asarray(
                    value.detach().cpu() if isinstance(value, Tensor) else value, array.dtype
                )
                for value, array in zip(given, self._arrays, strict=True)
            ]
        for name, value, array in zip(Transitions._fields, row, self._arrays, strict=False):
            if value.shape != array.shape[1:]:
                raise ValueError(
                    f"{name}: got shape {value.shape}; this replay holds rows of {array.shape[1:]}."
                )
            if not np.isfinite(value).all():
                raise ValueError(f"{name}: got NaN or infinity at row {self.added}; not stored.")
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
    ) -> Transitions:
        """Sequences ``[batch, time, ...]``, uniform over where they start.

        Args:
            batch_size: number of sequences.
            seq_len: rows in a sequence.
            recent_episodes: how many of the newest episodes count as recent, each as much as
                the others, however long it is.
            recent_fraction: share of the batch that starts in one of them.
            initial_fraction: share of the batch that starts on the first row of one of them.

        Raises:
            ValueError: fewer rows are stored than one sequence needs.
        """
        if len(self) < seq_len:
            raise ValueError(
                f"seq_len: got {seq_len}; only {len(self)} rows are stored. Collect more or ask "
                "for shorter sequences."
            )
        if recent_episodes < 1 or not 0 <= recent_fraction + initial_fraction <= 1:
            raise ValueError(
                f"recent_episodes, recent_fraction, initial_fraction: got {recent_episodes}, "
                f"{recent_fraction}, {initial_fraction}; take at least 1 episode, and fractions "
                "that add up to at most 1."
            )
        recent = round(batch_size * recent_fraction)
        initial = round(batch_size * initial_fraction)
        oldest, last = self.added - len(self), self.added - seq_len
        borders = np.array([*self._episode_starts[-recent_episodes:], self.added])
        episode = self._generator.integers(len(borders) - 1, size=recent + initial)
        starts = self._generator.integers(oldest, last + 1, size=batch_size)
        starts[:recent] = self._generator.integers(
            borders[episode[:recent]], borders[episode[:recent] + 1]
        )
        starts[recent : recent + initial] = borders[episode[recent:]]
        # Too near the end for a whole sequence: any of the last ones that overlap it.
        late = self._generator.integers(max(oldest, last + 1 - seq_len), last + 1, size=batch_size)
        starts = np.where(starts > last, late, starts).clip(oldest)
        return self.gather(torch.from_numpy(starts), seq_len)

    def newest_episode(self) -> Transitions:
        """The newest episode as one sequence ``[1, time, ...]``, as far as it is still stored."""
        first = max(self._episode_starts[-1], self.added - len(self))
        return self.gather(torch.tensor([first]), self.added - first)

    def gather(self, starts: Tensor, seq_len: int) -> Transitions:
        """The sequences that begin at the given rows (counted since the first ever added)."""
        rows = starts.unsqueeze(-1) + torch.arange(seq_len)
        return Transitions(*(store[rows % self.capacity] for store in self._stores), row=rows)

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on sampling the same sequences, as tensors and plain values.

        With a ``folder`` the observations are not in it, but on disk when this returns.
        """
        stored = {name: store[: len(self)].clone() for name, store in self._saved_stores().items()}
        state = self._generator.bit_generator.state
        inner = {k: str(v) for k, v in state["state"].items()}  # 128-bit integers
        saved = {
            "rows": stored,
            "added": self.added,
            "episode_starts": list(self._episode_starts),
            "generator": {**state, "state": inner},
        }
        if self._mapped is not None and self.added:
            self._mapped.flush()  # before anybody saves the state that counts on it
            saved["newest_observation"] = self._stores[0][self.added - 1].clone()
        return saved

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned, into a replay of the same capacity.

        Raises:
            ValueError: the state, or the file in the ``folder``, is of another replay, or the file
                is missing or damaged; the replay stays as it was.
        """
        rows = min(int(state["added"]), self.capacity)
        stores = self._saved_stores()
        if state["rows"].keys() != stores.keys():
            raise ValueError(
                f"folder: got {self._file and self._file.parent}, and a state that holds "
                f"{', '.join(state['rows'])}; a state without observations needs the folder that "
                "they are in, one with observations a replay without a folder."
            )
        for name, store in stores.items():
            saved = state["rows"][name]
            if len(saved) != rows or saved.shape[1:] != store.shape[1:]:
                raise ValueError(
                    f"{name}: got saved rows of shape {tuple(saved.shape)}; this replay holds "
                    f"{rows} rows of shape {tuple(store.shape[1:])}."
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
        """The stores whose rows are in the state: all, but for observations kept in a file."""
        stores = dict(zip(Transitions._fields, self._stores, strict=False))
        if self._file is not None:
            del stores["observation"]
        return stores

    def _make_room(self, file: Path) -> None:
        """Before a row is written: make the file if there is none yet, and never wrap around.

        A checkpoint counts on the rows below its ``added``, as they were. A process writes rows
        from the ``added`` of the checkpoint that it loaded on, and each only once, so the rows that
        a checkpoint counts on, and those of any older one, stay as they were whenever the process
        is killed; what was written after the checkpoint is written again. A full ring would break
        this: its next row takes the place of one that the last checkpoint counts on.
        """
        if self.added >= self.capacity:
            raise ValueError(
                f"capacity: got {self.capacity}, and so many rows are stored; with a folder no row "
                "is overwritten, so give a capacity of at least the rows of the whole run."
            )
        if self._mapped is None:
            self._map(_create_file(file, *self._layout))

    def _reopened(self, file: Path, state: dict[str, Any]) -> np.memmap:
        """The file that a saved state counts on."""
        mapped, added = _reopen_file(file, *self._layout), int(state["added"])
        if added and not np.array_equal(mapped[added - 1], state["newest_observation"].numpy()):
            raise ValueError(
                f"observation: got {file} with another row {added - 1} than the state was saved "
                "with; put back the file of the same run."
            )
        return mapped

    def _map(self, mapped: np.memmap) -> None:
        self._mapped = self._arrays[0] = mapped
        self._stores[0] = torch.from_numpy(mapped)


# The file of a replay's observations: a mapped .npy, whose header tells shape and dtype.


def _create_file(file: Path, shape: tuple[int, ...], dtype: np.dtype) -> np.memmap:
    """A new file for ``[capacity, *observation_shape]``, mapped and with all its room on disk.

    Raises:
        ValueError: the file is there already, or cannot be made (the disk is too small).
    """
    if file.exists():
        raise ValueError(
            f"folder: got {file.parent}, which already holds the observations of a replay; load "
            "that replay's state first, or take an empty folder."
        )
    # Made under another name, so that a kill leaves no half a file under the right one.
    unfinished = file.with_name(f"{file.stem}.unfinished{file.suffix}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        array = open_memmap(unfinished, mode="w+", dtype=dtype, shape=shape)
        _reserve_space(unfinished)
        unfinished.rename(file)
        _sync_folder(file.parent)
    except OSError as error:
        with suppress(OSError):
            unfinished.unlink()
        raise ValueError(
            f"folder: got {file.parent}, which cannot hold observations {shape} of {dtype} "
            f"({error}); take another folder, or a smaller capacity."
        ) from error
    return array


def _reopen_file(file: Path, shape: tuple[int, ...], dtype: np.dtype) -> np.memmap:
    """The file that ``_create_file`` made, mapped again.

    Raises:
        ValueError: it is missing, damaged, or of another capacity, shape or dtype.
    """
    try:
        found = open_memmap(file, mode="r")  # "r+" would lengthen a file that was cut short
    except FileNotFoundError as error:
        raise ValueError(
            f"observation: got no file {file}; the saved rows are in it, so put it back."
        ) from error
    except ValueError as error:
        needed = int(np.prod(shape)) * dtype.itemsize
        raise ValueError(
            f"observation: got {file} of {file.stat().st_size} bytes, cut short or damaged "
            f"({error}); this replay needs {needed} bytes and a header. Put back the whole file."
        ) from error
    asked = {
        "capacity": (shape[:1], found.shape[:1]),
        "observation_shape": (shape[1:], found.shape[1:]),
        "observation_dtype": (dtype, found.dtype),
    }
    for name, (ours, theirs) in asked.items():
        if ours != theirs:
            raise ValueError(
                f"{name}: got {ours}; {file} was made with {theirs}, so take the same again."
            )
    return open_memmap(file, mode="r+")


def _reserve_space(file: Path) -> None:
    """Take the room on disk now: writing to a mapped file when the disk is full kills a process."""
    reserve = getattr(os, "posix_fallocate", None)  # macOS has none
    if reserve is not None:
        with file.open("r+b") as stream:
            reserve(stream.fileno(), 0, file.stat().st_size)


def _sync_folder(folder: Path) -> None:
    """Have the file's name on disk, as flushing the file does for what is in it."""
    descriptor = os.open(folder, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)
