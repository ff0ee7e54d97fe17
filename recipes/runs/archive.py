"""Keep of a study's runs what its figures come from: configuration, summary, every episode.

    python -m recipes.runs.archive runs/studies/ablations docs/studies/runs/ablations

Checkpoints, replays, TensorBoard files and the metrics of updates stay behind: what is left of a
run is some KiB, small enough to be committed, and `report.py` reads it as it reads the run.
Unfinished runs are named and left out; runs that are in the archive already are not touched.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import tyro

from recipes.reports.data import find_runs
from recipes.runs.atomic_files import to_json, write_atomically, write_json
from recipes.runs.errors import RunError, errors_in_one_line
from recipes.runs.folder import RunFolder

OF_THE_MACHINE = ("out", "resume")
"""Paths in config.json that mean nothing elsewhere."""
KEPT = ("episode", "iterate", "evaluation")
"""Kinds of lines of metrics.jsonl."""


@dataclass(frozen=True)
class Options:
    """Which runs, and where they go."""

    source: tyro.conf.Positional[Path]
    """A study's folder, or any other that holds run folders."""
    archive: tyro.conf.Positional[Path]
    """The folder that gets a copy of each finished run, at the same place beneath."""


def archive(source: Path, target: Path) -> tuple[list[Path], list[Path]]:
    """Copy what a report needs of every finished run that is not in `target` yet.

    Returns:
        The runs copied, and the unfinished ones left out, as paths beneath `source`.

    Raises:
        RunError: if `source` holds no run, or something cannot be read or written.
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
    """The summary last: a run that has one is whole."""
    config = run.read_config() | dict.fromkeys(OF_THE_MACHINE)
    rows = [row for kind in KEPT for row in run.read_metrics(kind)]
    lines = "".join(to_json(row) + "\n" for row in sorted(rows, key=lambda row: row["time"]))
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"cannot write to {target}: {error.strerror}") from error
    write_json(target / "config.json", config)
    write_atomically(target / "metrics.jsonl", lambda file: file.write(lines.encode()))
    write_json(target / "summary.json", run.read_summary())


def main(arguments: list[str]) -> None:
    """Entry point: answers errors in one line."""
    with errors_in_one_line():
        options = tyro.cli(Options, args=arguments)
        copied, unfinished = archive(options.source, options.archive)
    print(f"{len(copied)} runs copied to {options.archive}")
    for name in unfinished:
        print(f"left out, unfinished: {name}")


if __name__ == "__main__":
    main(sys.argv[1:])
