"""One run of a study: how it is called, and how far it is, as its folder tells."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any, Literal, NamedTuple

from blocks import EpisodeRecord, safety_summary
from recipes.runs.errors import RunError
from recipes.runs.folder import RunFolder

LAUNCHER = Path(__file__).parent / "worker.py"
RECENT = 10  # episodes from which a run's speed is taken


@dataclass(frozen=True)
class PlannedRun:
    """A recipe on a task with a seed, in a folder of the study's."""

    script: Path
    task: str
    seed: int
    study: Path
    settings: tuple[str, ...] = ()
    """As arguments."""

    @property
    def recipe(self) -> str:
        return self.script.stem

    @property
    def name(self) -> str:
        return f"{self.recipe}/{self.task}/seed{self.seed}"

    @property
    def folder(self) -> Path:
        return self.study / self.recipe / self.task / f"seed{self.seed}"

    @property
    def log(self) -> Path:
        """With `.out` and `.err` at its end: what the run's process has printed."""
        return self.study / "logs" / self.name.replace("/", "-")

    @property
    def done(self) -> bool:
        return (self.folder / "summary.json").exists()

    def arguments(self, *more: str) -> list[str]:
        """What follows the interpreter, and the process that it is to end with."""
        about = ("--task", self.task, "--seed", str(self.seed))
        words = (self.folder, self.log, self.script, *about, *self.settings, *more)
        return [str(word) for word in words]

    def last_error(self) -> str:
        """The last line that its process wrote to stderr; empty if there is none."""
        file = self.log.with_name(f"{self.log.name}.err")
        lines = file.read_text(errors="replace").split("\n") if file.exists() else []
        return next((line.strip() for line in reversed(lines) if line.strip()), "")


def launch(
    arguments: Sequence[str], environment: Mapping[str, str], launcher: str = str(LAUNCHER)
) -> subprocess.Popen[bytes]:
    """Start a run's process; in a session of its own, so that a Ctrl-C comes from us alone."""
    return subprocess.Popen(
        [sys.executable, "-I", "-S", launcher, str(os.getpid()), *arguments],
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,  # it opens its own
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def interrupt(processes: Sequence[subprocess.Popen[bytes]], grace: float = 30.0) -> None:
    """Have runs write what they have and end; kill what has not within `grace` seconds."""
    try:
        for process in processes:
            process.send_signal(signal.SIGINT)  # nothing happens to one that is over
        last = time.monotonic() + grace
        for process in processes:
            process.wait(max(0.0, last - time.monotonic()))
    except (KeyboardInterrupt, subprocess.TimeoutExpired):  # a second Ctrl-C: at once
        pass
    finally:
        for process in processes:
            process.kill()
            process.wait()


@dataclass
class RunState:
    """Where a run stands in this invocation of the study."""

    state: Literal["waiting", "running", "done", "failed"] = "waiting"
    attempts: int = 0
    reason: str = ""


class Ended(NamedTuple):
    """A run's process is over: with an exit code, or None if its node or worker was lost."""

    run: PlannedRun
    code: int | None
    reason: str = ""

    @property
    def disturbed(self) -> bool:
        """Whether something outside the run ended it, so that another attempt may do better."""
        return self.code is None or self.code < 0 or self.code > 128

    def describe(self) -> str:
        """Why it failed, in one line."""
        if self.reason:
            return self.reason
        if self.code is None:
            return "its node was lost"
        if self.disturbed:
            number = -self.code if self.code < 0 else self.code - 128
            known = number in set(signal.Signals)
            return f"killed by {signal.Signals(number).name if known else f'signal {number}'}"
        if self.code == 0:
            return "it ended without a summary"
        return self.run.last_error() or f"exit code {self.code}"


class Seen(NamedTuple):
    """How far a run is."""

    steps: int = 0
    total: int | None = None
    episode_return: float | None = None
    episode_cost: float | None = None
    episode_budget: float | None = None
    violations: int | None = None
    """Policy violations so far."""
    pace: float | None = None
    """Seconds for an environment step, with the learning that goes with it."""

    @property
    def seconds_left(self) -> float | None:
        if self.total is None or self.pace is None:
            return None
        return max(0, self.total - self.steps) * self.pace


def look(folder: Path) -> Seen:
    """How far the run in `folder` is; nothing yet where there is nothing to read."""
    run = RunFolder(folder)
    try:
        config = run.read_config()
        with warnings.catch_warnings():  # a line that is just being written is left out
            warnings.simplefilter("ignore")
            rows = run.read_metrics("episode")
    except (RunError, OSError):
        return Seen()
    total, budget = config.get("steps"), config.get("episode_budget")
    if not rows:
        return Seen(total=total, episode_budget=budget)
    last = rows[-1]
    return Seen(
        steps=last["step"],
        total=total,
        episode_return=last.get("episode_return"),
        episode_cost=last.get("episode_cost"),
        episode_budget=budget,
        violations=None if budget is None else _violations(rows, budget),
        pace=_pace(rows[-RECENT:]),
    )


def _violations(rows: list[dict[str, Any]], episode_budget: float) -> int:
    steps = [after - before for before, after in pairwise([0, *(row["step"] for row in rows)])]
    records = [
        EpisodeRecord(row["iterate"], row["episode_cost"], row["episode_return"], length)
        for row, length in zip(rows, steps, strict=True)
    ]
    summary = safety_summary(records, episode_budget=episode_budget, episode_length=max(steps))
    return summary.policy_violations


def _pace(rows: list[dict[str, Any]]) -> float | None:
    """The median, so that the hours between a stop and a resume do not count."""
    if len(rows) < 2:
        return None
    return median(
        (after["time"] - before["time"]) / max(1, after["step"] - before["step"])
        for before, after in pairwise(rows)
    )
