"""The experiment around an agent: prefill, iterate, evaluate, and leave a run folder behind.

Every environment step counts, from the first of the prefill on. Between two phases of policy
learning one iterate acts for one episode; the prefill, by the first policy, is iterate 0.
"""

import os
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import rich
import torch
from cerl_config import Config, parse, to_json
from figures import calibration_figure, learning_figure, write_video
from progress import Progress, headline_table
from run_folder import RunError, RunFolder

from blocks import BudgetGuard, EpisodeRecord, make_environment, safety_summary
from blocks.environments import SafetyEnvironment

EVALUATION_SEED = 1_000_000  # far from the seeds that episodes of training use
VIDEO_ACTIONS = 200


class Agent(Protocol):
    """What a recipe hands to ``run``."""

    def start_episode(self) -> None: ...
    def act(self, observation: np.ndarray, scale: float) -> np.ndarray: ...
    def observe(
        self, observation: np.ndarray, action: np.ndarray, reward: float, cost: float,
        *, is_first: bool, terminated: bool,
    ) -> None: ...  # fmt: skip
    def begin(self) -> dict[str, float]: ...
    def learn(self) -> dict[str, float]: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class Episode(NamedTuple):
    """One episode as it was lived; undiscounted sums over environment steps."""

    episode_return: float
    cost: float
    steps: int
    fallback_steps: int
    frames: list[np.ndarray]


def run(
    recipe: str, make_agent: Callable[[Config, SafetyEnvironment], Agent], **defaults: Any
) -> None:
    """Entry point of a recipe: reads the command line, trains, and answers errors in one line.

    Args:
        recipe: its name; the run's folder is named after it.
        make_agent: builds the agent for a configuration and an environment.
        defaults: settings in which the recipe differs from ``Config``.
    """
    torch.set_num_threads(1)  # two threads are slower than one at these sizes
    folder: Path | None = None
    try:
        config = parse(recipe, sys.argv[1:], **defaults)
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


def train(
    run_folder: RunFolder,
    config: Config,
    make_agent: Callable[[Config, SafetyEnvironment], Agent],
) -> dict[str, Any]:
    """Train to ``config.steps``, evaluate, write summary and figures; returns the summary."""
    environment = _environment(config, config.seed)
    agent = make_agent(config, environment)
    guard = BudgetGuard(config.episode_budget, config.guard_share) if config.guard_share else None
    progress = _State([], 0.0, [])
    if config.resume:
        progress = _restore(run_folder, agent, environment)
    begun = time.monotonic() - progress.seconds
    prefill = len(config.prefill_scales)
    with Progress(config.steps, config.episode_budget, progress.steps) as line:
        while progress.steps < config.steps:
            index = len(progress.records)
            scale = _scale(config, progress) if index < prefill else 1.0
            episode = run_episode(agent, environment, guard, scale)
            record = EpisodeRecord(
                max(0, index - prefill + 1), episode.cost, episode.episode_return, episode.steps
            )
            progress.records.append(record)
            progress.fallbacks.append(episode.fallback_steps)
            _log_episode(run_folder, config, progress, scale)
            if len(progress.records) >= prefill and progress.steps < config.steps:
                learned = agent.begin() if len(progress.records) == prefill else agent.learn()
                progress.learned = learned
                run_folder.log("update", progress.steps, **learned)
            progress.seconds = time.monotonic() - begun
            run_folder.save_checkpoint(
                {"agent": agent.state_dict(), **progress.state_dict()}, progress.steps
            )
            safety = _safety(config, environment, progress)
            line.update(
                progress.steps,
                "prefill" if index < prefill else "",
                episode_return=episode.episode_return,
                episode_cost=episode.cost,
                slack=progress.learned.get("slack", float("nan")),
                violations=safety.policy_violations,
            )
    summary = _finish(run_folder, config, agent, environment, progress)
    rich.print(headline_table(summary))
    print(f"the run is in {run_folder.path}")
    return summary


def run_episode(
    agent: Agent,
    environment: SafetyEnvironment,
    guard: BudgetGuard | None,
    scale: float,
    *,
    remember: bool = True,
    frames: int = 0,
) -> Episode:
    """One whole episode; once the guard says no, the zero action sees it to its end.

    What the base policy does after that is counted but not remembered: the world model is to know
    the policy's world, and a body at rest teaches little.
    """
    observation, _ = environment.reset()
    agent.start_episode()
    rest = np.zeros(environment.action_space.shape or (), np.float32)
    if remember:
        agent.observe(observation, rest, 0.0, 0.0, is_first=True, terminated=False)
    total = cost = 0.0
    steps = fallback_steps = 0
    pictures: list[np.ndarray] = []
    over = False
    while not over:
        trusted = guard is None or guard.allows(cost)
        action = agent.act(observation, scale) if trusted else rest
        observation, reward, terminated, truncated, info = environment.step(action)
        total, cost, steps = total + reward, cost + info["cost"], steps + info["inner_steps"]
        if trusted and remember:
            agent.observe(
                observation, action, reward, info["cost"], is_first=False, terminated=terminated
            )
        fallback_steps += 0 if trusted else info["inner_steps"]
        if len(pictures) < frames:
            pictures.append(environment.render())
        over = terminated or truncated
    return Episode(total, cost, steps, fallback_steps, pictures)


