"""Recorded episodes that a run starts with."""

from collections.abc import Sequence
from pathlib import Path

from blocks import Environment, Episode, load_episodes
from blocks.datasets import episode_rows
from recipes.agents import Agent


def read_dataset(folder: Path, environment: Environment) -> list[Episode]:
    """Read a folder of episodes of this task.

    Raises:
        ValueError: an episode is damaged, or of another task.
    """
    episodes = load_episodes(folder)
    allowed = environment.observation_space.shape, environment.action_space.shape
    for number, episode in enumerate(episodes):
        given = episode.observations.shape[1:], episode.actions.shape[1:]
        if given != allowed:
            raise ValueError(
                f"dataset: got observations {given[0]} and actions {given[1]} in episode {number} "
                f"of {folder}; allowed {allowed[0]} and {allowed[1]}, those of the task; give "
                "episodes of this task"
            )
    return episodes


def remember(agent: Agent, episodes: Sequence[Episode], environment: Environment) -> None:
    """Let an agent remember episodes; their actions are within the environment's bounds.

    Raises:
        ValueError: an action is out of bounds.
    """
    space = environment.action_space
    for episode in episodes:
        for row in episode_rows(episode, low=space.low, high=space.high):
            agent.remember(**row)
