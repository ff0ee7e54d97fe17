"""Trains OmniSafe's PPO-Lagrangian: the model-free reference for CERL's sample efficiency.

Algorithm, environments and default settings are OmniSafe's; this recipe counts every environment
step and writes the run folder. An iterate is an epoch: the episodes of one policy. As in the other
recipes, the final evaluation uses the mean action in separate episodes. OmniSafe does not clip
actions to their bounds, which lowers the return during training on velocity tasks.

    make model-free ARGS="--task SafetyHalfCheetahVelocity-v1 --seed 0"

OmniSafe cannot resume: a run that is stopped has to start again.
"""

import sys
import time
from contextlib import closing, redirect_stdout
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import rich
import tyro

from blocks import EpisodeRecord, make_environment, safety_summary
from recipes.baselines.omnisafe import counted, import_omnisafe
from recipes.plotting.figures import learning_figure
from recipes.runs.errors import errors_in_one_line
from recipes.runs.folder import RunFolder
from recipes.training.progress import Progress, headline_table
from recipes.training.results import EVALUATION_SEED, log_episode

RECIPE = "reference_ppo_lagrangian"


@dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of a run; all others are OmniSafe's defaults for PPO-Lagrangian."""

    smoke: bool = False
    """Run three episodes; checks in a minute that everything works."""
    task: str = "SafetyHalfCheetahVelocity-v1"
    """Safety-Gymnasium task."""
    seed: int = 0
    """Seed of all random numbers."""
    out: Path | None = None
    """Run folder; runs/<recipe>/<task>/seed<k>-<time> by default."""
    threads: int = 1
    """Threads within torch's operations; more than 1 is no faster at these sizes."""
    steps: int = 500_000
    """Environment steps."""
    steps_per_epoch: int = 20_000
    """Environment steps between two phases of policy updates."""
    episode_budget: float = 25.0
    """Expected cost allowed per episode."""
    evaluation_episodes: int = 10
    """Episodes of the final evaluation, with the mean action."""

    def __post_init__(self) -> None:
        for name in ("threads", "steps_per_epoch", "evaluation_episodes"):
            self._require(name, getattr(self, name) >= 1, "at least 1")
        whole = self.steps >= 1 and self.steps % self.steps_per_epoch == 0
        self._require("steps", whole, f"multiples of steps_per_epoch={self.steps_per_epoch}")
        self._require("episode_budget", self.episode_budget > 0, "above 0")

    def _require(self, name: str, holds: bool, allowed: str) -> None:
        if not holds:
            raise ValueError(f"{name}: got {getattr(self, name)}; allowed: {allowed}.")


def train(
    run_folder: RunFolder, config: Config, omnisafe: ModuleType, length: int
) -> dict[str, Any]:
    """Train to ``config.steps``, evaluate, write summary and figure; return the summary.

    ``length`` is the number of environment steps of an episode.
    """
    began = time.monotonic()
    records: list[EpisodeRecord] = []
    logs = run_folder.path / "omnisafe"
    logs.mkdir()
    settings = {
        "seed": config.seed,
        "train_cfgs": {"total_steps": config.steps, "torch_threads": config.threads},
        "algo_cfgs": {"steps_per_epoch": config.steps_per_epoch},
        "lagrange_cfgs": {"cost_limit": config.episode_budget},
        "logger_cfgs": {"log_dir": str(logs), "use_tensorboard": False},
    }
    with (
        Progress(config.steps, config.episode_budget) as line,
        (logs / "console.txt").open("w") as console,
        redirect_stdout(console),
    ):

        def record_episode(episode_return: float, cost: float, steps: int) -> None:
            before = sum(record.steps for record in records)
            epoch = 1 + before // config.steps_per_epoch  # 0 is the prefill
            record = EpisodeRecord(epoch, cost, episode_return, steps)
            log_episode(run_folder, before + steps, len(records), record, exploration_scale=1.0)
            records.append(record)
            line.show(before + steps, episode_return=episode_return, episode_cost=cost)

        with counted(omnisafe, record_episode, config.seed):
            agent = omnisafe.Agent("PPOLag", config.task, custom_cfgs=settings)
            agent.learn()
        final = evaluate(omnisafe, config, Path(agent.agent.logger.log_dir))
    returns, costs, _ = map(list, zip(*final, strict=True))
    safety = safety_summary(records, episode_budget=config.episode_budget, episode_length=length)
    summary: dict[str, Any] = {
        "recipe": RECIPE,
        "task": config.task,
        "seed": config.seed,
        "episode_budget": config.episode_budget,
        **safety._asdict(),
        "guard_episodes": 0,
        "final_return": float(np.mean(returns)),
        "final_cost": float(np.mean(costs)),
        "final_costs": costs,
        "final_returns": returns,
    }
    means = {"return_mean": summary["final_return"], "cost_mean": summary["final_cost"]}
    run_folder.log("evaluation", safety.environment_steps, **means)
    learning_figure(run_folder)
    summary["wall_seconds"] = round(time.monotonic() - began, 1)
    run_folder.write_summary(summary)
    return summary


def evaluate(omnisafe: ModuleType, config: Config, logs: Path) -> list[tuple[float, float, int]]:
    """Evaluate the final policy; return return, cost and steps of each episode."""
    episodes: list[tuple[float, float, int]] = []
    with counted(omnisafe, lambda *e: episodes.append(e), EVALUATION_SEED + config.seed):
        evaluator = omnisafe.Evaluator()
        evaluator.load_saved(str(logs), f"epoch-{config.steps // config.steps_per_epoch}.pt")
        evaluator.evaluate(config.evaluation_episodes)
    # OmniSafe evaluates for 1000 steps per episode: shorter tasks report several episodes each.
    return episodes[: config.evaluation_episodes]


def episode_length(config: Config) -> int:
    """Look up the number of environment steps of the task's episodes.

    Raises:
        ValueError: there is no such task, or an epoch is shorter than an episode. The multiplier's
            update needs a whole episode.
    """
    with closing(make_environment(config.task)) as environment:
        length = environment.episode_length
    if config.steps_per_epoch < length:
        raise ValueError(
            f"steps_per_epoch: got {config.steps_per_epoch}; allowed: at least {length}, "
            f"an episode of {config.task}."
        )
    return length


def main(arguments: list[str]) -> None:
    """Train by the command line, where ``--smoke`` changes defaults; print errors in one line."""
    smoke = Config(steps=3000, steps_per_epoch=3000, evaluation_episodes=1)
    try:
        with errors_in_one_line():
            default = smoke if "--smoke" in arguments else Config()
            config = tyro.cli(Config, args=arguments, default=default)
            omnisafe, length = import_omnisafe(), episode_length(config)  # before the folder
            run_folder = RunFolder.create(RECIPE, config.task, config.seed, config.out)
            with closing(run_folder):
                run_folder.write_config(asdict(config))
                rich.print(headline_table(train(run_folder, config, omnisafe, length)))
                print(f"the run is in {run_folder.path}")
    except KeyboardInterrupt:
        print("\nstopped; OmniSafe cannot resume: start again", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main(sys.argv[1:])
