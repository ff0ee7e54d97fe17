"""The experiment around an agent: prefill, then iterate, and leave a run folder behind.

Every environment step counts, from the first of the prefill on. Between two phases of policy
learning one iterate acts for one episode; the prefill, by the first policy, is iterate 0.
"""

import os
import sys
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import rich
import torch

from blocks import BudgetGuard, EpisodeRecord, set_threads
from blocks.environments.safety_gymnasium import SafetyEnvironment
from recipes.agents.builders import build_environment, require_device
from recipes.agents.config import Config, parse, to_json
from recipes.plotting.filmstrip import filmstrip
from recipes.runs.errors import RunError
from recipes.runs.folder import RunFolder
from recipes.training.episode import Agent, run_episode
from recipes.training.profiling import Profile
from recipes.training.progress import Progress, headline_table
from recipes.training.results import log_episode, log_iterate, safety_of, write_results

MakeAgent = Callable[[Config, SafetyEnvironment], Agent]


def run(recipe: str, make_agent: MakeAgent, **defaults: Any) -> None:
    """Entry point of a recipe: reads the command line, trains, and answers errors in one line.

    Args:
        recipe: its name; the run's folder is named after it.
        make_agent: builds the agent for a configuration and an environment.
        defaults: settings in which the recipe differs from ``Config``.
    """
    folder: Path | None = None
    try:
        config = parse(recipe, sys.argv[1:], **defaults)
        require_device(config.device)
        set_threads(config.threads)
        # Splitting an operation over two cores is slower at all sizes but those of images.
        torch.set_num_threads(config.threads if config.observation == "image" else 1)
        with closing(_open(recipe, config)) as run_folder:
            folder = run_folder.path
            train(run_folder, config, make_agent)
    except KeyboardInterrupt:
        print(f"\nstopped{_how_to_go_on(recipe, folder)}", file=sys.stderr)
        sys.exit(130)
    except (ValueError, RuntimeError) as error:
        if os.environ.get("CERL_TRACEBACK"):
            raise
        # A RunError is about the folder itself, and says what is wrong with it.
        kept = "" if isinstance(error, RunError) else _how_to_go_on(recipe, folder)
        print(f"error: {' '.join(str(error).split())}{kept}", file=sys.stderr)
        sys.exit(2)


def train(run_folder: RunFolder, config: Config, make_agent: MakeAgent) -> dict[str, Any]:
    """Train to ``config.steps``, evaluate, write summary and figures; returns the summary."""
    environment = build_environment(config, config.seed)
    agent = make_agent(replace(config, out=run_folder.path), environment)
    guard = BudgetGuard(config.episode_budget, config.guard_share) if config.guard_share else None
    state = _restore(run_folder, agent, environment) if config.resume else TrainingState()
    begun = time.monotonic() - state.seconds
    owners = {"agent": agent, "environment": environment, "run_folder": run_folder}
    profile = Profile(run_folder.path if config.profile else None, **owners)
    with Progress(config.steps, config.episode_budget, state.steps) as line:
        while state.steps < config.steps:
            iterate = max(0, len(state.records) - len(config.prefill_scales) + 1)
            with profile.iterate(iterate):
                record = _act(run_folder, config, agent, environment, guard, iterate, state)
                _learn(run_folder, config, agent, state)
                state.seconds = time.monotonic() - begun
                run_folder.save_checkpoint(
                    {"agent": agent.state_dict(), "training": state.state_dict()}, state.steps
                )
            line.update(
                state.steps,
                "" if iterate else "prefill",
                episode_return=record.episode_return,
                episode_cost=record.cost,
                slack=state.learned.get("slack", float("nan")),
                violations=safety_of(state.records, config, environment).policy_violations,
            )
    profile.write()
    summary = write_results(run_folder, config, agent, state.records)
    summary["wall_seconds"] = round(time.monotonic() - begun, 1)
    run_folder.write_summary(summary)
    rich.print(headline_table(summary))
    print(f"the run is in {run_folder.path}")
    return summary


def _act(
    run_folder: RunFolder,
    config: Config,
    agent: Agent,
    environment: SafetyEnvironment,
    guard: BudgetGuard | None,
    iterate: int,
    state: "TrainingState",
) -> EpisodeRecord:
    """One episode of an iterate; of iterate 0, the prefill, at the ladder's scale."""
    index = len(state.records)
    scale = 1.0 if iterate else exploration_scale(config, state.records)
    episode = run_episode(agent, environment, guard, scale)
    record = EpisodeRecord(
        iterate=iterate,
        cost=episode.cost,
        episode_return=episode.episode_return,
        steps=episode.steps,
        fallback_steps=episode.fallback_steps,
    )
    state.records.append(record)
    log_episode(run_folder, state.steps, index, record, scale)
    if iterate:
        log_iterate(run_folder, state.steps, config, record, state.learned)
    return record


def _learn(run_folder: RunFolder, config: Config, agent: Agent, state: "TrainingState") -> None:
    """What is learned before the next episode, if there is one: first from the whole prefill."""
    prefill, episodes = len(config.prefill_scales), len(state.records)
    if episodes < prefill or state.steps >= config.steps:
        return
    begin = episodes == prefill
    state.learned = agent.begin() if begin else agent.learn(state.steps / config.steps)
    run_folder.log("update", state.steps, **state.learned)
    if config.observation == "image":
        filmstrip(agent.model, agent.replay.newest_episode(), run_folder.path / "filmstrip.png")


@dataclass
class TrainingState:
    """What the loop itself has to remember across a resume."""

    records: list[EpisodeRecord] = field(default_factory=list)
    learned: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def steps(self) -> int:
        """Environment steps so far."""
        return sum(record.steps for record in self.records)

    def state_dict(self) -> dict[str, Any]:
        return vars(self) | {"records": [tuple(record) for record in self.records]}

    @classmethod
    def from_state_dict(cls, state: dict[str, Any]) -> Self:
        records = [EpisodeRecord(*record) for record in state["records"]]
        return cls(**{**state, "records": records})


def _how_to_go_on(recipe: str, folder: Path | None) -> str:
    saved = RunFolder(folder).checkpoints() if folder else []
    if not saved:
        return ""
    return f"; {saved[0]} is kept, go on with: python recipes/{recipe}.py --resume {folder}"


def _open(recipe: str, config: Config) -> RunFolder:
    if config.resume:
        return RunFolder.open(config.resume, recipe)
    build_environment(config, config.seed).close()  # a task that does not exist leaves no folder
    run_folder = RunFolder.create(recipe, config.task, config.seed, config.out)
    run_folder.write_config(to_json(config))
    return run_folder


def _restore(run_folder: RunFolder, agent: Agent, environment: SafetyEnvironment) -> TrainingState:
    saved = run_folder.load_checkpoint()
    agent.load_state_dict(saved["agent"])
    state = TrainingState.from_state_dict(saved["training"])
    environment.episode_index = len(state.records)
    return state


def exploration_scale(config: Config, records: list[EpisodeRecord]) -> float:
    """Grows along the ladder only while no prefill episode has cost anything."""
    clean = 0
    for record in records:
        if record.cost > 0:
            return config.prefill_scales[max(0, clean - 1)]
        clean += 1
    return config.prefill_scales[clean]
