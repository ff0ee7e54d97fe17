"""Rows of a replay in arrays that grow as rows come; the observations optionally in a file."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from blocks.observation_file import Mapped, create_file, extend_file, reopen_file
from blocks.types import Transitions

FIRST_ROWS = 1024
"""Rows for which memory is taken at first, without a capacity; it doubles when they are full."""
FILE_ROWS = 4096
"""Rows for which disk space is reserved at a time: 50 MB for images of 64x64x3 bytes."""


class RowStorage:
    """Holds a replay's rows, as a ring if there is a capacity; ``SequenceReplay`` fills it.

    Args:
        capacity: number of rows; None: memory or file grow.
        observation_shape: shape of one observation.
        observation_dtype: its dtype.
        action_size: size of the action.
        constraints: number of costs.
        folder: folder for the observations' file; None: they are in memory. With both folder and
            capacity, the storage is no ring: a row beyond the capacity is an error.
    """

    def __init__(
        self,
        capacity: int | None,
        *,
        observation_shape: tuple[int, ...],
        observation_dtype: np.dtype[Any],
        action_size: int,
        constraints: int,
        folder: Path | None,
    ) -> None:
        self._capacity = capacity
        self._layout = (observation_shape, observation_dtype)
        self._file = None if folder is None else folder / "observations.npy"
        self._mapped: Mapped | None = None  # set when a row is added or restored
        rows = FIRST_ROWS if capacity is None else capacity
        # np.zeros allocates memory as rows are written; torch.zeros would allocate it all at once.
        self.arrays: list[NDArray[Any]] = [
            np.zeros((0 if folder else rows, *observation_shape), observation_dtype),
            np.zeros((rows, action_size), np.float32),
            np.zeros(rows, np.float32),
            np.zeros((rows, constraints), np.float32),
            np.zeros(rows, np.bool_),
            np.zeros(rows, np.bool_),
        ]
        """One for each field of ``Transitions`` but ``row``."""
        # The tensors share the arrays' memory; numpy writes a row several times as fast.
        self._stores = [shared(array) for array in self.arrays]

    def __len__(self) -> int:
        """Rows that the arrays can hold; a ring's row number r is at ``r % len``."""
        return len(self.arrays[1])

    @property
    def observations(self) -> Tensor:
        """All observations, also where no row has been written yet."""
        return self._stores[0]

    def write(self, row: int, values: Sequence[NDArray[Any]]) -> None:
        """Write row number ``row``, which follows the one written before.

        Raises:
            ValueError: with a folder: the capacity is reached, the disk is too small, or the folder
                holds another replay's file. Nothing is written then.
        """
        if self._file is not None:
            self._make_room_in_file(self._file, row)
        if self._capacity is None and row >= len(self):
            self._grow(2 * row)
        for array, value in zip(self.arrays, values, strict=True):
            array[row % len(self)] = value

    def read(self, rows: Tensor) -> list[Tensor]:
        """Copy the rows of these numbers, one tensor for each array."""
        return [store[rows % len(self)] for store in self._stores]

    def state(self, added: int) -> dict[str, Any]:
        """Copy all rows but observations in a file, which are on disk when this returns."""
        rows = min(added, len(self))
        saved: dict[str, Any] = {
            "rows": {name: store[:rows].clone() for name, store in self._saved_stores().items()}
        }
        if self._mapped is not None and added:
            self._mapped.flush()  # before the caller saves a state that needs these rows
            saved["newest_observation"] = self._stores[0][added - 1].clone()
        return saved

    def load(self, state: dict[str, Any], added: int) -> None:
        """Restore ``state``, also that of a storage with fewer rows, unless it had wrapped around.

        Raises:
            ValueError: the state or the file belongs to another replay, or the file is missing or
                damaged. Nothing changes then.
        """
        saved: dict[str, Tensor] = state["rows"]
        self._check_state(saved, added)
        if self._file is not None and (added or self._file.exists()):
            self._map(self._reopened(self._file, state, added))
        if self._capacity is None and added > len(self):
            self._grow(added)
        for name, store in self._saved_stores().items():
            store[: len(saved[name])] = saved[name]

    def _check_state(self, saved: dict[str, Tensor], added: int) -> None:
        stores = self._saved_stores()
        if saved.keys() != stores.keys():
            raise ValueError(
                f"folder: got {self._file and self._file.parent}, and a state that holds "
                f"{', '.join(saved)}; a state without observations needs the folder of "
                "their file, a state with observations needs a replay without a folder"
            )
        rows = len(saved["reward"])
        if rows < added and rows != self._capacity:
            raise ValueError(
                f"capacity: got {self._capacity}, and a state of the last {rows} of {added} rows; "
                f"allowed {rows}, with which the older ones were overwritten; use the same"
            )
        if self._capacity is not None and rows > self._capacity:
            raise ValueError(
                f"capacity: got {self._capacity}, and a state of {rows} rows; allowed {rows} and "
                "above; give a larger one"
            )
        for name, store in stores.items():
            if saved[name].shape != (rows, *store.shape[1:]):
                raise ValueError(
                    f"{name}: got saved rows of shape {tuple(saved[name].shape)}; allowed "
                    f"{(rows, *store.shape[1:])}; build the replay with the same arguments"
                )

    def _saved_stores(self) -> dict[str, Tensor]:
        """Return the stores in the state: all except observations in a file."""
        stores = dict(zip(Transitions._fields, self._stores, strict=False))
        if self._file is not None:
            del stores["observation"]
        return stores

    def _make_room_in_file(self, file: Path, row: int) -> None:
        """Create or extend the file if it has no place for the row, and never wrap around.

        A checkpoint needs the rows below its ``added`` unchanged. A process that loads a checkpoint
        writes only rows from its ``added`` on. So the rows of this and of older checkpoints stay
        unchanged whenever the process is killed, and later rows are written again. A ring would
        break this: its next row would overwrite one that the last checkpoint needs.
        """
        if self._capacity is not None and row >= self._capacity:
            raise ValueError(
                f"capacity: got {self._capacity}, and so many rows are stored; with a folder no "
                "row is overwritten; give a capacity of at least the rows of the whole run, or none"
            )
        rows = FILE_ROWS if self._capacity is None else min(FILE_ROWS, self._capacity - row)
        shape, dtype = self._layout
        if self._mapped is None:
            self._map(create_file(file, (rows, *shape), dtype))
        elif row >= len(self._mapped):
            self._map(extend_file(file, self._mapped, rows))

    def _reopened(self, file: Path, state: dict[str, Any], added: int) -> Mapped:
        """Map the file that belongs to a saved state."""
        mapped = reopen_file(file, added, *self._layout)
        if added and not np.array_equal(mapped[added - 1], state["newest_observation"].numpy()):
            raise ValueError(
                f"observation: got {file}, whose row {added - 1} differs from the saved state's; "
                "put back the file of the same run"
            )
        return mapped

    def _map(self, mapped: Mapped) -> None:
        self._mapped = self.arrays[0] = mapped
        self._stores[0] = shared(mapped)

    def _grow(self, rows: int) -> None:
        """Enlarge the arrays in memory."""
        for index in range(0 if self._file is None else 1, len(self.arrays)):
            old = self.arrays[index]
            self.arrays[index] = np.zeros((rows, *old.shape[1:]), old.dtype)
            self.arrays[index][: len(old)] = old
            self._stores[index] = shared(self.arrays[index])


def shared(array: NDArray[Any]) -> Tensor:
    """Return a tensor that shares the array's memory."""
    return cast(Any, torch).from_numpy(array)
