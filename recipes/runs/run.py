"""Read a finished run, for notebooks."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from recipes.runs.atomic_files import read_json
from recipes.runs.folder import RunFolder


class Run(Mapping[str, Any]):
    """A finished run: maps names to the values of its summary, and reads its metrics.

    >>> run = Run("docs/studies/runs/cheetah/seed0")  # doctest: +SKIP
    >>> run["final_return"], run["policy_violations"]  # doctest: +SKIP
    (2488.0, 0)

    Attributes:
        path: run folder.
        summary: content of ``summary.json``.

    Raises:
        RunError: the folder has no summary: the run is unfinished, or it is not a run.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.summary = RunFolder(self.path).read_summary()

    def metrics(self, kind: str = "episode") -> list[dict[str, Any]]:
        """Read the metrics of one kind, oldest first: ``episode``, ``update``, ``iterate``, ..."""
        return RunFolder(self.path).read_metrics(kind)

    @property
    def audit(self) -> dict[str, Any] | None:
        """Content of ``audit.json``; None if the run was not audited."""
        file = self.path / "audit.json"
        return read_json(file) if file.exists() else None

    def __getitem__(self, name: str) -> Any:
        return self.summary[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.summary)

    def __len__(self) -> int:
        return len(self.summary)

    def __repr__(self) -> str:
        figures = ("policy_violations", "final_return", "final_cost")
        shown = ", ".join(f"{name}={self.summary[name]:g}" for name in figures)
        return f"Run({str(self.path)!r}, {shown})"
