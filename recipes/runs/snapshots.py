"""Snapshots: what acting needs of every iterate's policy, for an audit after the run.

    snapshots/0000.pt      the first policy, which acts in the prefill
    snapshots/0001.pt      the policy of iterate 1, and so on

CERL's default policy takes 0.8 MiB, a run of 100,000 steps about 80 MiB. Each file is written
atomically before its policy acts. A resumed run repeats the iterates after its checkpoint with the
same numbers and overwrites their files, so none is lost or stale.
"""

import hashlib
import io
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch

from recipes.runs.atomic_files import write_atomically
from recipes.runs.errors import RunError
from recipes.runs.folder import require_loadable

SMALL = 2**20  # bytes


class Snapshot(NamedTuple):
    """One iterate's policy, as it acted."""

    policy: dict[str, Any]
    """What the agent's ``policy_state`` returned."""
    exploration_scale: float
    """Of the iterate's last episode; in the prefill the scale changes between episodes."""
    digest: str
    """Hash of the file."""


def snapshot_file(run: Path, iterate: int) -> Path:
    """Return the path of an iterate's snapshot."""
    return run / "snapshots" / f"{iterate:04d}.pt"


def save_snapshot(
    run: Path,
    iterate: int,
    policy: dict[str, Any],
    exploration_scale: float,
    keep: Literal["small", "always", "never"],
) -> None:
    """Save an iterate's policy, unless ``keep`` is "never", or "small" and it is not small.

    Raises:
        RunError: the file cannot be written.
        TypeError: the policy holds more than tensors, numbers, strings and containers of these.
    """
    if keep == "never" or (keep == "small" and _size(policy) >= SMALL):
        return
    require_loadable(policy, "policy")
    file = snapshot_file(run, iterate)
    file.parent.mkdir(exist_ok=True)
    content = {"policy": policy, "exploration_scale": exploration_scale}
    write_atomically(file, lambda stream: torch.save(content, stream))


def read_snapshot(run: Path, iterate: int) -> Snapshot:
    """Read an iterate's policy.

    Raises:
        RunError: the file is missing or damaged.
    """
    file = snapshot_file(run, iterate)
    try:
        written = file.read_bytes()
        with zipfile.ZipFile(io.BytesIO(written)) as archive:  # torch.load checks no checksums
            if archive.testzip() is not None:
                raise ValueError("a checksum is wrong")
        content = torch.load(io.BytesIO(written), map_location="cpu", weights_only=True)
        digest = hashlib.sha256(written).hexdigest()[:16]
        return Snapshot(content["policy"], content["exploration_scale"], digest)
    except Exception as error:  # a damaged file may raise any exception
        raise RunError(
            f"snapshot: got {file}, which cannot be read ({type(error).__name__}); allowed an "
            "undamaged file; restore it, or repeat the run"
        ) from error


def _size(value: Any) -> int:
    """Count the bytes of all tensors in a state."""
    if isinstance(value, torch.Tensor):
        return value.nbytes
    if isinstance(value, Mapping):
        return sum(map(_size, value.values()))
    return sum(map(_size, value)) if isinstance(value, list | tuple) else 0
