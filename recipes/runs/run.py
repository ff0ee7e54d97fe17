"""A finished run, as a notebook holds it."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from recipes.runs.folder import RunFolder


class Run(Mapping[str, Any]):
    """The headline figures of a finished run, by name, and where everything else is.

    >>> run = Run("docs/studies/runs/cheetah/seed0")  # doctest: +SKIP
    >>> run["final_return"], run["policy_violations"]  # doctest: +SKIP
    (2488.0, 0)

    Attributes:
        path: the run's folder.
        summary: what ``summary.json`` holds.

    Raises:
        RunError: the folder holds no summary: the run is unfinished, or it is no run.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.summary = RunFolder(self.path).read_summary()

    def metrics(self, kind: str = "episode") -> list[dict[str, Any]]:
        """The lines of one kind, oldest first: ``episode``, ``update``, ``iterate``, ..."""
        return RunFolder(self.path).read_metrics(kind)

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
