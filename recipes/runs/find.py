"""Find run folders, finished or not."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from recipes.runs.errors import RunError

RUN_FILES = ("config.json", "metrics.jsonl", "summary.json")


def find_runs(paths: Sequence[Path]) -> list[Path]:
    """Find every run folder in or beneath the paths, and every summary file among them.

    Raises:
        RunError: a path does not exist or holds no run.
    """
    found: dict[Path, Path] = {}
    for path in paths:
        if path.name == "summary.json" and (path.parent / "config.json").exists():
            runs = [path.parent]
        elif path.is_file() and path.suffix == ".json":
            runs = [path]
        elif path.is_dir():
            runs = list(_beneath(path))
        else:
            raise RunError(f"there is no run folder {path}")
        if not runs:
            raise RunError(f"{path} holds no run (none of {', '.join(RUN_FILES)})")
        for run in runs:
            found.setdefault(run.resolve(), run)
    return list(found.values())


def _beneath(folder: Path) -> Iterator[Path]:
    for here, folders, files in os.walk(folder):
        folders.sort()
        if not set(files).isdisjoint(RUN_FILES):
            yield Path(here)
            folders.clear()  # a run holds no other run
