"""Record images of a navigation task, each with the simulator's state.

Episodes are smooth random walks with phases that head for the goal; every fifth is held out.
"""

from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from rich.progress import track

from blocks import SequenceReplay, Transitions, make_environment
from blocks.environments.episodes import ConstrainedEnvironment
from recipes.agents import Config
from recipes.agents.builders import build_replay, sizes
from recipes.experiments.static_dataset import EVERY, append
from recipes.runs.atomic_files import write_atomically
from recipes.training.episode import within_bounds

PERSISTENCE = 0.9  # autocorrelation of the walk's actions, from one agent step to the next
PHASE_STEPS = 40  # mean length of a phase, in agent steps
LIDAR_RANGE = 3.0  # metres, as in Safety-Gymnasium
TRUTHS = {
    "obstacle proximity": ("closeness",),
    "agent velocity": ("forwards", "leftwards", "turning"),
    "goal direction": ("forwards", "leftwards"),
}
"""Quantities of the simulator's state, with the names of their parts."""


class ImageDataset(NamedTuple):
    """Recorded episodes, split; truths and obstacles have one row for each row of the episodes."""

    training: SequenceReplay
    training_truth: dict[str, torch.Tensor]
    """By name as in ``TRUTHS``, ``[row, part]``."""
    held_out: list[Transitions]
    """Whole episodes, ``[1, time, ...]``."""
    held_out_truth: list[dict[str, torch.Tensor]]
    """For each held-out episode, by name, ``[time, part]``."""
    held_out_obstacle: list[torch.Tensor]
    """Nearest obstacle in each held-out episode, ``[time, 2]``: distance in metres and bearing in
    radians; 0 is straight ahead, positive to the left."""


class Walk:
    """Chooses smooth random actions, with phases that head for the goal.

    Actions are a first-order autoregression of unit variance, times a scale. Without the phases the
    robot would soon leave goal and obstacles behind.

    Args:
        size: number of entries of an action: forwards, turning to the left, then any others.
        generator: source of the noise.
    """

    def __init__(self, size: int, generator: np.random.Generator) -> None:
        self._generator = generator
        self._noise = generator.normal(size=size)
        self._scale = generator.uniform(0.3, 1.0)
        self._seeks = False

    def act(self, goal_bearing: float) -> np.ndarray:
        """Choose the next action, in [-1, 1].

        Args:
            goal_bearing: bearing of the goal in radians, positive to the left of straight ahead.
        """
        fresh = self._generator.normal(size=self._noise.shape)
        self._noise = PERSISTENCE * self._noise + np.sqrt(1 - PERSISTENCE**2) * fresh
        if self._generator.random() < 1 / PHASE_STEPS:
            self._seeks = not self._seeks
        action = self._scale * self._noise
        if self._seeks:
            action[0] += 0.7 * np.cos(goal_bearing)
            action[1] += np.sin(goal_bearing / 2)
        return np.clip(action, -1, 1).astype(np.float32)


def open_environment(config: Config) -> ConstrainedEnvironment:
    """Open the task with image observations."""
    return make_environment(
        config.task,
        seed=config.seed,
        observation="image",
        action_repeat=config.action_repeat,
        image_quality=config.image_quality,
    )


def collect(config: Config, episodes: int, path: Path) -> Path:
    """Record episodes in a file (replay and truths), unless it exists; return its path.

    Args:
        config: task, seed, action repeat and image quality.
        episodes: number of episodes.
        path: file to write.
    """
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    truths: dict[str, list[np.ndarray]] = {name: [] for name in (*TRUTHS, "obstacle")}
    with closing(open_environment(config)) as environment:
        replay = build_replay(config, environment)
        for episode in track(range(episodes), "collecting", transient=True):
            _, size = sizes(environment)
            walk = Walk(size, np.random.default_rng(episode))
            record(environment, replay, walk, truths)
    content = {
        "replay": replay.state_dict(),
        "truth": {name: torch.from_numpy(np.stack(rows)) for name, rows in truths.items()},
    }
    write_atomically(path, lambda file: torch.save(content, file))
    return path


