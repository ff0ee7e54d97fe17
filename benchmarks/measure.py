"""What every benchmark shares: interleaved rounds, a table, and a JSON file with its provenance."""

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
    """Median, smallest and largest of a quantity over rounds."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f} to {self.high:.2f})"


def interleave(runs: Mapping[Name, Callable[[], object]], rounds: int) -> dict[Name, list[float]]:
    """Seconds of each run in each round, by the clock on the wall: A, B, C, A, B, C, ...

    A slow spell of the machine then falls on all of them alike; other programs had better rest.
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
    """Median, smallest and largest."""
    return Spread(statistics.median(values), min(values), max(values))


def ratios(numerator: list[float], denominator: list[float]) -> Spread:
    """Spread of the ratio within each round, which the machine's slow spells leave alone."""
    return spread([a / b for a, b in zip(numerator, denominator, strict=True)])


def markdown(rows: list[dict[str, Any]]) -> str:
    """A Markdown table; the first row's keys are its header."""
    header = list(rows[0])
    lines = [header, ["---", *["---:"] * (len(header) - 1)]]
    lines += [[str(row[name]) for name in header] for row in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def write(path: Path, benchmark: str, settings: Mapping[str, Any], results: Any) -> None:
    """One JSON file: what was measured, how, on what, and with which versions."""
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
