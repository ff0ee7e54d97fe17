"""The file of a replay's observations: a mapped ``.npy``, whose header tells shape and dtype."""

import os
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.lib.format import open_memmap


def create(file: Path, shape: tuple[int, ...], dtype: np.dtype) -> np.memmap:
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
        _reserve(unfinished)
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


def reopen(file: Path, shape: tuple[int, ...], dtype: np.dtype) -> np.memmap:
    """The file that ``create`` made, mapped again.

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


def _reserve(file: Path) -> None:
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
