"""A recorded dataset: the replay of a run, collected once, some of its episodes held out."""

import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from blocks import SequenceReplay, Transitions
from recipes.agents.config import Config, config_from_json
from recipes.runs.errors import RunError
from recipes.runs.folder import RunFolder

COLLECTOR = Path(__file__).parents[1] / "ablation_objective_only.py"
EVERY = 5  # one episode of so many is held out


class Dataset(NamedTuple):
    """Every fifth episode is held out: of the early, cheap ones as of the later, costly ones."""

    path: Path
    config: Config
    training: SequenceReplay
    held_out: list[Transitions]
    """Whole episodes, ``[1, time, ...]``."""
    held_out_index: list[int]
    """Which of the run's episodes these are, from 0."""

    @property
    def training_rows(self) -> Transitions:
        """All rows that train, one behind the other, ``[1, time, ...]``."""
        return self.training.gather(torch.tensor([0]), len(self.training))

    @property
    def costly_row(self) -> float:
        """Mean cost of the training rows that cost anything; 1 where none does."""
        cost = self.training_rows.cost
        return float(cost[cost > 0].mean()) if (cost > 0).any() else 1.0

    def described(self) -> dict[str, Any]:
        """What the summary says of it."""
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
    """The folder of a finished run of `ablation_objective_only.py`: reused, resumed or made.

    Raises:
        RunError: the run did not end, or cannot go on.
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
        [sys.executable, str(COLLECTOR), *map(str, arguments)],
        env=os.environ | {"MUJOCO_GL": "disabled"},  # nobody watches its video
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    if run.returncode:
        said = [line for line in run.stderr.splitlines() if line.strip()] or ["no reason given"]
        raise RunError(f"collecting {folder} failed: {said[-1].removeprefix('error: ')}")
    return folder


def read_dataset(folder: Path, seed: int) -> Dataset:
    """The replay in a run's newest checkpoint, split into training and held-out episodes.

    Args:
        folder: of the run.
        seed: of the training replay's samples.

    Raises:
        RunError: the folder holds no run with a checkpoint, or too few episodes to hold one out.
    """
    run = RunFolder(folder)
    config = config_from_json(run.read_config())
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
    """The replay whose state a checkpoint holds."""
    replay = _replay_for(saved, seed=0)
    replay.load_state_dict(saved)
    return replay


def _replay_for(saved: dict[str, Any], seed: int) -> SequenceReplay:
    """An empty replay with room for all that was saved."""
    rows: dict[str, Tensor] = saved["rows"]
    return SequenceReplay(
        saved["added"],
        observation_shape=tuple(rows["observation"].shape[1:]),
        action_size=rows["action"].shape[1],
        seed=seed,
    )


def append(replay: SequenceReplay, episode: Transitions) -> None:
    """Add the rows of an episode ``[1, time, ...]``."""
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