class _State:
    """What the loop itself has to remember across a resume."""

    def __init__(
        self,
        records: list[EpisodeRecord],
        seconds: float,
        fallbacks: list[int],
        learned: dict[str, float] | None = None,
    ) -> None:
        self.records, self.seconds, self.fallbacks = records, seconds, fallbacks
        self.learned = learned or {}

    @property
    def steps(self) -> int:
        return sum(record.steps for record in self.records)

    def state_dict(self) -> dict[str, Any]:
        return {
            "records": [tuple(record) for record in self.records],
            "seconds": self.seconds,
            "fallbacks": self.fallbacks,
            "learned": self.learned,
        }


def _how_to_go_on(recipe: str, folder: Path | None) -> str:
    saved = RunFolder(folder).checkpoints() if folder else []
    if not saved:
        return ""
    return f"; {saved[0]} is kept, go on with: python recipes/{recipe}.py --resume {folder}"


def _open(recipe: str, config: Config) -> RunFolder:
    if config.resume:
        return RunFolder.open(config.resume, recipe)
    _environment(config, config.seed).close()  # a task that does not exist leaves no folder
    run_folder = RunFolder.create(recipe, config.task, config.seed, config.out)
    run_folder.write_config(to_json(config))
    return run_folder


def _environment(config: Config, seed: int) -> SafetyEnvironment:
    return make_environment(config.task, seed=seed, action_repeat=config.action_repeat)


def _restore(run_folder: RunFolder, agent: Agent, environment: SafetyEnvironment) -> _State:
    state = run_folder.load_checkpoint()
    agent.load_state_dict(state["agent"])
    records = [EpisodeRecord(*record) for record in state["records"]]
    environment.episode_index = len(records)
    return _State(records, state["seconds"], state["fallbacks"], state["learned"])


def _scale(config: Config, progress: _State) -> float:
    """Exploration grows along the ladder only while no prefill episode has cost anything."""
    clean = 0
    for record in progress.records:
        if record.cost > 0:
            return config.prefill_scales[max(0, clean - 1)]
        clean += 1
    return config.prefill_scales[clean]


def _log_episode(run_folder: RunFolder, config: Config, progress: _State, scale: float) -> None:
    record, index = progress.records[-1], len(progress.records) - 1
    run_folder.log(
        "episode",
        progress.steps,
        episode=index,
        iterate=record.iterate,
        phase="train" if record.iterate else "prefill",
        episode_return=record.episode_return,
        episode_cost=record.cost,
        fallback_steps=progress.fallbacks[-1],
        exploration_scale=scale,
    )
    if record.iterate:
        run_folder.log(
            "iterate",
            progress.steps,
            iterate=record.iterate,
            predicted_cost_mean=progress.learned["cost_mean"] * config.episode_budget,
            predicted_cost_worst=progress.learned["cost_worst"] * config.episode_budget,
            realised_cost=record.cost,
            budget=config.episode_budget,
        )


def _safety(config: Config, environment: SafetyEnvironment, progress: _State) -> Any:
    return safety_summary(
        progress.records,
        episode_budget=config.episode_budget,
        episode_length=environment.episode_length,
    )


def _finish(
    run_folder: RunFolder,
    config: Config,
    agent: Agent,
    environment: SafetyEnvironment,
    progress: _State,
) -> dict[str, Any]:
    """Evaluate the final policy, bare of noise and guard, and write what the run leaves."""
    begun = time.monotonic()
    held_out = _environment(config, EVALUATION_SEED + config.seed)
    episodes = [
        run_episode(agent, held_out, None, 0.0, remember=False)
        for _ in range(config.evaluation_episodes)
    ]
    final_return = float(np.mean([episode.episode_return for episode in episodes]))
    final_cost = float(np.mean([episode.cost for episode in episodes]))
    run_folder.log("evaluation", progress.steps, return_mean=final_return, cost_mean=final_cost)
    tripped = sum(steps > 0 for steps in progress.fallbacks)
    summary = {
        "recipe": run_folder.recipe,
        "task": config.task,
        "seed": config.seed,
        "members": config.members,
        "guard_share": config.guard_share,
        "episode_budget": config.episode_budget,
        **_safety(config, environment, progress)._asdict(),
        "guard_episodes": tripped,
        "guard_steps": sum(progress.fallbacks),
        "final_return": final_return,
        "final_cost": final_cost,
        "final_costs": [episode.cost for episode in episodes],
        "final_returns": [episode.episode_return for episode in episodes],
        **_disagreement(run_folder),
        "wall_seconds": round(progress.seconds + time.monotonic() - begun, 1),
    }
    learning_figure(run_folder)
    if any(record.iterate for record in progress.records):
        calibration_figure(run_folder)
    summary["video"] = _video(run_folder, agent, held_out)
    run_folder.write_summary(summary)
    return summary


def _disagreement(run_folder: RunFolder) -> dict[str, float]:
    """Pessimism and cost disagreement, early (first ten updates) and late (last ten)."""
    updates = run_folder.read_metrics("update")
    names = ["pessimism", *(f"disagreement_{w}" for w in ("recent", "far", "new", "learned"))]
    figures = {}
    for period, rows in (("early", updates[:10]), ("late", updates[-10:])):
        for name in names:
            values = [row[name] for row in rows if name in row]
            if values:
                figures[f"{name}_{period}"] = float(np.mean(values))
    return figures


def _video(run_folder: RunFolder, agent: Agent, environment: SafetyEnvironment) -> str:
    try:
        episode = run_episode(agent, environment, None, 0.0, remember=False, frames=VIDEO_ACTIONS)
    except RuntimeError as error:  # no GL on this machine: a run is whole without a video
        return f"none: {error}"
    path, reason = write_video(episode.frames, run_folder.path / "policy.mp4", fps=20)
    return path.name if path else f"none: {reason}"
