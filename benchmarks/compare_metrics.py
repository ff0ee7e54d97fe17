"""Are two runs the same to the bit? Compares their ``metrics.jsonl``, but for the times.

    python benchmarks/compare_metrics.py RUN OTHER_RUN --steps 10000

Ends with code 1 at the first line that differs, and says how. For changes that must change no
number: run the same command before and after, with ``--threads 1`` or ``2`` alike.
"""

import json
import sys
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import tyro


@dataclass(frozen=True)
class Options:
    """Which runs, and how much of them."""

    run: tyro.conf.Positional[Path]
    """A run's folder."""
    other: tyro.conf.Positional[Path]
    """Another's."""
    steps: int | None = None
    """Compare the lines up to this environment step; all by default."""


def read(folder: Path, steps: int | None) -> list[dict[str, Any]]:
    """The lines of a run, without the time at which they were written."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [
        {name: value for name, value in row.items() if name != "time"}
        for row in rows
        if steps is None or row["step"] <= steps
    ]


def main(options: Options) -> int:
    """Compare; returns the exit code."""
    rows, others = (read(folder, options.steps) for folder in (options.run, options.other))
    for number, (row, other) in enumerate(zip_longest(rows, others, fillvalue={}), start=1):
        for name in sorted(row.keys() | other.keys()):
            if row.get(name) != other.get(name):
                print(f"line {number}: {name} is {row.get(name)}, and {other.get(name)}")
                return 1
    print(f"{len(rows)} lines are equal, up to step {rows[-1]['step'] if rows else 0:,}")
    return 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options)))
