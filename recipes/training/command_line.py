"""Read a recipe's command line, train, and print errors in one line."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import rich
import tyro

from recipes.agents import Config
from recipes.runs.errors import RunError, errors_in_one_line
from recipes.runs.folder import RunFolder
from recipes.training.loop import MakeAgent, train
from recipes.training.progress import headline_table


def run(recipe: str, agent: MakeAgent, config: type[Config] = Config, **defaults: Any) -> None:
    """Run a recipe from its command line.

    Args:
        recipe: its name, also in the run's folder.
        agent: its parts, or a function from a configuration and an environment to an agent.
        config: class of the settings, if the recipe has more than others.
        defaults: settings in which the recipe differs from the preset.
    """
    with errors_in_one_line():
        settings = parse(recipe, sys.argv[1:], config, **defaults)
        out = settings.resume or settings.out
        out = out or RunFolder.default_path(recipe, settings.task, settings.seed)
        try:
            finished = train(agent, settings.replace(out=out), recipe=recipe)
        except KeyboardInterrupt:
            print(f"\nstopped{_how_to_resume(recipe, out)}", file=sys.stderr)
            sys.exit(130)
        except (ValueError, RuntimeError) as error:
            if not isinstance(error, RunError):  # a RunError is about the folder itself
                error.add_note(_how_to_resume(recipe, out))
            raise
    rich.print(headline_table(finished))
    print(f"the run is in {finished.path}")


@dataclass(frozen=True)
class Source:
    """Options that decide the defaults of the others."""

    preset: Literal["cpu", "pixels", "paper"] = "cpu"
    smoke: bool = False
    resume: Path | None = None


def parse(
    recipe: str, arguments: Sequence[str], config: type[Config] = Config, **defaults: Any
) -> Config:
    """Read a configuration: preset, then ``--smoke``, the recipe's defaults, the other options.

    With ``--resume`` the stored configuration replaces the first three. tyro prints errors in the
    arguments and exits with code 2.

    Raises:
        RunError: there is no run to resume.
    """
    source, _ = tyro.cli(Source, args=arguments, return_unknown_args=True, add_help=False)
    if source.resume:
        default = config.of_run(RunFolder.open(source.resume, recipe))
    else:
        default = config(preset=source.preset, smoke=source.smoke, **defaults)
    return tyro.cli(config, args=arguments, default=default, config=(tyro.conf.OmitArgPrefixes,))


def _how_to_resume(recipe: str, folder: Path) -> str:
    saved = RunFolder(folder).checkpoints()
    if not saved:
        return ""
    return f"; {saved[0]} is kept, go on with: python recipes/{recipe}.py --resume {folder}"
