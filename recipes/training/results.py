"""Metrics of episodes, and the results of a finished run."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from blocks import Environment, EpisodeRecord
from blocks.environments.costs import SINGLE
from recipes.agents import Agent
from recipes.plotting.figures import write_video
from recipes.runs.folder import RunFolder
from recipes.training.episode import run_episode

EVALUATION_SEED = 1_000_000  # far from the seeds of training episodes
VIDEO_ACTIONS = 200


def log_episode(
    run_folder: RunFolder,
    step: int,
    index: int,
    record: EpisodeRecord,
    exploration_scale: float,
    cost_names: Sequence[str] = SINGLE,
) -> None:
    """Log one line about the ``index``-th episode of the run.

    Of several costs ``episode_cost`` is the sum, and ``episode_cost_<name>`` each.
    """
    costs = zip(cost_names, record.costs, strict=True) if record.costs else ()
    run_folder.log(
        "episode",
        step,
        episode=index,
        iterate=record.iterate,
        phase="train" if record.iterate else "prefill",
        episode_return=record.episode_return,
        episode_cost=record.cost,
        episode_steps=record.steps,
        terminated=record.terminated,
        fallback_steps=record.fallback_steps,
        exploration_scale=exploration_scale,
        **{f"episode_cost_{name}": cost for name, cost in costs},
    )


def by_name(episodes: Sequence[EpisodeRecord], cost_names: Sequence[str]) -> dict[str, float]:
    """Average each cost over episodes."""
    costs = np.mean([episode.each_cost for episode in episodes], 0)
    return dict(zip(cost_names, costs.tolist(), strict=True))


def pessimism_and_disagreement(
    updates: Sequence[Mapping[str, Any]],
) -> dict[str, float]:
    """Average pessimism and disagreement over the first (early) and the last (late) ten updates.

    In units of the budget. ``pessimism_share`` is the part of the mean member's slack that the
    worst member takes away, left out if the mean member has no slack.
    """
    names = ("pessimism", *(f"disagreement_{w}" for w in ("recent", "far", "new", "learned")))
    figures: dict[str, float] = {}
    for period, rows in (("early", updates[:10]), ("late", updates[-10:])):
        for name in names:
            values = [row[name] for row in rows if name in row]
            if values:
                figures[f"{name}_{period}"] = float(np.mean(values))
        slack = sum(
            row["allowed"] - row["cost_mean"]
            for row in rows
            if {"allowed", "cost_mean"} <= row.keys()
        )
        if slack > 0:
            taken = sum(row["pessimism"] for row in rows if "pessimism" in row)
            figures[f"pessimism_share_{period}"] = taken / slack
    return figures


def record_video(
    run_folder: RunFolder,
    agent: Agent,
    environment: Environment,
    *,
    name: str = "policy.mp4",
    actions: int | None = VIDEO_ACTIONS,
) -> str:
    """Record the final policy at the task's real speed.

    Args:
        run_folder: where to write.
        agent: acts without exploration.
        environment: its next episode is shown.
        name: of the file.
        actions: length of the video at most; None: the whole episode.

    Returns:
        The file's name, or why there is none.
    """
    frames: list[NDArray[np.uint8]] = []
    try:
        run_episode(agent, environment, 0.0, remember=False, frames=frames, actions=actions)
    except RuntimeError as error:  # no OpenGL on this machine: the run is complete without a video
        return f"none: {error}"
    path, reason = write_video(frames, run_folder.path / name, fps=real_fps(environment))
    return path.name if path else f"none: {reason}"


def real_fps(environment: Environment) -> float:
    """Return the frames per second that show a task at its real speed, one frame an action.

    A task that does not say ``render_fps`` counts as one of 30 environment steps per second.
    """
    metadata = getattr(environment, "metadata", None) or {}
    return (metadata.get("render_fps") or 30) / environment.action_repeat
