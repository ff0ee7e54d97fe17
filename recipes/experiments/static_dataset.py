"""Collect a run's replay as a dataset, once; split training from held-out episodes."""

import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from blocks import SequenceReplay, Transitions
from recipes.agents import Config
from recipes.runs.errors import RunError
from recipes.runs.folder import RunFolder

COLLECTOR = "recipes.ablation_objective_only"
EVERY = 5  # every fifth episode is held out


class Dataset(NamedTuple):
    """A run's episodes, split: every fifth is held out, among early cheap and later costly ones."""

    path: Path
    config: Config
    training: SequenceReplay
    held_out: list[Transitions]
    """Whole episodes, ``[1, time, ...]``."""
    held_out_index: list[int]
    """Their numbers in the run, from 0."""

    @property
    def training_rows(self) -> Transitions:
        """Return all training rows in order, ``[1, time, ...]``."""
        return self.training.gather(torch.tensor([0]), len(self.training))

    @property
    def costly_row(self) -> float:
        """Return the mean cost of the costly training rows; 1 if there are none."""
        cost = self.training_rows.cost
        return float(cost[cost > 0].mean()) if (cost > 0).any() else 1.0

    def described(self) -> dict[str, Any]:
        """Describe the dataset for summary.json."""
        rows = sum(episode.row.numel() for episode in self.held_out)
        training_episodes = int(self.training_rows.is_first.sum())
        return {
            "path": self.path,
            "episodes": training_episodes + len(self.held_out),
            "rows": len(self.training) + rows,
            "held_out": self.held_out_index,
            "held_out_rows": rows,
        }


def collect(task: str, seed: int, steps: int, *, smoke: bool) -> Path:
    """Reuse, resume or start a run of ablation_objective_only; return its folder.

    Raises:
        RunError: the run failed or cannot be resumed.
    """
    name = f"{task}-seed{seed}-{steps}" + ("-smoke" if smoke else "")
    folder = Path("runs") / "datasets" / name
    if (folder / "summary.json").is_file():
        return folder
    arguments = ["--resume", folder]
    if not RunFolder(folder).checkpoints():
        if (folder / "config.json").exists():
            raise RunError(f"{folder} was stopped before its first checkpoint: remove that folder")
        sizes = ["--steps", steps, "--guard-share", 0, "--evaluation-episodes", 1]
        arguments = ["--task", task, "--seed", seed, *sizes, "--out", folder]
        arguments += ["--smoke"] if smoke else []
    print(f"collecting {folder}", flush=True)
    run = subprocess.run(
        [sys.executable, "-m", COLLECTOR, *map(str, arguments)],
        env=os.environ | {"MUJOCO_GL": "disabled"},  # its video is not needed
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    if run.returncode:
        lines = [line for line in run.stderr.splitlines() if line.strip()] or ["no reason given"]
        raise RunError(f"collecting {folder} failed: {lines[-1].removeprefix('error: ')}")
    return folder


def read_dataset(folder: Path, seed: int) -> Dataset:
    """Read the replay in a run's newest checkpoint; split training from held-out episodes.

    Args:
        folder: folder of the run.
        seed: seed of the training replay's samples.

    Raises:
        RunError: the folder holds no run with a checkpoint, or the run has fewer than 5 episodes.
    """
    run = RunFolder(folder)
    config = Config.of_run(run)
    saved = run.read_checkpoint()["agent"]["replay"]
    everything = recorded_replay(saved)
    borders = [*saved["episode_starts"], saved["added"]]
    count = len(borders) - 1
    if count < EVERY:
        raise RunError(
            f"{folder}: got {count} episodes; every fifth is held out, so at least 5 are needed."
        )
    index = list(range(EVERY - 1, count, EVERY))
    training = _replay_for(saved, seed)
    held_out = []
    for episode, (first, last) in enumerate(pairwise(borders)):
        rows = everything.gather(torch.tensor([first]), last - first)
        if episode in index:
            held_out.append(rows)
        else:
            append(training, rows)
    return Dataset(folder, config, training, held_out, index)


def recorded_replay(saved: dict[str, Any]) -> SequenceReplay:
    """Rebuild the replay from its state in a checkpoint."""
    replay = _replay_for(saved, seed=0)
    replay.load_state_dict(saved)
    return replay


def _replay_for(saved: dict[str, Any], seed: int) -> SequenceReplay:
    """Build an empty replay with room for all saved rows."""
    rows: dict[str, Tensor] = saved["rows"]
    return SequenceReplay(
        saved["added"],
        observation_shape=tuple(rows["observation"].shape[1:]),
        action_size=rows["action"].shape[1],
        seed=seed,
    )


def append(replay: SequenceReplay, episode: Transitions) -> None:
    """Append the rows of episodes ``[1, time, ...]``."""
    for t in range(episode.row.numel()):
        row = Transitions(*(x[0, t] for x in episode))
        replay.add(
            row.observation,
            row.action,
            reward=float(row.reward),
            cost=float(row.cost),
            is_first=bool(row.is_first),
            terminated=bool(row.terminated),
        )
