"""Options and run folder that all experiments share."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from recipes.runs.folder import RunFolder


@dataclass(frozen=True, kw_only=True)
class ExperimentOptions:
    """Options of every experiment."""

    seed: int = 0
    """Seed of all random numbers, the dataset's included."""
    out: Path | None = None
    """Folder of figures and summary; runs/<recipe>/<task>/seed<k>-<time> by default."""
    smoke: bool = False
    """Use tiny sizes; checks in a minute that everything works."""

    def require_at_least_one(self, *names: str) -> None:
        """Check options that are counts; None passes.

        Raises:
            ValueError: one of them is below 1.
        """
        for name in names:
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}: got {value}; allowed: at least 1.")

    def create_folder(self, recipe: str, task: str, **resolved: Any) -> RunFolder:
        """Create the run folder and write its config.json; ``resolved`` replaces options there."""
        folder = RunFolder.create(recipe, task, self.seed, self.out)
        folder.write_config(asdict(self) | {"out": str(folder.path)} | resolved)
        return folder
