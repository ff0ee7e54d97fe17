"""Read a recipe's command line, train, and print errors in one line."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

import rich
import tyro

from recipes.agents import Config
from recipes.agents.config import SMOKE
from recipes.runs.atomic_files import read_json
from recipes.runs.errors import RunError, errors_in_one_line
from recipes.runs.folder import RunFolder
from recipes.training.loop import MakeAgent, train
from recipes.training.progress import headline_table

Settings = TypeVar("Settings", bound=Config)


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
        out = settings.resume or settings.extend or settings.out
        out = out or RunFolder.default_path(recipe, settings.task, settings.seed)
        if settings.extend:
            print(_extension(settings, RunFolder(settings.extend).read_config()["steps"]))
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

    preset: Literal["cpu", "pixels", "paper"] | None = None
    smoke: bool = False
    resume: Path | None = None
    extend: Path | None = None
    config: Path | None = None


@dataclass(frozen=True)
class Line(Generic[Settings]):
    """A recipe's command line."""

    settings: tyro.conf.OmitArgPrefixes[Settings]
    config: Path | None = None
    """JSON file of settings, such as a run's config.json; other options replace what it says."""


def parse(
    recipe: str, arguments: Sequence[str], config: type[Settings] = Config, **defaults: Any
) -> Settings:
    """Read a configuration: preset, recipe's defaults, ``--config``, ``--smoke``, other options.

    With ``--resume`` and ``--extend`` the run's configuration replaces all but the last. Whole
    numbers may be written as 1e6. tyro prints errors in the arguments and exits with code 2.

    Raises:
        ValueError: an option does not go with another one, or a setting is not allowed (a RunError:
            there is no such run, or the file cannot be read).
    """
    source, _ = tyro.cli(Source, args=arguments, return_unknown_args=True, add_help=False)
    run = source.resume or source.extend
    if run and source.config:
        raise ValueError(
            f"config: got {source.config}, for a run that has its settings; allowed with a new "
            "run; leave it out"
        )
    if run:
        default = config.of_run(RunFolder.open(run, recipe))
    else:
        chosen: dict[str, Any] = {"preset": source.preset} if source.preset else {}
        chosen |= {"smoke": True} if source.smoke else {}
        if source.config:
            default = _of_file(source.config, config, defaults, chosen)
        else:
            default = config(**defaults | chosen)
    line = tyro.cli(
        Line[config],
        args=arguments,
        default=Line(default),
        description=f"Train with {recipe}.",
        config=(tyro.conf.OmitArgPrefixes,),
        registry=_whole_numbers(),
    )
    return line.settings


def _of_file(
    file: Path, kind: type[Settings], defaults: dict[str, Any], chosen: dict[str, Any]
) -> Settings:
    """Read settings from a JSON file; the sizes of ``--smoke`` replace those in it."""
    content: Any = read_json(file)
    try:
        stored = kind.stored_settings(content)
        kept = {k: v for k, v in stored.items() if not (chosen.get("smoke") and k in SMOKE)}
        return kind(**defaults | kept | chosen)
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(
            f"config: got {file}, which does not hold settings ({error}); allowed a JSON object as "
            "a run's config.json; mend the file"
        ) from error


def _extension(settings: Config, planned: int) -> str:
    """Say what is not as in a run that was planned with all steps."""
    c = settings.policy
    first, last = c.actor_learning_rate, c.actor_learning_rate_end
    if first == last:
        return f"beyond {planned:,} steps, with the numbers of a run planned with all of them"
    now = first + min(1.0, planned / settings.steps) * (last - first)
    return (
        f"beyond {planned:,} steps: the policy's learning rate had fallen to {last:g}, goes on at "
        f"{now:.2g} and falls again; all else is as in a run planned with all steps"
    )


def _whole_numbers() -> tyro.constructors.ConstructorRegistry:
    """Let tyro accept 1e6 for an integer."""
    registry = tyro.constructors.ConstructorRegistry()

    @registry.primitive_rule
    def _(
        info: tyro.constructors.PrimitiveTypeInfo,
    ) -> tyro.constructors.PrimitiveConstructorSpec[int] | None:
        if info.type is not int:
            return None
        return tyro.constructors.PrimitiveConstructorSpec(
            nargs=1,
            metavar="INT",
            instance_from_str=lambda words: whole_number(words[0]),
            is_instance=lambda value: isinstance(value, int),
            str_from_instance=lambda value: [str(value)],
        )

    return registry


def whole_number(word: str) -> int:
    """Read an integer, also as 1e6.

    Raises:
        ValueError: it is none.
    """
    try:
        return int(word)
    except ValueError:
        number = float(word)
        if not number.is_integer():
            raise
        return int(number)


def _how_to_resume(recipe: str, folder: Path) -> str:
    saved = RunFolder(folder).checkpoints()
    if not saved:
        return ""
    return f"; {saved[0]} is kept, go on with: python recipes/{recipe}.py --resume {folder}"
