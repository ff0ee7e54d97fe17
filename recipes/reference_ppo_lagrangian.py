"""PPO-Lagrangian by OmniSafe: the model-free reference for CERL's sample efficiency.

OmniSafe's algorithm, environments and default settings; ours are the counting, over every
environment step, and the run's folder. An iterate is an epoch: the episodes in which one policy
acted. The final evaluation is that of the other recipes: by the mean action, in episodes of its
own. OmniSafe does not clip actions to their bounds, which on velocity tasks costs return while it
learns.

    make model-free ARGS="--task SafetyHalfCheetahVelocity-v1 --seed 0"

OmniSafe cannot go on where it was stopped: a run that is killed has to begin again.
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
    """Three episodes, to see in a minute that everything works."""
    task: str = "SafetyHalfCheetahVelocity-v1"
    """Safety-Gymnasium task."""
    seed: int = 0
    """Seed of everything random."""
    out: Path | None = None
    """The run's folder; runs/<recipe>/<task>/seed<k>-<time> by default."""
    threads: int = 1
    """Threads within torch's operations; more are no faster at these sizes."""
    steps: int = 500_000
    """Environment steps."""
    steps_per_epoch: int = 20_000
    """Environment steps between two phases of learning."""
    episode_budget: float = 25.0
    """Expected cost allowed per episode."""
    evaluation_episodes: int = 10
    """Episodes of the final evaluation: mean action."""

    def __post_init__(self) -> None:
        for name in ("threads", "steps_per_epoch", "evaluation_episodes"):
            self._require(name, getattr(self, name) >= 1, "at least 1")
        whole = self.steps >= 1 and self.steps % self.steps_per_epoch == 0
        self._require("steps", whole, f"multiples of steps_per_epoch={self.steps_per_epoch}")
        self._require("episode_budget", self.episode_budget > 0, "above 0")

    def _require(self, name: str, holds: bool, allowed: str) -> None:
        if not holds:
            raise ValueError(f"{name}: got {getattr(self, name)}; allowed: {allowed}.")

    def for_omnisafe(self, logs: Path) -> dict[str, Any]:
        """The settings by OmniSafe's names."""
        return {
            "seed": self.seed,
            "train_cfgs": {"total_steps": self.steps, "torch_threads": self.threads},
            "algo_cfgs": {"steps_per_epoch": self.steps_per_epoch},
            "lagrange_cfgs": {"cost_limit": self.episode_budget},
            "logger_cfgs": {"log_dir": str(logs), "use_tensorboard": False},
        }


def train(run_folder: RunFolder, config: Config) -> dict[str, Any]:
    """Train to ``config.steps``, evaluate, write summary and figure; returns the summary."""
    omnisafe, begun = import_omnisafe(), time.monotonic()
    length = episode_length(config)
    records: list[EpisodeRecord] = []
    logs = run_folder.path / "omnisafe"
    logs.mkdir()
    with (
        Progress(config.steps, config.episode_budget) as line,
        (logs / "console.txt").open("w") as console,
        redirect_stdout(console),
    ):

        def record_episode(episode_return: float, cost: float, steps: int) -> None:
            epoch = sum(record.steps for record in records) // config.steps_per_epoch
            record = EpisodeRecord(1 + epoch, cost, episode_return, steps)  # 0 is a prefill's
            records.append(record)
            step = sum(record.steps for record in records)
            log_episode(run_folder, step, len(records) - 1, record, exploration_scale=1.0)
            line.update(step, episode_return=episode_return, episode_cost=cost)

        with counted(omnisafe, record_episode, config.seed):
            agent = omnisafe.Agent("PPOLag", config.task, custom_cfgs=config.for_omnisafe(logs))
            agent.learn()
        returns, costs = evaluate(omnisafe, config, Path(agent.agent.logger.log_dir))
    summary = summarise(config, records, length, returns, costs)
    run_folder.log(
        "evaluation",
        summary["environment_steps"],
        return_mean=summary["final_return"],
        cost_mean=summary["final_cost"],
    )
    learning_figure(run_folder)
    summary["wall_seconds"] = round(time.monotonic() - begun, 1)
    run_folder.write_summary(summary)
    return summary


def evaluate(omnisafe: ModuleType, config: Config, logs: Path) -> tuple[list[float], list[float]]:
    """Returns and costs of the final policy's episodes, one each."""
    returns: list[float] = []
    costs: list[float] = []

    def record_episode(episode_return: float, cost: float, _: int) -> None:
        returns.append(episode_return)
        costs.append(cost)

    with counted(omnisafe, record_episode, EVALUATION_SEED + config.seed):
        evaluator = omnisafe.Evaluator()
        evaluator.load_saved(str(logs), f"epoch-{config.steps // config.steps_per_epoch}.pt")
        evaluator.evaluate(config.evaluation_episodes)
    # Its episodes are of 1000 steps, in which a task with shorter ones is lived more than once.
    return returns[: config.evaluation_episodes], costs[: config.evaluation_episodes]


def summarise(
    config: Config,
    records: list[EpisodeRecord],
    length: int,
    returns: list[float],
    costs: list[float],
) -> dict[str, Any]:
    """The headline figures, by the names that the other recipes give them."""
    safety = safety_summary(records, episode_budget=config.episode_budget, episode_length=length)
    return {
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


def episode_length(config: Config) -> int:
    """Environment steps of the task's episodes.

    Raises:
        ValueError: if there is no such task, or an epoch is shorter than an episode, of which the
            multiplier's update needs a whole one.
    """
    with closing(make_environment(config.task)) as environment:
        length = environment.episode_length
    if config.steps_per_epoch < length:
        raise ValueError(
            f"steps_per_epoch: got {config.steps_per_epoch}; allowed: at least {length}, "
            f"an episode of {config.task}."
        )
    return length


def parse(arguments: list[str]) -> Config:
    """The configuration of a command line; `--smoke` changes the defaults."""
    smoke = Config(steps=3000, steps_per_epoch=3000, evaluation_episodes=1)
    return tyro.cli(Config, args=arguments, default=smoke if "--smoke" in arguments else Config())


def main(arguments: list[str]) -> None:
    """Entry point: trains, and answers errors in one line."""
    try:
        with errors_in_one_line():
            config = parse(arguments)
            import_omnisafe()  # what is missing leaves no folder
            episode_length(config)  # nor does a task that does not exist
            run_folder = RunFolder.create(RECIPE, config.task, config.seed, config.out)
            with closing(run_folder):
                run_folder.write_config(asdict(config))
                rich.print(headline_table(train(run_folder, config)))
                print(f"the run is in {run_folder.path}")
    except KeyboardInterrupt:
        print("\nstopped; OmniSafe cannot go on from here: begin again", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main(sys.argv[1:])
