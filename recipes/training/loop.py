"""The experiment around an agent: prefill, then iterates; writes a run folder.

Every environment step counts, also those of the prefill. In each iterate one policy acts for one
episode, or for several short ones, and then learns; the prefill, by the first policy, is iterate 0.
"""

import time
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.profiler import record_function

from blocks import Environment, Episode, EpisodeRecord, safety_summary, set_threads
from blocks.environments.costs import cost_names_of
from blocks.safety_metrics import SafetySummary
from recipes.agents import Agent, Auditable, Components, Config, Metrics
from recipes.agents.budgets import episode_budgets
from recipes.agents.builders import require_device
from recipes.agents.latent_agent import BURN_IN, START_LENGTH
from recipes.plotting.figures import calibration_figure, learning_figure, steps_figure
from recipes.runs.folder import RunFolder
from recipes.runs.run import Run
from recipes.runs.snapshots import save_snapshot
from recipes.training.episode import run_episode
from recipes.training.prior_data import read_dataset, remember
from recipes.training.profiling import Profile
from recipes.training.progress import Progress
from recipes.training.results import (
    EVALUATION_SEED,
    by_name,
    log_episode,
    pessimism_and_disagreement,
    record_video,
)
from recipes.training.schedule import Schedule
from recipes.training.warm_start import check_start, warm_start

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
    """Train and evaluate an agent; write all results to a folder.

    Args:
        agent: its parts, such as ``CERL(aggregate=...)``, or a function from a configuration and
            an environment to an object with the methods of ``Agent``.
        config: the settings; ``resume`` continues the run in that folder, ``extend`` beyond its
            planned end, too; ``start_from`` starts a new one with what another has learned.
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
    parts = as_components(agent)
    make_environment = environment_maker(environment, config, parts)
    require_device(config.device)
    set_threads(config.threads)
    # Two cores make a single operation faster only with images.
    torch.set_num_threads(config.threads if config.observation == "image" else 1)
    trained_in = make_environment(config.seed)  # before the folder: the task may not exist
    prior_data: list[Episode] = []
    if not (config.resume or config.extend):
        check_start(config)
        prior_data = read_dataset(config.dataset, trained_in) if config.dataset else []
    with closing(_open(recipe, config)) as run_folder:
        training = Training(config.replace(out=run_folder.path), parts, trained_in, run_folder)
        if config.resume or config.extend:
            training.resume()
        elif config.start_from:
            warm_start(training.agent, parts, config, trained_in)
        remember(training.agent, prior_data, trained_in)
        training.iterate()
        return training.finish(make_environment(EVALUATION_SEED + config.seed))


class Training:
    """A run in progress; a checkpoint holds the agent, ``records``, ``learned`` and the time."""

    def __init__(
        self, config: Config, parts: Components, environment: Environment, run_folder: RunFolder
    ) -> None:
        self.config, self.environment, self.run_folder = config, environment, run_folder
        self.agent = parts(config, environment)
        self.guard, self.fallback = parts.guard(config, environment), parts.fallback(environment)
        self.prefill = parts.prefill
        self.schedule = Schedule(
            config.safety.prefill_scales,
            environment.episode_length,
            environment.action_repeat,
            max(config.model.seq_len, BURN_IN + START_LENGTH),
        )
        self.cost_names = cost_names_of(environment)
        self.episode_budgets = episode_budgets(config, environment)
        self.episode_budget = sum(self.episode_budgets)
        self.records: list[EpisodeRecord] = []
        self.learned: Metrics = {}
        self.begun = time.monotonic()
        self.kept: tuple[int, float] | None = None  # iterate and scale of the newest snapshot
        self.saved_steps = 0

    @property
    def steps(self) -> int:
        return sum(record.steps for record in self.records)

    @property
    def safety(self) -> SafetySummary:
        return safety_summary(
            self.records,
            episode_budget=self.episode_budgets,
            episode_length=self.environment.episode_length,
        )

    def iterate(self) -> None:
        """Collect an episode, learn after an iterate's last, save; until all steps are taken."""
        profile = Profile(self.run_folder.path if self.config.profile else None)
        with Progress(self.config.steps, self.episode_budget, self.steps) as line:
            while self.steps < self.config.steps:
                iterate = self.schedule.iterate(self.records)
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
        """Run and log one episode of this iterate's policy, behind the guard."""
        scale = self.schedule.scale(self.records)
        prior = self.prefill(self.environment) if self.prefill and not iterate else None
        if prior:
            scale = 0.0  # it has no exploration noise of ours
        elif isinstance(self.agent, Auditable) and (iterate, scale) != self.kept:
            policy, keep = self.agent.policy_state(), self.config.snapshots
            save_snapshot(self.run_folder.path, iterate, policy, scale, keep)
            self.kept = (iterate, scale)
        record = run_episode(
            self.agent,
            self.environment,
            scale,
            iterate=iterate,
            guard=self.guard,
            fallback=self.fallback,
            policy=prior,
        )
        self.records.append(record)
        log_episode(
            self.run_folder, self.steps, len(self.records) - 1, record, scale, self.cost_names
        )
        known = {"cost_mean", "cost_worst"} <= self.learned.keys()
        if iterate and known and len(self.cost_names) == 1:
            self.run_folder.log(
                "iterate",
                self.steps,
                iterate=iterate,
                predicted_cost_mean=self.learned["cost_mean"] * self.episode_budget,
                predicted_cost_worst=self.learned["cost_worst"] * self.episode_budget,
                realised_cost=record.cost,
                budget=self.episode_budget,
            )
        return record

    def learn(self) -> None:
        """Learn after an iterate, if another one comes: first from the whole prefill."""
        if not self.schedule.learns(self.records) or self.steps >= self.config.steps:
            return
        begin = self.records[-1].iterate == 0
        progress = self.steps / self.config.steps
        with record_function("rest of learning"):
            self.learned = self.agent.begin() if begin else self.agent.learn(progress)
        self.run_folder.log("update", self.steps, **self.learned)
        self.agent.illustrate(self.run_folder.path)

    def save(self) -> None:
        """Save a checkpoint after an iterate, and after a whole episode's steps of a longer one."""
        new_steps = self.steps - self.saved_steps
        ended = self.schedule.learns(self.records) or self.steps >= self.config.steps
        if not ended and new_steps < self.environment.episode_length:
            return
        self.saved_steps = self.steps
        training = {
            "records": [tuple(record) for record in self.records],
            "learned": self.learned,
            "planned_steps": self.config.steps,
            "seconds": time.monotonic() - self.begun,
        }
        with record_function("checkpoint"):
            state = {"agent": self.agent.state_dict(), "training": training}
            self.run_folder.save_checkpoint(state, self.steps)

    def resume(self) -> None:
        """Load the newest checkpoint."""
        saved = self.run_folder.load_checkpoint()
        self.agent.load_state_dict(saved["agent"])
        training = saved["training"]
        self.records = [EpisodeRecord(*record) for record in training["records"]]
        self.learned, self.begun = training["learned"], time.monotonic() - training["seconds"]
        self.environment.episode_index, self.saved_steps = len(self.records), self.steps
        if self.steps >= training.get("planned_steps", self.config.steps):
            self.learn()  # the last episode of a plan has no successor, until the run is extended

    def finish(self, held_out: Environment) -> Run:
        """Evaluate the final policy without the guard; write summary, figures and video."""
        config, run_folder = self.config, self.run_folder
        evaluation = [
            run_episode(self.agent, held_out, 0.0, remember=False)
            for _ in range(config.evaluation_episodes)
        ]
        returns = [episode.episode_return for episode in evaluation]
        costs = [episode.cost for episode in evaluation]
        updates = run_folder.read_metrics("update")
        summary: dict[str, Any] = {
            "recipe": run_folder.recipe,
            "task": config.task,
            "seed": config.seed,
            "members": config.posterior.members,
            "guard_share": config.safety.guard_share,
            "episode_budget": self.episode_budget,
            "budgets": dict(zip(self.cost_names, self.episode_budgets, strict=True)),
            **self.safety._asdict(),
            "guard_episodes": sum(record.fallback_steps > 0 for record in self.records),
            "guard_steps": sum(record.fallback_steps for record in self.records),
            "final_return": float(np.mean(returns)),
            "final_cost": float(np.mean(costs)),
            "final_costs": costs,
            "final_cost_by_name": by_name(evaluation, self.cost_names),
            "final_returns": returns,
            **pessimism_and_disagreement(updates),
        }
        run_folder.log(
            "evaluation",
            self.steps,
            return_mean=summary["final_return"],
            cost_mean=summary["final_cost"],
        )
        learning_figure(run_folder)
        if run_folder.read_metrics("iterate"):
            calibration_figure(run_folder)
        steps_figure(run_folder)
        summary["video"] = record_video(run_folder, self.agent, held_out)
        summary["wall_seconds"] = round(time.monotonic() - self.begun, 1)
        run_folder.write_summary(summary)
        return Run(run_folder.path)


def as_components(agent: MakeAgent) -> Components:
    """Return the agent's parts; a function's are CERL's, apart from the agent itself."""
    if isinstance(agent, Components):
        return agent
    return Components(agent=lambda config, environment, _: agent(config, environment))


def environment_maker(
    environment: Environment | MakeEnvironment | None, config: Config, parts: Components
) -> MakeEnvironment:
    """Return a function from a seed to an environment; it may restart the one given."""
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
    """Open the run to resume or to extend, or create a new one."""
    if config.extend:
        run_folder = RunFolder.open(config.extend, recipe)
        run_folder.extend(config.to_json())
    elif config.resume:
        run_folder = RunFolder.open(config.resume, recipe)
        run_folder.check_config(config.to_json())
    else:
        run_folder = RunFolder.create(recipe, config.task, config.seed, config.out)
        run_folder.write_config(config.to_json())
    return run_folder
