"""The file of a replay's observations: a mapped .npy that grows at its end.

A kill at any moment leaves a file that ``numpy.load`` reads, with every row flushed before: the
file is created under a temporary name; to grow, its disk space is reserved first, and then its
header takes the new number of rows in one write of unchanged length.
"""

import io
import os
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.lib import format as npy_format

Mapped = np.memmap[Any, Any]
"""Array ``[row, *observation_shape]`` in a file."""


def create_file(file: Path, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Mapped:
    """Create and map a file for ``[row, *observation_shape]`` with all its disk space.

    Raises:
        ValueError: the file exists, or cannot be created (the disk is too small).
    """
    if file.exists():
        raise ValueError(
            f"folder: got {file.parent}, which already holds the observations of a replay; load "
            "that replay's state first, or take an empty folder"
        )
    unfinished = file.with_name(f"{file.stem}.unfinished{file.suffix}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        array = _open_memmap(unfinished, mode="w+", dtype=dtype, shape=shape)
        _reserve_space(unfinished, unfinished.stat().st_size)
        unfinished.rename(file)
        _sync_folder(file.parent)
    except OSError as error:
        with suppress(OSError):
            unfinished.unlink()
        raise _no_space(file, shape, dtype, error) from error
    return array


def extend_file(file: Path, array: Mapped, rows: int) -> Mapped:
    """Map the file of ``array`` with ``rows`` more rows; ``array`` remains valid.

    Raises:
        ValueError: the disk is too small; the file does not change then.
    """
    shape = (len(array) + rows, *array.shape[1:])
    old_size = array.offset + array.nbytes
    header = _header(shape, array.dtype)
    assert len(header) == array.offset  # numpy leaves space for any number of rows
    try:
        _reserve_space(file, array.offset + int(np.prod(shape)) * array.dtype.itemsize)
        with file.open("r+b", buffering=0) as stream:
            stream.write(header)
    except OSError as error:
        with suppress(OSError):
            os.truncate(file, old_size)
        raise _no_space(file, shape, array.dtype, error) from error
    return _open_memmap(file, mode="r+")


def reopen_file(file: Path, rows: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Mapped:
    """Map an existing file that holds at least ``rows`` observations of this shape and dtype.

    Raises:
        ValueError: the file is missing, damaged, too short, or of another shape or dtype.
    """
    try:
        found = _open_memmap(file, mode="r")  # "r+" would extend a truncated file
    except FileNotFoundError as error:
        raise ValueError(
            f"observation: got no file {file}; the saved rows are in it, so put it back"
        ) from error
    except ValueError as error:
        needed = rows * int(np.prod(shape)) * dtype.itemsize
        raise ValueError(
            f"observation: got {file} of {file.stat().st_size} bytes, cut short or damaged "
            f"({error}); the saved rows need {needed} bytes and a header; put back the whole file"
        ) from error
    asked: dict[str, tuple[object, object]] = {
        "observation_shape": (shape, found.shape[1:]),
        "observation_dtype": (dtype, found.dtype),
    }
    for name, (ours, theirs) in asked.items():
        if ours != theirs:
            raise ValueError(
                f"{name}: got {ours}; allowed {theirs}, with which {file} was made; use the same"
            )
    if len(found) < rows:
        raise ValueError(
            f"observation: got {file} of {len(found)} rows; the saved state needs {rows}; put back "
            "the file of the same run"
        )
    return _open_memmap(file, mode="r+")


def _open_memmap(file: Path, **options: Any) -> Mapped:
    return cast(Any, npy_format).open_memmap(file, **options)


def _header(shape: tuple[int, ...], dtype: np.dtype[Any]) -> bytes:
    npy, header = cast(Any, npy_format), io.BytesIO()
    described = {"descr": npy.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    npy.write_array_header_1_0(header, described)
    return header.getvalue()


def _reserve_space(file: Path, size: int) -> None:
    """Reserve disk space: writing to a mapped file on a full disk would kill the process."""
    reserve = getattr(os, "posix_fallocate", None)  # macOS has none
    with file.open("r+b") as stream:
        if reserve is not None:
            reserve(stream.fileno(), 0, size)
        elif os.fstat(stream.fileno()).st_size < size:
            os.truncate(stream.fileno(), size)
        os.fsync(stream.fileno())


def _sync_folder(folder: Path) -> None:
    """Write the folder's entries to disk, as ``flush`` does for a file's contents."""
    descriptor = os.open(folder, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


def _no_space(
    file: Path, shape: tuple[int, ...], dtype: np.dtype[Any], error: OSError
) -> ValueError:
    return ValueError(
        f"folder: got {file.parent}, which cannot hold observations {shape} of {dtype} ({error}); "
        "take a folder on a larger disk, or make space"
    )
