"""What a run leaves behind: a line per episode, and at its end the evaluation, summary, figures."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from blocks import Environment, EpisodeRecord
from blocks.safety_metrics import SafetySummary
from recipes.agents import Agent, Metrics
from recipes.plotting.figures import calibration_figure, learning_figure, write_video
from recipes.runs.folder import RunFolder
from recipes.training.episode import Episode, run_episode

EVALUATION_SEED = 1_000_000  # far from the seeds that episodes of training use
VIDEO_ACTIONS = 200


def log_episode(
    run_folder: RunFolder, step: int, index: int, record: EpisodeRecord, exploration_scale: float
) -> None:
    """Log one line about an episode, the ``index``-th of the run."""
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
    run_folder: RunFolder, step: int, record: EpisodeRecord, learned: Metrics, budget: float
) -> None:
    """Log what the model predicted of an iterate, beside what it then cost."""
    if {"cost_mean", "cost_worst"} <= learned.keys():
        run_folder.log(
            "iterate",
            step,
            iterate=record.iterate,
            predicted_cost_mean=learned["cost_mean"] * budget,
            predicted_cost_worst=learned["cost_worst"] * budget,
            realised_cost=record.cost,
            budget=budget,
        )


def evaluate(agent: Agent, environment: Environment, episodes: int) -> list[Episode]:
    """Play episodes by the mean action, without the guard; the agent remembers none of them."""
    return [run_episode(agent, environment, 0.0, remember=False) for _ in range(episodes)]


def summarise(
    about: Mapping[str, Any],
    records: Sequence[EpisodeRecord],
    safety: SafetySummary,
    evaluation: Sequence[Episode],
    updates: Sequence[Mapping[str, Any]],
    budget_share: float,
) -> dict[str, Any]:
    """The run's headline figures, after what ``about`` says of it."""
    return {
        **about,
        **safety._asdict(),
        "guard_episodes": sum(record.fallback_steps > 0 for record in records),
        "guard_steps": sum(record.fallback_steps for record in records),
        "final_return": float(np.mean([episode.episode_return for episode in evaluation])),
        "final_cost": float(np.mean([episode.cost for episode in evaluation])),
        "final_costs": [episode.cost for episode in evaluation],
        "final_returns": [episode.episode_return for episode in evaluation],
        **pessimism_and_disagreement(updates, budget_share),
    }


def draw_figures(run_folder: RunFolder) -> None:
    """Draw how the run learned, and how well costs were predicted."""
    learning_figure(run_folder)
    if run_folder.read_metrics("iterate"):
        calibration_figure(run_folder)


def pessimism_and_disagreement(
    updates: Sequence[Mapping[str, Any]], budget_share: float
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
        slack = sum(budget_share - row["cost_mean"] for row in rows if "cost_mean" in row)
        if slack > 0:
            taken = sum(row["pessimism"] for row in rows if "pessimism" in row)
            figures[f"pessimism_share_{period}"] = taken / slack
    return figures


def record_video(run_folder: RunFolder, agent: Agent, environment: Environment) -> str:
    """Record the final policy; returns the file's name, or why there is none."""
    try:
        episode = run_episode(agent, environment, 0.0, remember=False, frames=VIDEO_ACTIONS)
    except RuntimeError as error:  # no GL on this machine: a run is whole without a video
        return f"none: {error}"
    path, reason = write_video(episode.frames, run_folder.path / "policy.mp4", fps=20)
    return path.name if path else f"none: {reason}"
