"""The experiment around an agent: prefill, then iterate, and leave a run folder behind.

Every environment step counts, from the first of the prefill on. Between two phases of policy
learning one iterate acts for one episode; the prefill, by the first policy, is iterate 0.
"""

import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.profiler import record_function

from blocks import Environment, EpisodeRecord, safety_summary, set_threads
from blocks.safety_metrics import SafetySummary
from recipes.agents import Agent, Components, Config, Guard, Metrics, Policy
from recipes.agents.builders import require_device
from recipes.runs.folder import RunFolder
from recipes.runs.run import Run
from recipes.training.episode import run_episode
from recipes.training.profiling import Profile
from recipes.training.progress import Progress
from recipes.training.results import (
    EVALUATION_SEED,
    draw_figures,
    evaluate,
    log_episode,
    log_iterate,
    record_video,
    summarise,
)
from recipes.training.schedule import Schedule

MakeAgent = Callable[[Any, Environment], Agent]
"""From a configuration and an environment to an agent: ``CERL(...)``, or a function."""
MakeEnvironment = Callable[[int], Environment]
"""From a seed to an environment."""


def train(
    agent: MakeAgent,
    config: Config,
    environment: Environment | MakeEnvironment | None = None,
    out: str | Path | None = None,
    *,
    recipe: str = "custom",
) -> Run:
    """Train an agent, evaluate it, and leave everything in a folder.

    Args:
        agent: its parts, such as ``CERL(aggregate=...)``, or a function from a configuration and
            an environment to an object with the methods of ``Agent``.
        config: the settings; with ``resume`` the run in that folder goes on.
        environment: where to train, or a function from a seed to one; the configuration's task by
            default. The evaluation uses the same object, reset with another seed.
        out: the run's folder; ``config.out`` by default.
        recipe: name of the agent in the run's folder and in reports.

    Returns:
        The finished run.

    Raises:
        ValueError: an argument or a setting is not allowed (a RunError: something is wrong with
            the folder), or the simulator returned NaN.

    >>> from recipes.cerl_full import CERL
    >>> train(CERL(), Config(smoke=True))  # doctest: +SKIP
    """
    if out is not None:
        config = config.replace(out=Path(out))
    parts = (
        agent if isinstance(agent, Components) else Components(agent=lambda c, e, _: agent(c, e))
    )
    make_environment = _maker(environment, config, parts)
    _use_threads(config)
    trained_in = make_environment(config.seed)  # a task that does not exist leaves no folder
    with closing(_open(recipe, config)) as run_folder:
        config = config.replace(out=run_folder.path)
        guard = parts.guard(config)
        training = Training(
            run_folder=run_folder,
            agent=parts(config, trained_in),
            environment=trained_in,
            schedule=Schedule(config.steps, config.safety.prefill_scales),
            episode_budget=config.safety.episode_budget,
            guard=guard,
            fallback=parts.fallback(trained_in) if guard else None,
        )
        if config.resume:
            training.resume()
        training.iterate(Profile(run_folder.path if config.profile else None))
        return training.finish(config, make_environment(EVALUATION_SEED + config.seed))


