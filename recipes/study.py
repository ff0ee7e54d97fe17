"""Run a study (recipes x tasks x seeds) on this machine's cores or on a Ray cluster.

    python recipes/study.py ablations --tasks SafetyHalfCheetahVelocity-v1 SafetyAntVelocity-v1
    python recipes/study.py ablations --ray-address auto --out /shared/ablations

Each run is a separate process. After a stop or a kill, the same command resumes the study and gives
the same numbers. `recipes/studies/definitions.py` defines the named studies.
"""

import dataclasses
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

import tyro

from recipes.runs.errors import errors_in_one_line
from recipes.studies.definitions import STUDIES, Study
from recipes.studies.folder import lock_folder
from recipes.studies.processes import LocalExecutor, available_cores
from recipes.studies.ray_cluster import RayExecutor
from recipes.studies.runner import Executor, run_study


@dataclass(frozen=True, kw_only=True)
class Options:
    """Which study to run, and where. Options left out keep the values of the named study."""

    study: tyro.conf.Positional[str]
    """Name of the study."""
    recipes: tuple[str, ...] | None = None
    """Recipes, or paths of scripts with the same command line."""
    tasks: tuple[str, ...] | None = None
    """Safety-Gymnasium tasks."""
    seeds: int | None = None
    """Number of seeds: 0, 1, 2, ..."""
    set: tuple[str, ...] = ()
    """Settings of every run as `name=value`, such as `steps=100000`."""
    smoke: bool = False
    """Check in two minutes that everything works: tiny sizes, one task, one seed."""
    out: Path | None = None
    """Folder of the study; default: runs/studies/<name>."""
    report: bool = True
    """Make the study's report at the end; otherwise only print the command for it."""
    audit: int = 0
    """Audit each finished run with this many rollouts of each policy; 0: no audits."""
    retries: int = 2
    """How often to retry a run that a signal killed or whose node was lost."""
    jobs: int | None = None
    """Runs at once on this machine; default: one per core."""
    ray_address: str | None = None
    """Run on this Ray cluster: `auto`, `host:port` or `ray://host:port`. Its nodes need this
    package installed, and the recipes and the study's folder at the same paths as here."""
    cpus_per_run: float = 1
    """Cores for each run on a Ray cluster."""
    gpus_per_run: float = 0
    """GPUs for each run on a Ray cluster."""

    def __post_init__(self) -> None:
        for name, value, holds, allowed in (
            ("study", self.study, self.study in STUDIES, ", ".join(STUDIES)),
            ("seeds", self.seeds, self.seeds is None or self.seeds >= 1, "at least 1"),
            ("jobs", self.jobs, self.jobs is None or self.jobs >= 1, "at least 1"),
            ("audit", self.audit, self.audit == 0 or self.audit >= 2, "0, or at least 2"),
            *(("set", word, "=" in word, "name=value, such as steps=30000") for word in self.set),
        ):
            if not holds:
                raise ValueError(f"{name}: got {value}; allowed: {allowed}.")

    def folder(self) -> Path:
        return self.out or Path("runs/studies") / (self.study + "-smoke" * self.smoke)

    def selected_study(self) -> Study:
        """Return the named study with the command line's changes; ValueError if it cannot run."""
        named = STUDIES[self.study].smoke() if self.smoke else STUDIES[self.study]
        study = dataclasses.replace(
            named,
            recipes=self.recipes or named.recipes,
            tasks=self.tasks or named.tasks,
            seeds=tuple(range(self.seeds)) if self.seeds else named.seeds,
            settings={**named.settings, **dict(word.split("=", 1) for word in self.set)},
        )
        study.check()
        return study

    def executor(self, runs: int) -> Executor:
        """Return the Ray cluster if it has an address, otherwise this machine."""
        if self.ray_address is not None:
            return RayExecutor(self.ray_address, self.cpus_per_run, self.gpus_per_run)
        return LocalExecutor(min(self.jobs or available_cores(), runs))


def main(arguments: list[str]) -> int:
    """Run a study; return 0, 1 if runs failed, or 130 if interrupted; exit with 2 on bad input."""
    try:
        with errors_in_one_line():
            options = tyro.cli(Options, args=arguments)
            study, folder = options.selected_study(), options.folder()
            with lock_folder(folder, study):
                return run_study(
                    study,
                    folder,
                    options.executor,
                    retries=options.retries,
                    report=options.report,
                    audit=options.audit,
                )
    except KeyboardInterrupt:
        command = shlex.join(["python", "-m", "recipes.study", *arguments])
        print(f"\nstopped; resume with: {command}", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
