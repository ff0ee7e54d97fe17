"""What a study is, and the studies that have a name.

A study is recipes x tasks x seeds, with settings for all runs and settings for those of one recipe.
A new one is a few lines in `STUDIES`.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from blocks import make_environment
from recipes.agents.config import parse
from recipes.studies.planned_run import PlannedRun

RECIPES = Path(__file__).parents[1]
ABLATIONS = tuple(sorted(path.stem for path in RECIPES.glob("ablation_*.py")))
KNOWN_RECIPES = ("cerl_full", *ABLATIONS, "lambda_agent")
OPEN_QUESTIONS = (
    *("ablation_barrier_adam", "ablation_scale_before_adam", "ablation_augmented_lagrangian"),
    *("ablation_point_ensemble", "ablation_single_model"),
)
"""LBSGD against other optimisers, and a Bayesian posterior against none: left open by the paper."""
MODEL_FREE = ("reference_ppo_lagrangian",)
"""By a library, at its own number of steps."""
Setting = bool | int | float | str | tuple[int | float | str, ...]
BY_THE_STUDY = ("task", "seed", "out", "resume", "threads")
"""Settings of a run that the study itself decides."""


@dataclass(frozen=True, kw_only=True)
class Study:
    """Recipes x tasks x seeds: one run for each, in `<recipe>/<task>/seed<k>`."""

    recipes: tuple[str, ...]
    """Names of recipes, or paths (`my_recipe.py`) of scripts with the same command line."""
    tasks: tuple[str, ...] = ("SafetyHalfCheetahVelocity-v1",)
    """Safety-Gymnasium tasks."""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    settings: Mapping[str, Setting] = field(default_factory=dict)
    """Settings of every run, by the names that `cerl_config.Config` gives them."""
    recipe_settings: Mapping[str, Mapping[str, Setting]] = field(default_factory=dict)
    """Settings of one recipe's runs; they win over `settings`."""

    def smoke(self) -> Study:
        """The same in tiny sizes: one task, one seed, the fewest steps that learn something."""
        tiny: dict[str, Setting] = {"smoke": True, "steps": 3000}
        return dataclasses.replace(
            self, tasks=self.tasks[:1], seeds=self.seeds[:1], settings=tiny, recipe_settings={}
        )

    def definition(self) -> dict[str, Any]:
        """Plain values, as `study.json` holds them."""
        return dataclasses.asdict(self)

    def settings_of(self, recipe: str) -> dict[str, Setting]:
        return {**self.settings, **self.recipe_settings.get(recipe, {})}

    def runs(self, folder: Path) -> list[PlannedRun]:
        """Every run of the study in `folder`, seed by seed, so that early results compare."""
        return [
            PlannedRun(
                script=script_of(recipe),
                task=task,
                seed=seed,
                study=folder.absolute(),
                settings=tuple(as_arguments(self.settings_of(recipe))),
            )
            for seed in self.seeds
            for task in self.tasks
            for recipe in self.recipes
        ]

    def check(self) -> None:
        """Raise ValueError, naming the field, if some run could not start."""
        for name in ("recipes", "tasks", "seeds"):
            _require_each_once(name, getattr(self, name))
        for recipe in self.recipes:
            _require_recipe(recipe)
        for recipe in self.recipe_settings:
            if recipe not in self.recipes:
                raise ValueError(_refusal("recipe_settings", recipe, ", ".join(self.recipes)))
        for seed in self.seeds:
            if seed < 0:
                raise ValueError(_refusal("seeds", seed, "0 and above"))
        for recipe in self.recipes:
            self._require_settings(recipe)
        for task in self.tasks:
            _require_task(task)

    def _require_settings(self, recipe: str) -> None:
        settings = self.settings_of(recipe)
        for name in BY_THE_STUDY:
            if name in settings:
                allowed = f"any setting but {', '.join(BY_THE_STUDY)}"
                raise ValueError(_refusal("settings", name, allowed))
        if recipe in KNOWN_RECIPES:  # what another script takes, it says itself
            try:
                parse(recipe, as_arguments(settings))
            except ValueError as error:
                raise ValueError(f"settings of {recipe}: {error}") from error


# Without the budget guard, behind which every recipe is safe.
NO_GUARD: dict[str, Setting] = {"guard_share": 0.0}
STUDIES = {
    # 30,000 steps are where the recipes already differ, in a third of the time.
    "ablations": Study(recipes=KNOWN_RECIPES, settings={"steps": 30_000, **NO_GUARD}),
    "open_questions": Study(recipes=("cerl_full", *OPEN_QUESTIONS), settings=NO_GUARD),
    "model_free": Study(recipes=MODEL_FREE),
}


def script_of(recipe: str) -> Path:
    """The file of a recipe.

    >>> script_of("cerl_full").name, str(script_of("/home/me/mine.py"))
    ('cerl_full.py', '/home/me/mine.py')
    """
    return Path(recipe).absolute() if recipe.endswith(".py") else RECIPES / f"{recipe}.py"


def as_arguments(settings: Mapping[str, Setting]) -> list[str]:
    """Settings as a recipe's command line takes them.

    >>> as_arguments({"steps": 3000, "smoke": True, "prefill_scales": (0.5, 1.0)})
    ['--steps', '3000', '--smoke', '--prefill_scales', '0.5', '1.0']
    """
    words: list[str] = []
    for name, value in settings.items():
        if isinstance(value, bool):
            words.append(f"--{name}" if value else f"--no-{name}")
        else:
            words += [f"--{name}", *map(str, value if isinstance(value, tuple) else (value,))]
    return words


def from_words(words: Sequence[str]) -> dict[str, Setting]:
    """Settings from a command line's `name=value`; a comma separates the values of a tuple.

    >>> from_words(["steps=3000", "profile=true", "prefill_scales=0.5,1.0"])
    {'steps': '3000', 'profile': True, 'prefill_scales': ('0.5', '1.0')}
    """
    settings: dict[str, Setting] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not (name and equals and value):
            raise ValueError(_refusal("set", word, "name=value, such as steps=30000"))
        if value in ("true", "false"):
            settings[name] = value == "true"
        else:
            settings[name] = tuple(value.split(",")) if "," in value else value
    return settings


def _require_each_once(name: str, values: Sequence[str | int]) -> None:
    if not values:
        raise ValueError(_refusal(name, "none", "at least one"))
    # Of two scripts with one name the runs would be in one folder.
    names = Counter(Path(v).stem if name == "recipes" else str(v) for v in map(str, values))
    twice = [value for value, count in names.items() if count > 1]
    if twice:
        got = f"{', '.join(twice)} more than once"
        raise ValueError(_refusal(name, got, "each once, or two runs would share a folder"))


def _require_recipe(recipe: str) -> None:
    names = (*KNOWN_RECIPES, *MODEL_FREE)
    known = script_of(recipe).is_file() if recipe.endswith(".py") else recipe in names
    if not known:
        allowed = f"{', '.join(names)}, or the path of a script that ends in .py"
        raise ValueError(_refusal("recipes", recipe, allowed))


def _require_task(task: str) -> None:
    try:
        make_environment(task).close()
    except (ValueError, RuntimeError) as error:
        raise ValueError(f"tasks: {error}") from error


def _refusal(name: str, got: object, allowed: str) -> str:
    return f"{name}: got {got}; allowed: {allowed}."
