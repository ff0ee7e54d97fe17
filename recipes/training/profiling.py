"""`--profile`: the time of each part of an iterate, and a trace.

The shares are wall time of the main thread in the first iterate that learns from an episode; each
part excludes the parts inside it. Profiling slows small operations most. The trace holds every
operation on all threads: open it in chrome://tracing or https://ui.perfetto.dev.

The critics learn on a second thread if there is one; their time counts beside the main thread's.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import rich
from rich.table import Table
from torch._C._profiler import _ExperimentalConfig
from torch.profiler import profile, record_function

from recipes.runs.atomic_files import write_json

PARTS = (
    *("environment", "acting", "replay"),
    *("model losses", "model gradients and step"),
    *("imagination", "returns", "policy gradients", "policy step", "critics"),
    *("rest of learning", "checkpoint"),
)
"""Names of the parts in calls of ``record_function``."""
OTHER = "everything else"


class Profile:
    """Profiles one iterate: writes ``profile.json`` and ``trace.json.gz`` to the folder, if any."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._table: Table | None = None

    @contextmanager
    def iterate(self, index: int) -> Iterator[None]:
        """Profile the block if it is the first iterate that learns."""
        if not self._folder or self._table or index < 1:  # the prefill learns nothing
            yield
            return
        all_threads = _ExperimentalConfig(profile_all_threads=True)
        with profile(experimental_config=all_threads) as profiler, record_function(OTHER):
            yield
        profiler.export_chrome_trace(str(self._folder / "trace.json.gz"))
        seconds = seconds_of_parts(profiler)
        total = sum(seconds.values())
        shares = {part: value / total for part, value in seconds.items()}
        write_json(self._folder / "profile.json", {"seconds": seconds, "shares": shares})
        self._table = Table("part", "seconds", "share", title="time of an iterate")
        for part in sorted(seconds, key=shares.__getitem__, reverse=True):
            self._table.add_row(part, f"{seconds[part]:.2f}", f"{shares[part]:.1%}")

    def print(self) -> None:
        """Print the table, if an iterate was profiled."""
        if self._table:
            rich.print(self._table)


def seconds_of_parts(profiler: profile) -> dict[str, float]:
    """Sum the seconds of each part, without the parts inside it."""
    seconds = dict.fromkeys((*PARTS, OTHER), 0.0)
    for event in profiler.events() or ():
        if event.name in seconds and event.device_type.name == "CPU":
            duration = event.time_range.elapsed_us() / 1e6
            seconds[event.name] += duration
            around = event.cpu_parent
            while around and around.name not in seconds:
                around = around.cpu_parent
            if around:
                seconds[around.name] -= duration
    return seconds
