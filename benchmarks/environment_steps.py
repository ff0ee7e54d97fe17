"""Times resets, steps and episodes of our environments against Safety-Gymnasium's.

python benchmarks/environment_steps.py
"""

import dataclasses
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from measure import interleave, markdown, ratios, spread, write

from blocks import make_environment
from blocks.environments.compatibility import import_safety_gymnasium

OURS, STOCK = "ours", "stock"
PARTS = ("reset", "steps")
SEED = 0
SMOKE_STEPS = 10


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of the benchmark."""

    tasks: tuple[str, ...] = (
        "SafetyPointGoal1-v0",
        "SafetyPointCircle1-v0",
        "SafetyPointPush1-v0",
        "SafetyCarButton1-v0",
        "SafetyDoggoGoal1-v0",
        "SafetyHalfCheetahVelocity-v1",
    )
    """Tasks; except for velocity tasks, a reset rebuilds the model."""
    rounds: int = 5
    """Rounds; each plays one episode in every environment of every task."""
    smoke: bool = False
    """Use one task, one round and a few steps; checks that everything works."""
    out: Path = Path("runs/benchmarks/environment_steps.json")
    """File of the results."""


class Player:
    """Plays episodes with given actions; reset and steps can be timed separately.

    Attributes:
        lengths: environment steps of each episode.
        returns: sum of rewards of each episode.
    """

    def __init__(
        self, reset: Callable[[], object], step: Callable[[Any], tuple[Any, ...]], actions: Any
    ) -> None:
        self._reset, self._step, self._actions = reset, step, actions
        self._under_way = False
        self.lengths: list[int] = []
        self.returns: list[float] = []

    def reset(self) -> None:
        """Begin an episode."""
        self._reset()
        self._under_way = True

    def steps(self) -> None:
        """Play the episode until it or the actions end; do nothing before a reset."""
        if not self._under_way:  # a second warm-up without a reset
            return
        total, length = 0.0, 0
        for length, action in enumerate(self._actions, start=1):  # noqa: B007 - counts the steps
            # The stock environment also returns a cost, third; the last three are the same.
            _, reward, *_, terminated, truncated, _ = self._step(action)
            total += float(reward)
            if terminated or truncated:
                break
        self._under_way = False
        self.lengths.append(length)
        self.returns.append(total)


def players(task: str, *, steps: int | None) -> dict[str, Player]:
    """Make players of our and the stock environment, for the same episodes and random actions."""
    ours, stock = make_environment(task, seed=SEED), import_safety_gymnasium().make(task)
    space, episodes = stock.action_space, itertools.count()
    count = min(steps or ours.episode_length, ours.episode_length)
    noise = np.random.default_rng(SEED).uniform(space.low, space.high, (count, *space.shape))
    actions = noise.astype(np.float32)

    def reset_stock() -> None:
        entropy = np.random.SeedSequence((SEED, next(episodes)))  # as in our environment
        stock.reset(seed=int(entropy.generate_state(1)[0]))

    return {
        OURS: Player(ours.reset, ours.step, actions),
        STOCK: Player(reset_stock, stock.step, actions),
    }


def rows_of(
    task: str, seconds: dict[tuple[str, str], list[float]], lengths: list[int]
) -> list[dict[str, Any]]:
    """Make the table's rows, one per environment; ratios are stock's time over the row's time."""
    whole = {
        name: [a + b for a, b in zip(seconds[name, "reset"], seconds[name, "steps"], strict=True)]
        for name in (OURS, STOCK)
    }
    rates = {
        name: [n / t for n, t in zip(lengths, seconds[name, "steps"], strict=True)]
        for name in (OURS, STOCK)
    }
    return [
        {
            "task": task,
            "environment": name,
            "reset, ms": f"{1000 * spread(seconds[name, 'reset']).median:.1f}",
            "steps per second": f"{spread(rates[name]).median:.0f}",
            "episodes per minute": f"{60 / spread(whole[name]).median:.0f}",
            "resets, in units of stock": ratios(seconds[STOCK, "reset"], seconds[name, "reset"]),
            "steps, in units of stock": ratios(seconds[STOCK, "steps"], seconds[name, "steps"]),
            "episodes, in units of stock": ratios(whole[STOCK], whole[name]),
        }
        for name in (STOCK, OURS)
    ]


def compare(options: Options) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Compare all tasks; return table rows and raw results."""
    steps = SMOKE_STEPS if options.smoke else None
    contestants = {task: players(task, steps=steps) for task in options.tasks}
    runs = {
        (task, name, part): getattr(player, part)
        for task, pair in contestants.items()
        for name, player in pair.items()
        for part in PARTS
    }
    seconds = interleave(runs, options.rounds)
    rows, results = [], []
    for task, pair in contestants.items():
        require_same_episodes(task, **pair)
        lengths = pair[OURS].lengths[-options.rounds :]  # without the warm-up's
        of_task = {(name, part): seconds[task, name, part] for name in pair for part in PARTS}
        rows += rows_of(task, of_task, lengths)
        named = {f"{name}, {part}": times for (name, part), times in of_task.items()}
        results.append({"task": task, "episode_lengths": lengths, "seconds": named})
    return rows, results


def require_same_episodes(task: str, ours: Player, stock: Player) -> None:
    """Check that both environments did the same work.

    Raises:
        RuntimeError: lengths or rewards differ.
    """
    if (ours.lengths, ours.returns) != (stock.lengths, stock.returns):
        raise RuntimeError(f"{task}: the environments did not play the same episodes")


def main(options: Options) -> None:
    if options.smoke:
        options = dataclasses.replace(options, rounds=1, tasks=options.tasks[:1])
    rows, results = compare(options)
    print(markdown(rows))
    write(options.out, "environment_steps", dataclasses.asdict(options), results)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
