"""Shared by all benchmarks: interleaved rounds, tables, and JSON files with provenance."""

import gc
import json
import statistics
import time
from collections.abc import Callable, Hashable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from recipes.runs.provenance import git_commit, hardware, installed_versions

Name = TypeVar("Name", bound=Hashable)

WARM_UPS = 2
MORE_PACKAGES = ("torchrl", "tensordict")


class Spread(NamedTuple):
    """Median, smallest and largest value over rounds."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f} to {self.high:.2f})"


def interleave(runs: Mapping[Name, Callable[[], object]], rounds: int) -> dict[Name, list[float]]:
    """Measure the wall-clock seconds of each run in each round, in the order A, B, C, A, B, C, ...

    A slow phase of the machine then affects all runs alike. Stop other programs first.
    """
    for run in runs.values():
        for _ in range(WARM_UPS):
            run()
    seconds: dict[Name, list[float]] = {name: [] for name in runs}
    gc.disable()
    try:
        for _ in range(rounds):
            for name, run in runs.items():
                gc.collect()
                start = time.perf_counter()
                run()
                seconds[name].append(time.perf_counter() - start)
    finally:
        gc.enable()
    return seconds


def spread(values: list[float]) -> Spread:
    """Compute median, smallest and largest value."""
    return Spread(statistics.median(values), min(values), max(values))


def ratios(numerator: list[float], denominator: list[float]) -> Spread:
    """Compute the spread of the ratio within each round, which is robust to slow phases."""
    return spread([a / b for a, b in zip(numerator, denominator, strict=True)])


def markdown(rows: list[dict[str, Any]]) -> str:
    """Format a Markdown table; the first row's keys are the header."""
    header = list(rows[0])
    lines = [header, ["---", *["---:"] * (len(header) - 1)]]
    lines += [[str(row[name]) for name in header] for row in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def write(path: Path, benchmark: str, settings: Mapping[str, Any], results: Any) -> None:
    """Write results, settings, versions, commit and hardware to one JSON file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "benchmark": benchmark,
        "settings": {name: value for name, value in settings.items() if name != "out"},
        "results": results,
        "versions": installed_versions() | {name: _version(name) for name in MORE_PACKAGES},
        "commit": git_commit(),
        "hardware": hardware(),
    }
    path.write_text(json.dumps(content, indent=2) + "\n")
    print(f"\nwritten to {path}")


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
