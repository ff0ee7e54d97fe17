"""A study's folder: what the study is, where its runs stand, and who works on it.

study.json                       the definition, and each run's state
study.lock                       held by the study that works here; says which process it is
<recipe>/<task>/seed<k>/         the runs
logs/<recipe>-<task>-seed<k>     what each run's process printed: .out and .err
"""

from __future__ import annotations

import fcntl
import os
import platform
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

from recipes.runs.atomic_files import read_json, write_json
from recipes.runs.errors import RunError
from recipes.studies.definitions import Study
from recipes.studies.planned_run import RunState


@contextmanager
def working_in(folder: Path, study: Study) -> Iterator[None]:
    """Hold the folder for this study: begin it there, or go on with it.

    The system gives the lock back when its process ends, however it ends: a lock file that is
    left over from a study which was killed is no hindrance.

    Raises:
        RunError: another study is at work there, or the folder holds something else.
    """
    try:
        held = folder.exists()
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / "study.lock").open("a+")
    except OSError as error:
        raise RunError(f"cannot write a study to {folder}: {error.strerror}") from error
    with lock:
        _hold(folder, lock)
        _require_same(folder, study, held)
        yield


def write_states(folder: Path, study: Study, states: Mapping[str, RunState]) -> None:
    """Write study.json, atomically."""
    runs = {name: asdict(state) for name, state in states.items()}
    write_json(folder / "study.json", {"definition": study.definition(), "runs": runs})


def _hold(folder: Path, lock: TextIO) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.seek(0)
        raise RunError(f"{folder}: another study is at work there, {lock.read().strip()}") from None
    except OSError as error:
        raise RunError(f"cannot lock {lock.name}: {error.strerror}") from error
    lock.truncate(0)
    lock.write(f"process {os.getpid()} on {platform.node()} since {time.strftime('%F %T')}\n")
    lock.flush()


def _require_same(folder: Path, study: Study, existed: bool) -> None:
    file = folder / "study.json"
    if not file.exists():
        others = [path.name for path in folder.iterdir() if path.name != "study.lock"]
        if others and existed:
            raise RunError(f"{folder} holds {others[0]} but no study: use another --out")
        return
    stored: dict[str, Any] = read_json(file).get("definition", {})
    asked = study.definition()
    shown = {name: (_show(stored.get(name)), _show(asked.get(name))) for name in stored | asked}
    differing = [f"{name} ({old}, not {new})" for name, (old, new) in shown.items() if old != new]
    if differing:
        what = f"{folder} holds a study with another definition: {', '.join(differing)}"
        raise RunError(f"{what}; use another --out")


def _show(value: Any) -> str:
    """A value of a definition as one reads it."""
    if isinstance(value, list | tuple):
        return " ".join(map(str, value))
    if isinstance(value, dict):
        return " ".join(f"{name}={_show(value[name])}" for name in sorted(value)) or "none"
    return str(value)
