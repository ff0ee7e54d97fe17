"""A study's folder: its definition, its runs, and a lock.

study.json                       the definition
study.lock                       locked by the process that runs the study; names that process
<recipe>/<task>/seed<k>/         the runs
logs/<recipe>-<task>-seed<k>     output of each run's process: .out and .err
"""

import fcntl
import json
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from recipes.runs.atomic_files import read_json, to_json, write_json
from recipes.runs.errors import RunError
from recipes.studies.definitions import Study


@contextmanager
def lock_folder(folder: Path, study: Study) -> Iterator[None]:
    """Lock the folder for this study, creating it and `study.json` if needed.

    The operating system releases the lock when the process ends for any reason, so a lock file
    left by a killed study does not block the next one.

    Raises:
        RunError: another process runs a study there, or the folder holds something else.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / "study.lock").open("a+")
    except OSError as error:
        raise RunError(f"cannot write a study to {folder}: {error.strerror}") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            holder = lock.read().strip()
            raise RunError(f"{folder}: another study is running there, {holder}") from None
        except OSError as error:
            raise RunError(f"cannot lock {lock.name}: {error.strerror}") from error
        lock.truncate(0)
        lock.write(f"process {os.getpid()} on {platform.node()} since {time.strftime('%F %T')}\n")
        lock.flush()
        _require_same_study(folder, study)
        yield


def _require_same_study(folder: Path, study: Study) -> None:
    file = folder / "study.json"
    if file.exists():
        stored = read_json(file).get("definition", {})
        given = json.loads(to_json(asdict(study)))
        changes = [
            f"{name} ({stored.get(name)}, not {value})"
            for name, value in given.items()
            if value != stored.get(name)
        ]
        if changes:
            message = f"{folder} holds a study with another definition: {', '.join(changes)}"
            raise RunError(f"{message}; use another --out")
    elif others := [path.name for path in folder.iterdir() if path.name != "study.lock"]:
        raise RunError(f"{folder} holds {others[0]} but no study: use another --out")
    else:
        write_json(file, {"definition": asdict(study)})
