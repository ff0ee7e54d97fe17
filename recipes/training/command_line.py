"""Reads a recipe's command line, trains, and answers errors in one line."""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import rich
import tyro

from recipes.agents import Config
from recipes.runs.errors import RunError, one_line
from recipes.runs.folder import RunFolder
from recipes.training.loop import MakeAgent, train
from recipes.training.progress import headline_table


def run(recipe: str, agent: MakeAgent, config: type[Config] = Config, **defaults: Any) -> None:
    """Entry point of a recipe.

    Args:
        recipe: its name; the run's folder is named after it.
        agent: its parts, or a function from a configuration and an environment to an agent.
        config: class of the settings, where the recipe has more than others.
        defaults: settings in which the recipe differs from the preset.
    """
    folder: Path | None = None
    try:
        settings = parse(recipe, sys.argv[1:], config, **defaults)
        settings = settings.replace(out=settings.resume or _new_folder(recipe, settings))
        folder = settings.out
        finished = train(agent, settings, recipe=recipe)
        rich.print(headline_table(finished))
        print(f"the run is in {finished.path}")
    except KeyboardInterrupt:
        print(f"\nstopped{_how_to_go_on(recipe, folder)}", file=sys.stderr)
        sys.exit(130)
    except (ValueError, RuntimeError) as error:
        if os.environ.get("CERL_TRACEBACK"):
            raise
        # A RunError is about the folder itself, and says what is wrong with it.
        kept = "" if isinstance(error, RunError) else _how_to_go_on(recipe, folder)
        print(f"error: {one_line(error)}{kept}", file=sys.stderr)
        sys.exit(2)


@dataclass(frozen=True)
class Source:
    """Where the defaults of the other options come from."""

    preset: Literal["cpu", "pixels", "paper"] = "cpu"
    smoke: bool = False
    resume: Path | None = None


def parse(
    recipe: str, arguments: Sequence[str], config: type[Config] = Config, **defaults: Any
) -> Config:
    """The configuration of a command line: preset, ``--smoke``, the recipe's defaults, each flag.

    With ``--resume`` the stored configuration takes the preset's place. tyro prints what it cannot
    read and exits with code 2.

    Raises:
        RunError: there is no run to resume.
    """
    source, _ = tyro.cli(Source, args=arguments, return_unknown_args=True, add_help=False)
    if source.resume:
        default = config.of_run(RunFolder.open(source.resume, recipe))
    else:
        default = config(preset=source.preset, smoke=source.smoke, **defaults)
    return tyro.cli(config, args=arguments, default=default, config=(tyro.conf.OmitArgPrefixes,))


def _new_folder(recipe: str, config: Config) -> Path:
    return config.out or RunFolder.default_path(recipe, config.task, config.seed)


def _how_to_go_on(recipe: str, folder: Path | None) -> str:
    saved = RunFolder(folder).checkpoints() if folder else []
    if not saved:
        return ""
    return f"; {saved[0]} is kept, go on with: python recipes/{recipe}.py --resume {folder}"
