"""What a study is, and the named studies.

A study is recipes x tasks x seeds, with settings for all runs. To add a named study, add a few
lines to `STUDIES`.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from blocks import make_environment
from recipes.studies.planned_run import PlannedRun

RECIPES = Path(__file__).parents[1]
ABLATIONS = tuple(sorted(path.stem for path in RECIPES.glob("ablation_*.py")))
KNOWN_RECIPES = ("cerl_full", *ABLATIONS, "lambda_agent")
MODEL_FREE = ("reference_ppo_lagrangian",)
RESERVED_SETTINGS = ("task", "seed", "out", "resume", "threads")
"""Settings that the study itself passes to every run."""


@dataclass(frozen=True, kw_only=True)
class Study:
    """Recipes x tasks x seeds: one run for each, in `<recipe>/<task>/seed<k>`."""

    recipes: tuple[str, ...]
    """Names of recipes, or paths (`my_recipe.py`) of scripts with the same command line."""
    tasks: tuple[str, ...] = ("SafetyHalfCheetahVelocity-v1",)
    """Safety-Gymnasium tasks."""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    settings: Mapping[str, str] = field(default_factory=dict)
    """Settings of every run, named as on the recipes' command lines. `true` and `false` set a flag;
    commas separate the values of a tuple."""

    def smoke(self) -> Study:
        """Return a tiny version: one task, one seed, the fewest steps that train something."""
        tiny = {"smoke": "true", "steps": "3000"}
        return dataclasses.replace(self, tasks=self.tasks[:1], seeds=self.seeds[:1], settings=tiny)

    def runs(self, folder: Path, audit: int = 0) -> list[PlannedRun]:
        """Return every run of the study, seed by seed, so that early results are comparable.

        Args:
            folder: folder of the study.
            audit: rollouts of each policy in the audit after a run; 0: no audits.
        """
        settings = tuple(as_arguments(self.settings))
        return [
            PlannedRun(script_path(recipe), task, seed, folder.absolute(), settings, audit)
            for seed in self.seeds
            for task in self.tasks
            for recipe in self.recipes
        ]

    def check(self) -> None:
        """Raise a ValueError if any run could not start."""
        # Scripts with the same name would share a folder.
        stems = tuple(Path(recipe).stem for recipe in self.recipes)
        for name, values in (("recipes", stems), ("tasks", self.tasks), ("seeds", self.seeds)):
            if len(set(values)) < len(values):
                got = " ".join(map(str, values))
                raise ValueError(f"{name}: got {got}; allowed: each once.")
        if reserved := [name for name in self.settings if name in RESERVED_SETTINGS]:
            allowed = f"any setting but {', '.join(RESERVED_SETTINGS)}"
            raise ValueError(f"settings: got {' '.join(reserved)}; allowed: {allowed}.")
        for recipe in self.recipes:
            _check_recipe(recipe, as_arguments(self.settings))
        for task in self.tasks:
            make_environment(task).close()


# Without the budget guard: with it, every recipe is safe.
NO_GUARD = {"guard_share": "0.0"}
STUDIES = {
    # After 30,000 steps the recipes already differ, in a third of the time.
    "ablations": Study(recipes=KNOWN_RECIPES, settings={"steps": "30000", **NO_GUARD}),
    # LBSGD against other optimisers, and a Bayesian posterior against none: not in the paper.
    "open_questions": Study(
        recipes=(
            "cerl_full",
            "ablation_barrier_adam",
            "ablation_scale_before_adam",
            "ablation_augmented_lagrangian",
            "ablation_point_ensemble",
            "ablation_single_model",
        ),
        settings=NO_GUARD,
    ),
    "model_free": Study(recipes=MODEL_FREE),
}


def script_path(recipe: str) -> Path:
    """Return the file of a recipe.

    >>> script_path("cerl_full").name, str(script_path("/home/me/mine.py"))
    ('cerl_full.py', '/home/me/mine.py')
    """
    return Path(recipe).absolute() if recipe.endswith(".py") else RECIPES / f"{recipe}.py"


def as_arguments(settings: Mapping[str, str]) -> list[str]:
    """Convert settings to arguments of a recipe's command line.

    >>> as_arguments({"steps": "3000", "smoke": "true", "prefill_scales": "0.5,1.0"})
    ['--steps', '3000', '--smoke', '--prefill_scales', '0.5', '1.0']
    """
    words: list[str] = []
    for name, value in settings.items():
        if value in ("true", "false"):
            words.append(f"--{name}" if value == "true" else f"--no-{name}")
        else:
            words += [f"--{name}", *value.split(",")]
    return words


def _check_recipe(recipe: str, arguments: list[str]) -> None:
    names = (*KNOWN_RECIPES, *MODEL_FREE)
    if recipe not in names and not (recipe.endswith(".py") and Path(recipe).is_file()):
        allowed = f"{', '.join(names)}, or the path of a script that ends in .py"
        raise ValueError(f"recipes: got {recipe}; allowed: {allowed}.")
    if recipe not in KNOWN_RECIPES:  # other scripts check their settings when they start
        return
    from recipes.agents import Config
    from recipes.training.command_line import parse

    config = getattr(importlib.import_module(f"recipes.{recipe}"), "Config", Config)
    try:
        parse(recipe, arguments, config)
    except SystemExit as error:  # the command line has printed what is wrong
        raise ValueError(f"settings of {recipe}: cannot parse {' '.join(arguments)}") from error
