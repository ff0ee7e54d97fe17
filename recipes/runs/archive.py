"""Copy the parts of a study's runs that a report needs: configuration, summary, episodes, audit.

    python -m recipes.runs.archive runs/studies/ablations docs/studies/runs/ablations

Leaves out checkpoints, replays, TensorBoard files and the metrics of updates. A copy has a few KiB,
small enough to commit, and `report.py` reads it like a run. Lists and skips unfinished runs; does
not touch runs that are already in the archive.
"""

from pathlib import Path

import tyro
from tyro.conf import Positional

from recipes.runs.atomic_files import read_json, to_json, write_atomically, write_json
from recipes.runs.errors import RunError, errors_in_one_line
from recipes.runs.find import find_runs
from recipes.runs.folder import RunFolder

MACHINE_PATHS = ("out", "resume")
"""Paths in config.json that mean nothing on another machine."""
KEPT_KINDS = ("episode", "iterate", "evaluation")
"""The kinds of lines copied from metrics.jsonl."""


def archive(source: Path, target: Path) -> tuple[list[Path], list[Path]]:
    """Copy every finished run that is not in ``target`` yet.

    Returns:
        The copied runs and the unfinished ones, as paths relative to ``source``.

    Raises:
        RunError: ``source`` holds no run, or a file cannot be read or written.
    """
    copied, unfinished = [], []
    for folder in find_runs([source]):
        name = folder.relative_to(source)
        if not (folder / "summary.json").exists():
            unfinished.append(name)
        elif not (target / name / "summary.json").exists():
            _copy(RunFolder(folder), target / name)
            copied.append(name)
    return copied, unfinished


def _copy(run: RunFolder, target: Path) -> None:
    """Copy one run; write the summary last, because it marks a complete run."""
    config = run.read_config() | dict.fromkeys(MACHINE_PATHS)
    rows = [row for kind in KEPT_KINDS for row in run.read_metrics(kind)]
    lines = "".join(to_json(row) + "\n" for row in sorted(rows, key=lambda row: row["time"]))
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"cannot write to {target}: {error.strerror}") from error
    write_json(target / "config.json", config)
    write_atomically(target / "metrics.jsonl", lambda file: file.write(lines.encode()))
    if (run.path / "audit.json").exists():
        write_json(target / "audit.json", read_json(run.path / "audit.json"))
    write_json(target / "summary.json", run.read_summary())


def main(source: Positional[Path], target: Positional[Path]) -> None:
    """Copy finished runs.

    Args:
        source: folder of a study, or another folder with runs in it.
        target: folder for the copies; each run keeps its relative path.
    """
    with errors_in_one_line():
        copied, unfinished = archive(source, target)
    print(f"{len(copied)} runs copied to {target}")
    for name in unfinished:
        print(f"left out, unfinished: {name}")


if __name__ == "__main__":
    tyro.cli(main)