def record(
    environment: ConstrainedEnvironment,
    replay: SequenceReplay,
    walk: Walk,
    truths: dict[str, list[np.ndarray]],
) -> None:
    """Record one episode, and the truths at each of its rows."""
    observation, _ = environment.reset()
    action = np.zeros(sizes(environment)[1], np.float32)
    step: dict[str, Any] = {"reward": 0.0, "cost": 0.0, "is_first": True}
    over = False
    while True:
        replay.add(observation, action, **step)
        truth = truth_of(environment)
        for name, row in truth.items():
            truths[name].append(row)
        if over:
            return
        ahead, left = truth["goal direction"]
        action = walk.act(float(np.arctan2(left, ahead)))
        observation, reward, terminated, truncated, info = environment.step(
            within_bounds(action, environment.action_space)
        )
        step = {"reward": reward, "cost": info["cost"], "is_first": False, "terminated": terminated}
        over = terminated or truncated


def require_goal_and_obstacles(config: Config, rows: int) -> None:
    """Check that the task can be probed.

    Raises:
        ValueError: the task has no goal or no obstacles that cost, or its episodes have fewer than
            ``rows`` rows.
    """
    with closing(open_environment(config)) as environment:
        longest = environment.episode_length // (rows - 1)
        if config.action_repeat > longest:
            raise ValueError(
                f"action_repeat: got {config.action_repeat}; at most {longest}, so that an episode "
                f"of {environment.episode_length} steps has the {rows} rows that a filmstrip needs."
            )
        task = getattr(environment._inner, "task", None)  # velocity tasks have none
        if not (hasattr(task, "goal") and constrained(task)):
            raise ValueError(
                f"task: got {config.task}, which has no goal or no obstacles that cost; allowed "
                "such as SafetyPointGoal1-v0 or SafetyCarPush1-v0."
            )


def constrained(task: Any) -> list[Any]:
    """Return the kinds of obstacles that cost."""
    return [kind for kind in task._obstacles if getattr(kind, "is_constrained", False)]


def truth_of(environment: ConstrainedEnvironment) -> dict[str, np.ndarray]:
    """Read the robot's velocity and surroundings from the simulator, in the robot's frame."""
    task = environment._inner.task
    agent = task.agent

    def relative(position: Any) -> np.ndarray:
        """Return metres ahead and to the left of the robot."""
        return ((np.asarray(position) - agent.pos) @ np.asarray(agent.mat))[:2]

    obstacles = np.stack([relative(place) for kind in constrained(task) for place in kind.pos])
    distances = np.linalg.norm(obstacles, axis=1)
    nearest = int(distances.argmin())
    ahead, left = obstacles[nearest]
    goal = relative(task.goal.pos)
    rows = {
        "obstacle proximity": [1 - min(distances[nearest], LIDAR_RANGE) / LIDAR_RANGE],
        "agent velocity": [*agent.get_sensor("velocimeter")[:2], agent.get_sensor("gyro")[2]],
        "goal direction": goal / max(1e-6, float(np.linalg.norm(goal))),
        "obstacle": [distances[nearest], np.arctan2(left, ahead)],
    }
    return {name: np.asarray(row, np.float32) for name, row in rows.items()}


def read(config: Config, path: Path) -> ImageDataset:
    """Read recorded episodes; hold out every fifth."""
    content = torch.load(path, weights_only=True)
    saved, truth = content["replay"], content["truth"]
    borders = [*saved["episode_starts"], saved["added"]]
    with closing(open_environment(config)) as environment:
        everything, training = (build_replay(config, environment) for _ in range(2))
    everything.load_state_dict(saved)
    held_out, parts, rows_of_training = [], [], []
    for episode, (first, last) in enumerate(pairwise(borders)):
        rows = everything.gather(torch.tensor([first]), last - first)
        if episode % EVERY == EVERY - 1:
            held_out.append(rows)
            parts.append({name: values[first:last] for name, values in truth.items()})
        else:
            append(training, rows)
            rows_of_training.append(torch.arange(first, last))
    kept = torch.cat(rows_of_training)
    obstacle = [part.pop("obstacle") for part in parts]
    return ImageDataset(
        training, {name: truth[name][kept] for name in TRUTHS}, held_out, parts, obstacle
    )
