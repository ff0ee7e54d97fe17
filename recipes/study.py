"""Run a study, recipes x tasks x seeds, on this machine's cores or on a Ray cluster.

    python recipes/study.py ablations --tasks SafetyHalfCheetahVelocity-v1 SafetyAntVelocity-v1
    python recipes/study.py ablations --ray-address auto --out /shared/ablations

Each run is a recipe in a process of its own. Given again, the same command goes on where it was
stopped or killed, to the same numbers. Named studies are in `studies.py`.
"""

from __future__ import annotations

import dataclasses
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import tyro

from recipes.studies.definitions import STUDIES, Study, from_words
from recipes.studies.folder import working_in, write_states
from recipes.studies.local import LocalExecutor, cores
from recipes.studies.planned_run import PlannedRun, RunState
from recipes.studies.schedule import Executor, carry_out
from recipes.studies.table import StudyTable

REPORT = Path(__file__).parent / "report.py"
NO_VIDEO = {"MUJOCO_GL": "disabled"}  # drawing it takes longer than a tiny run


@dataclass(frozen=True, kw_only=True)
class Options:
    """Which study, and where it is computed; what is not said is as in `studies.py`."""

    study: tyro.conf.Positional[str]
    """Its name."""
    recipes: tuple[str, ...] | None = None
    """Recipes, or paths of scripts with the same command line."""
    tasks: tuple[str, ...] | None = None
    """Safety-Gymnasium tasks."""
    seeds: int | None = None
    """How many seeds: 0, 1, 2, ..."""
    set: tuple[str, ...] = ()
    """Settings of every run as `name=value`, such as `steps=100000`."""
    smoke: bool = False
    """Tiny sizes, one task, one seed: to see in two minutes that everything works."""
    out: Path | None = None
    """The study's folder; runs/studies/<name> by default."""
    report: bool = True
    """Make the study's report in the end; without, only say how."""

    jobs: int | None = None
    """Runs at once on this machine; one for each core by default."""
    retries: int = 2
    """How often a run is tried again that a signal killed or whose node was lost."""
    ray_address: str | None = None
    """Compute on this Ray cluster: `auto`, `host:port` or `ray://host:port`. Its nodes need this
    checkout and the study's folder at the same paths, on a shared file system."""
    cpus_per_run: float = 1
    """On a Ray cluster: cores for each run."""
    gpus_per_run: float = 0
    """On a Ray cluster: GPUs for each run."""

    def __post_init__(self) -> None:
        self._require("study", self.study in STUDIES, ", ".join(STUDIES))
        self._require("seeds", self.seeds is None or self.seeds >= 1, "at least 1")
        self._require("jobs", self.jobs is None or self.jobs >= 1, "at least 1")
        self._require("retries", self.retries >= 0, "at least 0")
        self._require("cpus_per_run", self.cpus_per_run > 0, "above 0")
        self._require("gpus_per_run", self.gpus_per_run >= 0, "at least 0")

    def _require(self, name: str, holds: bool, allowed: str) -> None:
        if not holds:
            raise ValueError(f"{name}: got {getattr(self, name)}; allowed: {allowed}.")

    def folder(self) -> Path:
        return self.out or Path("runs/studies") / (self.study + "-smoke" * self.smoke)

    def chosen(self) -> Study:
        """The named study with what the command line changes; ValueError if it cannot run."""
        named = STUDIES[self.study].smoke() if self.smoke else STUDIES[self.study]
        recipes = self.recipes or named.recipes
        kept = {name: s for name, s in named.recipe_settings.items() if name in recipes}
        study = dataclasses.replace(
            named,
            recipes=recipes,
            tasks=self.tasks or named.tasks,
            seeds=tuple(range(self.seeds)) if self.seeds else named.seeds,
            settings={**named.settings, **from_words(self.set)},
            recipe_settings=kept,
        )
        study.check()
        return study


def main(arguments: list[str]) -> int:
    """Run a study; returns the exit code: 0, 1 if runs failed, 2 if refused, 130 if stopped."""
    try:
        options = tyro.cli(Options, args=arguments)
        study, folder = options.chosen(), options.folder()
        with working_in(folder, study):
            return conduct(study, folder, options)
    except KeyboardInterrupt:
        again = shlex.join(["python", "recipes/study.py", *arguments])
        print(f"\nstopped; go on with: {again}", file=sys.stderr)
        return 130
    except (ValueError, RuntimeError) as error:
        if os.environ.get("CERL_TRACEBACK"):
            raise
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2


def conduct(study: Study, folder: Path, options: Options) -> int:
    """Carry out what is left of the study, and say how it went."""
    runs = study.runs(folder)
    states = {run.name: RunState("done" if run.done else "waiting") for run in runs}
    save: Callable[[], None] = partial(write_states, folder, study, states)
    save()
    waiting = [run for run in runs if not run.done]
    if waiting:
        executor = executor_for(options, len(waiting))
        with StudyTable(runs, states) as table:
            carry_out(
                runs, executor, states, retries=options.retries, changed=save, show=table.show
            )
    print(f"the study is in {folder}")
    if any(run.done for run in runs):
        report(folder, make=options.report)
    return tell_failed(runs, states)


def executor_for(options: Options, waiting: int) -> Executor:
    """The Ray cluster if one was named, otherwise this machine."""
    environment = NO_VIDEO if options.smoke else {}
    one_thread = ("--threads", "1")
    if options.ray_address is not None:
        from recipes.studies.ray_cluster import RayExecutor

        return RayExecutor(
            options.ray_address,
            cpus_per_run=options.cpus_per_run,
            gpus_per_run=options.gpus_per_run,
            arguments=one_thread if options.cpus_per_run < 2 else (),
            environment=environment,
        )
    jobs = min(options.jobs or cores(), waiting)
    arguments = one_thread if 2 * jobs > cores() else ()  # a run takes two threads otherwise
    return LocalExecutor(jobs, arguments=arguments, environment=environment)


def report(folder: Path, *, make: bool) -> None:
    """Say how the study's report is made, and make it."""
    command = [str(REPORT), str(folder), "--out", str(folder / "report")]
    print(f"its report: python recipes/report.py {shlex.join(command[1:])}")
    if make and REPORT.exists():
        made = subprocess.run(
            [sys.executable, *command], stderr=subprocess.PIPE, text=True, check=False
        )
        if made.returncode:
            why = made.stderr.strip().splitlines()[-1:] or [f"exit code {made.returncode}"]
            print(f"the report was not made: {why[0]}", file=sys.stderr)


def tell_failed(runs: list[PlannedRun], states: dict[str, RunState]) -> int:
    """Name the runs that failed, and why; returns the exit code."""
    failed = [run for run in runs if states[run.name].state == "failed"]
    for run in failed:
        state = states[run.name]
        times = f"{state.attempts} attempt{'s' * (state.attempts > 1)}"
        print(
            f"failed: {run.name} after {times}: {state.reason}; see {run.log}.err", file=sys.stderr
        )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
