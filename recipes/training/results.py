"""Metrics of episodes, and the results of a finished run."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from blocks import Environment, EpisodeRecord
from recipes.agents import Agent
from recipes.plotting.figures import write_video
from recipes.runs.folder import RunFolder
from recipes.training.episode import run_episode

EVALUATION_SEED = 1_000_000  # far from the seeds of training episodes
VIDEO_ACTIONS = 200


def log_episode(
    run_folder: RunFolder, step: int, index: int, record: EpisodeRecord, exploration_scale: float
) -> None:
    """Log one line about the ``index``-th episode of the run."""
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


def record_video(run_folder: RunFolder, agent: Agent, environment: Environment) -> str:
    """Record the final policy; return the file's name, or why there is none."""
    frames: list[NDArray[np.uint8]] = []
    try:
        run_episode(agent, environment, 0.0, remember=False, frames=frames, actions=VIDEO_ACTIONS)
    except RuntimeError as error:  # no OpenGL on this machine: the run is complete without a video
        return f"none: {error}"
    path, reason = write_video(frames, run_folder.path / "policy.mp4", fps=20)
    return path.name if path else f"none: {reason}"
