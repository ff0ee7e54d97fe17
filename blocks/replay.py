"""Sequence replay: whole episodes in flat arrays, sampled as sequences, restored exactly."""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from blocks.row_storage import RowStorage, shared
from blocks.types import Transitions


class SequenceReplay:
    """Agent steps in the order they came, sampled as sequences within and across episodes.

    A row is an observation with the action, reward and cost that led to it; the first row of an
    episode has ``is_first`` set. A sequence may cross an episode's boundary: filtering resets its
    state at ``is_first``.

    A row of vectors takes ``4 * (observation_size + action_size + 1 + constraints) + 2`` bytes, 102
    for 17 numbers, 6 actions and one cost: a million rows take 102 MB. One of 64x64x3 bytes takes
    12,288 for the observation, 12,306 with 2 actions and one cost: a million rows take 12.3 GB.
    Memory use grows as rows are added.

    With a ``folder`` the observations are in a file there and the rest in memory (18 MB for a
    million rows). The file grows by 4096 rows at a time (50 MB of such images); their disk space is
    reserved before they are used. The operating system can reclaim mapped pages. Such a replay
    never overwrites a row. Its ``state_dict`` holds no observations; it needs the file.

    Args:
        capacity: number of rows kept, >= 2; the oldest are overwritten. With a ``folder``, a limit
            beyond which ``add`` raises. None: every row is kept.
        observation_shape: shape of one observation.
        action_size: size of the action.
        constraints: number of costs in a row.
        observation_dtype: dtype of an observation (uint8 for images).
        seed: seed of the sampling generator.
        folder: folder for the observations' file; without one they are in memory.

    Raises:
        ValueError: the capacity is below 2.
    """

    def __init__(
        self,
        capacity: int | None = None,
        *,
        observation_shape: tuple[int, ...],
        action_size: int,
        constraints: int = 1,
        observation_dtype: torch.dtype = torch.float32,
        seed: int = 0,
        folder: Path | None = None,
    ) -> None:
        if capacity is not None and capacity < 2:
            raise ValueError(
                f"capacity: got {capacity}; allowed 2 and above, or None; a sequence needs at "
                "least 2 rows"
            )
        self.capacity = capacity
        dtype: np.dtype[Any] = cast(Any, torch.empty(0, dtype=observation_dtype)).numpy().dtype
        self._storage = RowStorage(
            capacity,
            observation_shape=observation_shape,
            observation_dtype=dtype,
            action_size=action_size,
            constraints=constraints,
            folder=folder,
        )
        self.added = 0
        self._episode_starts: list[int] = []
        self._generator = np.random.default_rng(seed)

    def __len__(self) -> int:
        """Number of rows that can be sampled."""
        return min(self.added, len(self._storage))

    @property
    def observations(self) -> Tensor:
        """All stored observations, in no particular order."""
        return self._storage.observations[: len(self)]

    def add(
        self,
        observation: NDArray[Any] | Tensor | Sequence[float],
        action: NDArray[Any] | Tensor | Sequence[float],
        *,
        reward: float,
        cost: float | NDArray[Any] | Tensor | Sequence[float],
        is_first: bool,
        terminated: bool = False,
    ) -> None:
        """Append one row.

        Args:
            observation: ``[*observation_shape]``.
            action: ``[action]``, which led to the observation; zero if ``is_first``.
            reward: received on arrival.
            cost: received on arrival, >= 0: ``[constraint]``, or a number if there is one.
            is_first: whether the row starts an episode.
            terminated: whether the observation is terminal.

        Raises:
            ValueError: NaN or infinity in any field, a wrong shape, or fractions for an
                observation of integers; with a ``folder``, the capacity is reached, the disk is
                full, or the folder holds another replay's file. Nothing is stored then.
        """
        cost = (cost,) if isinstance(cost, (int, float)) else cost
        given = (observation, action, reward, cost, is_first, terminated)
        fields = zip(Transitions._fields, given, self._storage.arrays, strict=False)
        row = [self._checked(name, value, array) for name, value, array in fields]
        self._storage.write(self.added, row)
        if is_first:
            self._episode_starts.append(self.added)
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
        return self.gather(shared(starts), seq_len)

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
        costs = self._storage.arrays[Transitions._fields.index("cost")]
        stored = np.flatnonzero(costs[: len(self)].any(-1))
        return oldest + (stored - oldest) % len(self._storage)

    def newest_episode(self) -> Transitions:
        """Return the stored rows of the newest episode as one sequence ``[1, time, ...]``."""
        return self.episodes_since(self._episode_starts[-1])[-1]

    def episodes_since(self, row: int) -> list[Transitions]:
        """Return each episode that began at this row or later, oldest first, ``[1, time, ...]``.

        Args:
            row: counted since the first ever added; ``added`` before an episode is where it begins.
        """
        starts = self._episode_starts[bisect_left(self._episode_starts, row) :]
        oldest = self.added - len(self)
        borders = [max(start, oldest) for start in (*starts, self.added)]
        return [
            self.gather(torch.tensor([first]), end - first)
            for first, end in pairwise(borders)
            if end > first  # else the ring has overwritten it
        ]

    def newest_episodes(self, rows: int) -> int:
        """Count the newest episodes that have at least so many rows together; all, if too few."""
        first = bisect_right(self._episode_starts, self.added - rows) - 1
        return len(self._episode_starts) - max(0, first)

    def gather(self, starts: Tensor, seq_len: int) -> Transitions:
        """Return the sequences that start at the given rows, counted since the first ever added."""
        rows = starts.unsqueeze(-1) + torch.arange(seq_len)
        return Transitions(*self._storage.read(rows), row=rows)

    def state_dict(self) -> dict[str, Any]:
        """Copy what is needed to sample the same sequences again, as tensors and plain values.

        With a ``folder`` the state holds no observations; they are on disk when this returns.
        """
        state = self._generator.bit_generator.state
        inner = {k: str(v) for k, v in state["state"].items()}  # 128-bit integers
        return self._storage.state(self.added) | {
            "added": self.added,
            "episode_starts": list(self._episode_starts),
            "generator": {**state, "state": inner},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a ``state_dict``.

        The capacity may be larger than it was, unless the ring has overwritten rows.

        Raises:
            ValueError: the state or the file in the ``folder`` belongs to another replay, or the
                file is missing or damaged; the replay does not change then.
        """
        self._storage.load(state, int(state["added"]))
        self.added = int(state["added"])
        self._episode_starts = list(state["episode_starts"])
        generator = dict(state["generator"])
        generator["state"] = {k: int(v) for k, v in generator["state"].items()}
        self._generator.bit_generator.state = generator

    def _checked(self, name: str, value: Any, array: NDArray[Any]) -> NDArray[Any]:
        """Convert one field of a row to the array's dtype."""
        value = value.detach().cpu() if isinstance(value, Tensor) else value
        given: NDArray[Any] = np.asarray(value)
        if given.dtype.kind == "f" and array.dtype.kind in "iu":  # images from 0 to 1 would be 0
            raise ValueError(
                f"{name}: got {given.dtype}; allowed {array.dtype}; convert it, or build the "
                "replay with another observation_dtype"
            )
        if given.shape != array.shape[1:]:
            raise ValueError(
                f"{name}: got shape {given.shape}; allowed {array.shape[1:]}; reshape it or "
                "build the replay for it"
            )
        with np.errstate(over="ignore"):  # overflow becomes infinity, which is rejected
            converted = given.astype(array.dtype, copy=False)
        if not np.isfinite(converted).all():
            raise ValueError(
                f"{name}: got NaN or infinity at row {self.added}; allowed finite numbers; "
                "look for the step that produced it"
            )
        return converted
