"""Write files atomically; convert values to JSON."""

import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from recipes.runs.errors import RunError


def to_json(value: Any) -> str:
    """Convert a value to one line of JSON."""
    return json.dumps(_plain(value), allow_nan=False)


def _plain(value: Any) -> Any:
    """Convert to types of JSON: tuples to lists, paths and non-finite numbers to strings."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "item"):  # a NumPy or torch scalar
        return _plain(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def read_json(file: Path) -> dict[str, Any]:
    """Read a JSON file.

    Raises:
        RunError: the file cannot be read.
    """
    try:
        return json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise RunError(f"cannot read {file}: {error}") from error


def write_json(file: Path, content: dict[str, Any]) -> None:
    """Write a JSON file atomically, as ``write_atomically``."""
    text = json.dumps(_plain(content), indent=2, allow_nan=False) + "\n"
    write_atomically(file, lambda stream: stream.write(text.encode()))


def write_atomically(file: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write through a temporary file; a kill leaves ``file`` complete, either old or new.

    Raises:
        RunError: the file cannot be written.
    """
    temporary = file.with_name(f".writing{file.suffix}")
    try:
        with temporary.open("wb") as stream:
            write(stream)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(file)
        folder = os.open(file.parent, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)
    except (OSError, RuntimeError) as error:  # torch.save turns a full disk into a RuntimeError
        temporary.unlink(missing_ok=True)
        if isinstance(error.__context__, KeyboardInterrupt):  # and a Ctrl-C, too
            raise error.__context__ from None
        raise RunError(f"cannot write {file}: {error}".splitlines()[0]) from error
