"""One run of a study: its script, folder, log and state, and how its process ended."""

import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from recipes.runs.atomic_files import read_json


@dataclass(eq=False)
class PlannedRun:
    """A recipe on a task with a seed, in the study's folder, and its state."""

    script: Path
    task: str
    seed: int
    study: Path
    """Folder of the study."""
    settings: tuple[str, ...] = ()
    """Further arguments of the recipe."""
    audit: int = 0
    """Rollouts of each policy in the audit after the run; 0: no audit."""
    state: Literal["waiting", "running", "done", "failed"] = "waiting"
    attempts: int = 0
    reason: str = ""
    """Why the last attempt did not succeed."""
    auditing: bool = False
    """Whether the last attempt was at the audit."""
    earlier_log: int = 0
    """Size of the log before the last attempt, in bytes."""

    @property
    def name(self) -> str:
        return f"{self.script.stem}/{self.task}/seed{self.seed}"

    @property
    def folder(self) -> Path:
        return self.study / self.name

    @property
    def log(self) -> Path:
        """Path of the output files of the run's process, without their `.out` and `.err`."""
        return self.study / "logs" / self.name.replace("/", "-")

    def log_size(self) -> int:
        out = Path(f"{self.log}.out")
        return out.stat().st_size if out.exists() else 0

    def has_summary(self) -> bool:
        return (self.folder / "summary.json").exists()

    def is_done(self) -> bool:
        """Return whether the run is finished, and audited if it is to be."""
        return self.has_summary() and (not self.audit or self._audited() == self.audit)

    def _audited(self) -> int:
        """Return the number of rollouts in the run's audit; 0 without one."""
        file = self.folder / "audit.json"
        return int(read_json(file).get("rollouts", 0)) if file.exists() else 0


class RunEnd(NamedTuple):
    """How a run's process ended: its exit code, or None if its node or worker was lost."""

    run: PlannedRun
    code: int | None
    reason: str = ""

    @property
    def killed(self) -> bool:
        """Whether something outside the run ended it, so that a retry may succeed."""
        return self.code is None or self.code < 0 or self.code > 128

    def describe(self) -> str:
        """Return in one line why the run failed."""
        if self.reason or self.code is None:
            return self.reason or "its node was lost"
        if self.killed:
            number = -self.code if self.code < 0 else self.code - 128
            return f"killed by signal {number} ({signal.strsignal(number)})"
        if self.code == 0:
            return f"it ended without {'an audit' if self.run.has_summary() else 'a summary'}"
        stderr = Path(f"{self.run.log}.err")
        lines = stderr.read_text(errors="replace").split("\n") if stderr.exists() else []
        lines = [line for line in lines if line.strip()]
        return lines[-1].strip() if lines else f"exit code {self.code}"
