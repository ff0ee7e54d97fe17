"""Sequence replay: whole episodes in flat arrays, sampled as sequences, restored exactly."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from blocks.types import Transitions


class SequenceReplay:
    """Ring buffer of agent steps that samples sequences within and across episode borders.

    A row is an observation with the action, reward and cost that led to it; the first row of an
    episode has ``is_first`` set. A sequence may run over a border: filtering resets its state at
    ``is_first``. Memory: ``4 * (observation + action + 2) + 2`` bytes a row for vectors.

    Args:
        capacity: number of rows kept; the oldest are overwritten.
        observation_shape, observation_dtype: of one observation (uint8 for images).
        action: size of the action.
        seed: seed of the sampling generator.
    """

    def __init__(
        self,
        capacity: int,
        *,
        observation_shape: tuple[int, ...],
        action: int,
        observation_dtype: torch.dtype = torch.float32,
        seed: int = 0,
    ) -> None:
        if capacity < 2:
            raise ValueError(f"capacity: got {capacity}; a sequence needs at least 2 rows.")
        self.capacity = capacity
        self._stores = (
            torch.zeros(capacity, *observation_shape, dtype=observation_dtype),
            torch.zeros(capacity, action),
            torch.zeros(capacity),
            torch.zeros(capacity),
            torch.zeros(capacity, dtype=torch.bool),
            torch.zeros(capacity, dtype=torch.bool),
        )
        # The same memory: numpy writes a row several times as fast.
        self._arrays = tuple(store.numpy() for store in self._stores)
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
            ValueError: a NaN or an infinity in any field, or a wrong shape; nothing is stored then.
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
        """Everything needed to go on sampling the same sequences, as tensors and plain values."""
        stored = {
            k: v[: len(self)].clone()
            for k, v in zip(Transitions._fields, self._stores, strict=False)
        }
        state = self._generator.bit_generator.state
        inner = {k: str(v) for k, v in state["state"].items()}  # 128-bit integers
        return {
            "rows": stored,
            "added": self.added,
            "episode_starts": list(self._episode_starts),
            "generator": {**state, "state": inner},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned, into a replay of the same capacity."""
        rows = min(int(state["added"]), self.capacity)
        stores = dict(zip(Transitions._fields, self._stores, strict=False))
        for name, store in stores.items():
            saved = state["rows"][name]
            if len(saved) != rows or saved.shape[1:] != store.shape[1:]:
                raise ValueError(
                    f"{name}: got saved rows of shape {tuple(saved.shape)}; this replay holds "
                    f"{rows} rows of shape {tuple(store.shape[1:])}."
                )
        for name, store in stores.items():
            store[:rows] = state["rows"][name]
        self.added = int(state["added"])
        self._episode_starts = list(state["episode_starts"])
        generator = dict(state["generator"])
        generator["state"] = {k: int(v) for k, v in generator["state"].items()}
        self._generator.bit_generator.state = generator
