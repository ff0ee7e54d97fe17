"""Rebuild the policy of a run's last checkpoint, or of a saved policy's folder, to act with it."""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from blocks import Environment, EpisodeRecord, LatentPolicy, load_policy
from recipes.agents import Agent, Components, Config, LatentAgent
from recipes.agents.builders import sizes
from recipes.runs.errors import RunError
from recipes.runs.folder import RunFolder
from recipes.training.loop import MakeAgent, MakeEnvironment, as_components, environment_maker

FILTER = ("normalizer", "encoder", "rssm")
SETTINGS = ("observation", "image_quality", "action_repeat", "cost", "episode_budget", "budgets")
SETTINGS += ("guard_share",)
"""What a saved policy keeps of its run's configuration: its environment, budget and guard."""


@dataclass(frozen=True)
class Acting:
    """A policy to be evaluated."""

    agent: Agent
    """Acts; of its methods only ``start_episode`` and ``act`` are for use."""
    policy: LatentPolicy | None
    """The same policy, to be saved; None if the agent is no ``LatentAgent``."""
    parts: Components
    config: Config
    recipe: str
    trained_steps: int
    make_environment: MakeEnvironment


class WithoutNoise:
    """An agent for ``run_episode`` that acts by a policy, whatever the exploration scale."""

    def __init__(self, policy: LatentPolicy) -> None:
        self.policy = policy

    def start_episode(self) -> None:
        self.policy.reset()

    def act(self, observation: NDArray[Any], scale: float) -> NDArray[np.float32]:
        return self.policy.unit_action(observation)


def of_run(
    folder: RunFolder,
    agent: MakeAgent | None,
    environment: Environment | MakeEnvironment | None,
    kind: type[Config] | None,
    task: str | None,
) -> Acting:
    """Rebuild the policy of a run's last checkpoint; the arguments are those of ``evaluate``.

    Raises:
        RunError: there is no readable checkpoint, or it does not fit agent or task.
    """
    if not folder.checkpoints():
        raise RunError(
            f"run: got {folder.path}, which holds no checkpoint; allowed a run after its first "
            "episode; let it go on, or name another one"
        )
    recipe = str(folder.read_config().get("recipe"))
    config = (kind or _settings_of(recipe, agent)).of_run(folder)
    saved = folder.read_checkpoint()
    records = [EpisodeRecord(*record) for record in saved["training"]["records"]]
    # Acting needs no replay, so it gets the smallest one, in memory.
    acting = config.replace(
        steps=1, out=None, device="cpu", compile=False, task=task or config.task
    )
    parts = as_components(agent or importlib.import_module("recipes.cerl_full").CERL())
    make_environment = environment_maker(environment, acting, parts)
    first = make_environment(config.seed)
    built = parts(acting, first)
    try:
        if isinstance(built, LatentAgent):
            built.load_policy_state(acting_state(saved["agent"]))
        else:
            built = parts(config.replace(out=None, device="cpu"), first)
            built.load_state_dict(saved["agent"])
    except (RuntimeError, KeyError, TypeError, ValueError, AttributeError) as error:
        what = f"task: got {task}" if task else f"agent: got {type(built).__name__}"
        raise RunError(
            f"{what}, which the policy of {folder.path} does not fit ({_sizes(first)}); allowed a "
            f"task with observations and actions as those of {config.task}, and the agent that "
            "was trained; give another one"
        ) from error
    policy = latent_policy(built, first, config) if isinstance(built, LatentAgent) else None
    actor = cast(Agent, WithoutNoise(policy)) if policy else built
    trained = sum(record.steps for record in records)
    return Acting(actor, policy, parts, acting, recipe, trained, make_environment)


def of_saved_policy(folder: Path, task: str | None) -> Acting:
    """Load a policy with what its evaluation needs.

    Raises:
        ValueError: the policy cannot be loaded, no recipe saved it, or it does not fit the task.
    """
    policy = load_policy(folder)
    about, settings = policy.about, policy.about["settings"]
    missing = {*SETTINGS, "recipe", "steps"} - settings.keys()
    if missing:
        raise ValueError(
            f"run: got {folder}, a policy without the settings {', '.join(sorted(missing))}; "
            "allowed one saved by evaluate.py --save-policy; act with blocks.load_policy instead"
        )
    kept = {k: settings[k] for k in SETTINGS} | {"budgets": tuple(settings["budgets"])}
    config = Config(task=task or about["task"], seed=about["seed"], **kept)
    parts = as_components(importlib.import_module("recipes.cerl_full").CERL())
    make_environment = environment_maker(None, config, parts)
    first = make_environment(config.seed)
    if sizes(first) != (policy.observation_shape, policy.actor.action_size):
        raise RunError(
            f"task: got {config.task}, which the policy of {folder} does not fit "
            f"({_sizes(first)}); allowed a task with observations and actions as those of "
            f"{about['task']}; give another one"
        )
    actor = cast(Agent, WithoutNoise(policy))
    recipe, steps = settings["recipe"], settings["steps"]
    return Acting(actor, policy, parts, config, recipe, steps, make_environment)


def acting_state(agent: Mapping[str, Any]) -> dict[str, Any]:
    """Take from a ``LatentAgent``'s state what ``load_policy_state`` needs."""
    of_model: dict[str, dict[str, Any]] = {name: {} for name in FILTER}
    for key, value in agent["model"].items():
        part, _, name = key.partition(".")
        if part in of_model:
            of_model[part][name] = value
    return of_model | {"actor": agent["actor"]}


def latent_policy(agent: LatentAgent, environment: Environment, config: Config) -> LatentPolicy:
    """Return the agent's policy without noise; it shares the agent's weights."""
    space, model = environment.action_space, agent.model
    return LatentPolicy(
        model.normalizer,
        model.encoder,
        model.rssm,
        agent.actor,
        low=space.low,
        high=space.high,
        observation_shape=sizes(environment)[0],
        observation_dtype="uint8" if config.observation == "image" else "float32",
    )


def _settings_of(recipe: str, agent: MakeAgent | None) -> type[Config]:
    """Return the class of settings of a recipe of this package; a given agent has ``Config``."""
    if agent is not None:
        return Config
    try:
        module = importlib.import_module(f"recipes.{recipe}")
    except ModuleNotFoundError as error:
        raise RunError(
            f"recipe: got {recipe}, which made the run; allowed a recipe of this package; evaluate "
            "the run from Python with recipes.evaluations.evaluate(run, agent=...)"
        ) from error
    return getattr(module, "Config", Config)


def _sizes(environment: Environment) -> str:
    shape, action_size = sizes(environment)
    return f"the task's observations have the shape {shape}, its actions {action_size} numbers"