@dataclass
class Training:
    """A run in progress: the loop's parts, and what it has to remember across a resume."""

    run_folder: RunFolder
    agent: Agent
    environment: Environment
    schedule: Schedule
    episode_budget: float
    guard: Guard | None = None
    fallback: Policy | None = None
    records: list[EpisodeRecord] = field(default_factory=list)
    learned: Metrics = field(default_factory=dict)
    begun: float = field(default_factory=time.monotonic)

    @property
    def steps(self) -> int:
        """Environment steps so far."""
        return sum(record.steps for record in self.records)

    @property
    def safety(self) -> SafetySummary:
        """The counts over every step since the first."""
        return safety_summary(
            self.records,
            episode_budget=self.episode_budget,
            episode_length=self.environment.episode_length,
        )

    def iterate(self, profile: Profile) -> None:
        """Collect an episode, learn from it, save; until the steps are used up."""
        with Progress(self.schedule.steps, self.episode_budget, self.steps) as line:
            while self.steps < self.schedule.steps:
                iterate = self.schedule.iterate(len(self.records))
                with profile.iterate(iterate):
                    record = self.collect(iterate)
                    self.learn()
                    self.save()
                line.show(
                    self.steps,
                    "" if iterate else "prefill",
                    episode_return=record.episode_return,
                    episode_cost=record.cost,
                    slack=self.learned.get("slack"),
                    violations=self.safety.policy_violations,
                )
        profile.print()

    def collect(self, iterate: int) -> EpisodeRecord:
        """One episode by the policy of this iterate, behind the guard."""
        scale = self.schedule.scale(self.records)
        episode = run_episode(
            self.agent, self.environment, scale, guard=self.guard, fallback=self.fallback
        )
        record = EpisodeRecord(
            iterate=iterate,
            cost=episode.cost,
            episode_return=episode.episode_return,
            steps=episode.steps,
            fallback_steps=episode.fallback_steps,
        )
        self.records.append(record)
        log_episode(self.run_folder, self.steps, len(self.records) - 1, record, scale)
        if iterate:
            log_iterate(self.run_folder, self.steps, record, self.learned, self.episode_budget)
        return record

    def learn(self) -> None:
        """Learn before the next episode, if there is one: first from the whole prefill."""
        prefill = len(self.schedule.prefill_scales)
        if len(self.records) < prefill or self.steps >= self.schedule.steps:
            return
        begin = len(self.records) == prefill
        progress = self.steps / self.schedule.steps
        with record_function("rest of learning"):
            self.learned = self.agent.begin() if begin else self.agent.learn(progress)
        self.run_folder.log("update", self.steps, **self.learned)
        self.agent.illustrate(self.run_folder.path)

    def save(self) -> None:
        """Write a checkpoint."""
        training = {
            "records": [tuple(record) for record in self.records],
            "learned": self.learned,
            "seconds": time.monotonic() - self.begun,
        }
        with record_function("checkpoint"):
            self.run_folder.save_checkpoint(
                {"agent": self.agent.state_dict(), "training": training}, self.steps
            )

    def resume(self) -> None:
        """Go on from the newest checkpoint."""
        saved = self.run_folder.load_checkpoint()
        self.agent.load_state_dict(saved["agent"])
        training = saved["training"]
        self.records = [EpisodeRecord(*record) for record in training["records"]]
        self.learned, self.begun = training["learned"], time.monotonic() - training["seconds"]
        self.environment.episode_index = len(self.records)

    def finish(self, config: Config, held_out: Environment) -> Run:
        """Evaluate the final policy; write summary, figures and video."""
        evaluation = evaluate(self.agent, held_out, config.evaluation_episodes)
        about = {
            "recipe": self.run_folder.recipe,
            "task": config.task,
            "seed": config.seed,
            "members": config.posterior.members,
            "guard_share": config.safety.guard_share,
            "episode_budget": self.episode_budget,
        }
        updates = self.run_folder.read_metrics("update")
        summary = summarise(
            about, self.records, self.safety, evaluation, updates, config.safety.budget_share
        )
        self.run_folder.log(
            "evaluation",
            self.steps,
            return_mean=summary["final_return"],
            cost_mean=summary["final_cost"],
        )
        draw_figures(self.run_folder)
        summary["video"] = record_video(self.run_folder, self.agent, held_out)
        summary["wall_seconds"] = round(time.monotonic() - self.begun, 1)
        self.run_folder.write_summary(summary)
        return Run(self.run_folder.path)


def _parts_of(agent: MakeAgent) -> Components:
    """CERL's environment, guard and fallback around any agent."""
    return Components(agent=lambda config, environment, _: agent(config, environment))


def _maker(
    environment: Environment | MakeEnvironment | None, config: Config, parts: Components
) -> MakeEnvironment:
    """What builds (or starts over) an environment for a seed."""
    if environment is None:
        return partial(parts.environment, config)
    if isinstance(environment, Environment):
        return partial(_start_over, environment)
    if callable(environment):
        return environment
    raise ValueError(
        f"environment: got {type(environment).__name__}; allowed an object with the attributes of "
        "blocks.Environment, or a function from a seed to one; see make_environment."
    )


def _start_over(environment: Environment, seed: int) -> Environment:
    environment.reset(seed=seed)
    environment.episode_index = 0
    return environment


def _open(recipe: str, config: Config) -> RunFolder:
    if config.resume:
        run_folder = RunFolder.open(config.resume, recipe)
        run_folder.check_config(config.to_json())
        return run_folder
    run_folder = RunFolder.create(recipe, config.task, config.seed, config.out)
    run_folder.write_config(config.to_json())
    return run_folder


def _use_threads(config: Config) -> None:
    require_device(config.device)
    set_threads(config.threads)
    # Splitting an operation over two cores is slower at all sizes but those of images.
    torch.set_num_threads(config.threads if config.observation == "image" else 1)
