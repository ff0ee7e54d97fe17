"""What a run leaves behind: a line per episode, and at its end the evaluation, summary, figures."""

from typing import Any

import numpy as np

from blocks import EpisodeRecord, safety_summary
from blocks.environments.safety_gymnasium import SafetyEnvironment
from blocks.safety_metrics import SafetySummary
from recipes.agents.builders import build_environment
from recipes.agents.config import Config
from recipes.plotting.figures import calibration_figure, learning_figure, write_video
from recipes.runs.folder import RunFolder
from recipes.training.episode import Agent, run_episode

EVALUATION_SEED = 1_000_000  # far from the seeds that episodes of training use
VIDEO_ACTIONS = 200


def log_episode(
    run_folder: RunFolder, step: int, index: int, record: EpisodeRecord, exploration_scale: float
) -> None:
    """One line about an episode, the ``index``-th of the run."""
    run_folder.log(
        "episode",
        step,
        episode=index,
        iterate=record.iterate,
        phase="train" if record.iterate else "prefill",
        episode_return=record.episode_return,
        episode_cost=record.cost,
        fallback_steps=record.fallback_steps,
        exploration_scale=exploration_scale,
    )


def log_iterate(
    run_folder: RunFolder,
    step: int,
    config: Config,
    record: EpisodeRecord,
    learned: dict[str, float],
) -> None:
    """What the model foresaw of an iterate, beside what came."""
    run_folder.log(
        "iterate",
        step,
        iterate=record.iterate,
        predicted_cost_mean=learned["cost_mean"] * config.episode_budget,
        predicted_cost_worst=learned["cost_worst"] * config.episode_budget,
        realised_cost=record.cost,
        budget=config.episode_budget,
    )


def safety_of(
    records: list[EpisodeRecord], config: Config, environment: SafetyEnvironment
) -> SafetySummary:
    """The counts over every step since the first."""
    return safety_summary(
        records,
        episode_budget=config.episode_budget,
        episode_length=environment.episode_length,
    )


def write_results(
    run_folder: RunFolder, config: Config, agent: Agent, records: list[EpisodeRecord]
) -> dict[str, Any]:
    """Evaluate the final policy, bare of noise and guard; write figures and video.

    Returns the summary, all but the time that the run took.
    """
    held_out = build_environment(config, EVALUATION_SEED + config.seed)
    episodes = [
        run_episode(agent, held_out, None, 0.0, remember=False)
        for _ in range(config.evaluation_episodes)
    ]
    final_return = float(np.mean([episode.episode_return for episode in episodes]))
    final_cost = float(np.mean([episode.cost for episode in episodes]))
    safety = safety_of(records, config, held_out)
    run_folder.log(
        "evaluation", safety.environment_steps, return_mean=final_return, cost_mean=final_cost
    )
    learning_figure(run_folder)
    if any(record.iterate for record in records):
        calibration_figure(run_folder)
    return {
        "recipe": run_folder.recipe,
        "task": config.task,
        "seed": config.seed,
        "members": config.members,
        "guard_share": config.guard_share,
        "episode_budget": config.episode_budget,
        **safety._asdict(),
        "guard_episodes": sum(record.fallback_steps > 0 for record in records),
        "guard_steps": sum(record.fallback_steps for record in records),
        "final_return": final_return,
        "final_cost": final_cost,
        "final_costs": [episode.cost for episode in episodes],
        "final_returns": [episode.episode_return for episode in episodes],
        **pessimism_and_disagreement(run_folder.read_metrics("update"), config.budget_share),
        "video": _video(run_folder, agent, held_out),
    }


def pessimism_and_disagreement(
    updates: list[dict[str, Any]], budget_share: float
) -> dict[str, float]:
    """What the members' differences are worth, early (first ten updates) and late (last ten).

    In units of the budget; ``pessimism_share`` is the part of the mean member's slack which the
    worst member takes away, left out where the mean member has none.
    """
    names = ("pessimism", *(f"disagreement_{w}" for w in ("recent", "far", "new", "learned")))
    figures: dict[str, float] = {}
    for period, rows in (("early", updates[:10]), ("late", updates[-10:])):
        for name in names:
            values = [row[name] for row in rows if name in row]
            if values:
                figures[f"{name}_{period}"] = float(np.mean(values))
        slack = sum(budget_share - row["cost_mean"] for row in rows)
        if slack > 0:
            figures[f"pessimism_share_{period}"] = sum(row["pessimism"] for row in rows) / slack
    return figures


def _video(run_folder: RunFolder, agent: Agent, environment: SafetyEnvironment) -> str:
    try:
        episode = run_episode(agent, environment, None, 0.0, remember=False, frames=VIDEO_ACTIONS)
    except RuntimeError as error:  # no GL on this machine: a run is whole without a video
        return f"none: {error}"
    path, reason = write_video(episode.frames, run_folder.path / "policy.mp4", fps=20)
    return path.name if path else f"none: {reason}"
