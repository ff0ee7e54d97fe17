"""`--profile`: where a run's time goes, part by part, and a trace of one iterate.

The shares are wall time of the main thread, from where this process began, each part without the
parts inside it. The trace holds every operation of one iterate on all threads: open it in
chrome://tracing or https://ui.perfetto.dev. Recording slows that iterate down, so the shares leave
it out.
"""

import functools
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import rich
import torch
from rich.table import Table
from torch._C._profiler import _ExperimentalConfig
from torch.profiler import ProfilerActivity, profile, record_function

from recipes.runs.atomic_files import write_json

PARTS = {
    "environment": ("environment.reset", "environment.step"),
    "acting": ("agent.act",),
    "replay": ("agent.replay.add", "agent.replay.sample"),
    "filter": ("agent.model.filter",),
    "model losses": ("agent.model.loss",),
    "model gradients and step": ("agent.update_model",),
    "rest of the model updates": ("agent.learn_model",),
    "imagination": ("agent.imagine",),
    "returns": ("agent.imagined_returns",),
    "policy gradients and step": ("agent.optimizer.step",),
    "critics": ("agent.learn_critics",),
    "rest of the policy updates": ("agent.learn_policy",),
    "rest of learning": ("agent.begin", "agent.learn"),
    "checkpoint and log": ("run_folder.save_checkpoint", "run_folder.log"),
}
"""Part -> the methods whose time it is, without what other parts take within them.

With two threads the critics learn beside the imagination: what is then waited for them is in the
rest of the policy updates.
"""
OTHER = "everything else"


class Profile:
    """Times the parts of a run and traces one of its iterates; does nothing without a folder.

    Args:
        folder: where `profile.json` and `trace.json.gz` go; None: no profile.
        owners: the objects that `PARTS` speaks of, by name; their methods are wrapped.
    """

    def __init__(self, folder: Path | None, **owners: Any) -> None:
        self._folder = folder
        self._seconds = dict.fromkeys(PARTS, 0.0)
        self._within: list[float] = []  # of each open part: seconds that parts within it took
        self._traced, self._traced_seconds = False, 0.0
        self._timing = True
        self._begun = time.perf_counter()
        if folder:
            for part, methods in PARTS.items():
                for method in methods:
                    self._watch(owners, method, part)

    @contextmanager
    def iterate(self, index: int) -> Iterator[None]:
        """Around one iterate of the run; the trace is of the first that learns from an episode."""
        if not self._folder or self._traced or index < 1:  # the prefill learns nothing
            yield
            return
        self._traced = True
        begun, self._timing = time.perf_counter(), False
        activities = [ProfilerActivity.CPU]
        if torch.cuda.is_available():
            activities.append(ProfilerActivity.CUDA)
        all_threads = _ExperimentalConfig(profile_all_threads=True)
        with profile(activities=activities, experimental_config=all_threads) as profiler:
            yield
        profiler.export_chrome_trace(str(self._folder / "trace.json.gz"))
        self._timing = True
        self._traced_seconds = time.perf_counter() - begun

    def write(self) -> None:
        """Write `profile.json` and print the table."""
        if not self._folder:
            return
        total = time.perf_counter() - self._begun - self._traced_seconds
        seconds = self._seconds | {OTHER: total - sum(self._seconds.values())}
        shares = {part: value / total for part, value in seconds.items()}
        content = {"seconds": seconds, "shares": shares}
        write_json(self._folder / "profile.json", content)
        table = Table("part", "seconds", "share", title="where the time went")
        for part, value in sorted(seconds.items(), key=lambda item: -item[1]):
            table.add_row(part, f"{value:.1f}", f"{shares[part]:.1%}")
        rich.print(table)

    def _watch(self, owners: dict[str, Any], path: str, part: str) -> None:
        name, *attributes, method = path.split(".")
        owner = functools.reduce(getattr, attributes, owners[name])
        inner = getattr(owner, method)

        @functools.wraps(inner)
        def watched(*args: Any, **kwargs: Any) -> Any:
            with record_function(part), self._part(part):
                return inner(*args, **kwargs)

        setattr(owner, method, watched)

    @contextmanager
    def _part(self, part: str) -> Iterator[None]:
        if not self._timing or threading.current_thread() is not threading.main_thread():
            yield
            return
        begun = time.perf_counter()
        self._within.append(0.0)
        try:
            yield
        finally:
            spent = time.perf_counter() - begun
            self._seconds[part] += spent - self._within.pop()
            if self._within:
                self._within[-1] += spent
