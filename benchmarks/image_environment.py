"""Times images of the robot's camera: our environments, also in processes, and Safety-Gymnasium's.

python benchmarks/image_environment.py
"""

import dataclasses
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from measure import interleave, markdown, ratios, spread, write

from blocks import ParallelEnvironments, make_environment
from blocks.environments.compatibility import import_safety_gymnasium
from blocks.environments.episodes import ConstrainedEnvironment
from blocks.environments.offscreen_viewer import free_viewers

STOCK, EXACT, FAST = "stock", "ours", "ours, fast"
PARTS = ("reset", "steps")
SEED = 0
SIZE = 64


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of the benchmark."""

    tasks: tuple[str, ...] = (
        "SafetyPointGoal1-v0",
        "SafetyPointGoal2-v0",
        "SafetyCarGoal1-v0",
        "SafetyPointPush1-v0",
        "SafetyPointButton1-v0",
        "SafetyDoggoGoal1-v0",
    )
    """Navigation tasks."""
    repeats: tuple[int, ...] = (1, 2, 4)
    """Action repeats; Safety-Gymnasium draws every environment step, ours draw only the last."""
    processes: tuple[int, ...] = (1, 2, 4)
    """Numbers of processes; each has an environment of the first task."""
    steps: int = 240
    """Environment steps of a round, after a reset; episode times are extrapolated from these."""
    rounds: int = 3
    """Rounds; each plays one reset and the steps in every environment."""
    smoke: bool = False
    """Use one task, one round and a few steps; checks that everything works."""
    out: Path = Path("runs/benchmarks/image_environment.json")
    """File of the results."""


class Player:
    """Resets an environment and steps it with given actions, each repeated.

    Attributes:
        last: the last image of each round.
    """

    def __init__(
        self,
        reset: Callable[[], object],
        step: Callable[[Any], np.ndarray],
        close: Callable[[], object],
        actions: np.ndarray,
        calls: int,
    ) -> None:
        self.reset, self._step, self.close = reset, step, close
        self._actions = actions
        self._calls = calls
        self.last: list[np.ndarray] = []

    def steps(self) -> None:
        """Take every action; keep the last image."""
        image = np.zeros(0)
        for action in self._actions:
            for _ in range(self._calls):
                image = self._step(action)
        self.last.append(image)


def stock_player(task: str, actions: np.ndarray, repeat: int) -> Player:
    """Make a player of Safety-Gymnasium's vision environment, at our size and with our episodes."""
    safety_gymnasium = import_safety_gymnasium()
    from gymnasium.envs.registration import registry

    vision = task.replace("-v0", "Vision-v0")
    config = registry[vision].kwargs["config"] | {"vision_env_conf.vision_size": (SIZE, SIZE)}
    environment = safety_gymnasium.make(vision, config=config)
    episodes = itertools.count()

    def make_current() -> None:
        """Make the viewers' contexts current; Safety-Gymnasium draws into the current context."""
        for viewer in environment.unwrapped.task._viewers.values():
            viewer.make_context_current()

    def reset() -> None:
        make_current()
        entropy = np.random.SeedSequence((SEED, next(episodes)))  # as in our environment
        environment.reset(seed=int(entropy.generate_state(1)[0]))

    def step(action: np.ndarray) -> np.ndarray:
        make_current()
        return environment.step(action)[0]["vision"]

    def close() -> None:
        free_viewers(environment.unwrapped.task._viewers)

    return Player(reset, step, close, actions, repeat)


def our_player(task: str, actions: np.ndarray, repeat: int, quality: Any) -> Player:
    """Make a player of our environment."""
    environment = make_environment(
        task, seed=SEED, observation="image", action_repeat=repeat, image_quality=quality
    )

    def step(action: np.ndarray) -> np.ndarray:
        return environment.step(action)[0]

    return Player(environment.reset, step, environment.close, actions, 1)


def random_actions(
    environment: ConstrainedEnvironment | ParallelEnvironments, count: int
) -> np.ndarray:
    """Draw random actions with a bias forwards, so that the robots move away from the start."""
    shape = environment.action_space.shape or ()
    noise = np.random.default_rng(SEED).uniform(-0.5, 1.5, (count, *shape))
    return noise.clip(-1, 1).astype(np.float32)


def compare(task: str, repeat: int, options: Options) -> dict[str, Any]:
    """Measure the seconds of a reset and of the steps after it, by environment and round."""
    actions = random_actions(make_environment(task), options.steps // repeat)
    players = {
        STOCK: stock_player(task, actions, repeat),
        EXACT: our_player(task, actions, repeat, "exact"),
        FAST: our_player(task, actions, repeat, "fast"),
    }
    runs = {
        (name, part): getattr(player, part) for name, player in players.items() for part in PARTS
    }
    seconds = interleave(runs, options.rounds)
    if not np.array_equal(players[STOCK].last, players[EXACT].last):
        raise RuntimeError(f"{task}: the images differ")
    for player in players.values():
        player.close()
    named = {f"{name}, {part}": times for (name, part), times in seconds.items()}
    return {"task": task, "action_repeat": repeat, "seconds": named}


def rows_of(result: dict[str, Any], options: Options) -> list[dict[str, Any]]:
    """Make the table's rows, one per environment; ratios are stock's time over the row's time."""
    task, seconds = result["task"], result["seconds"]
    length = make_environment(task).episode_length
    whole = {
        name: [
            reset + steps * length / options.steps
            for reset, steps in zip(*(seconds[f"{name}, {part}"] for part in PARTS), strict=True)
        ]
        for name in (STOCK, EXACT, FAST)
    }
    return [
        {
            "task": task,
            "action repeat": result["action_repeat"],
            "environment": name,
            "reset, ms": f"{1000 * spread(seconds[f'{name}, reset']).median:.0f}",
            "environment steps per second": f"{rate(seconds[f'{name}, steps'], options):.0f}",
            "steps, in units of stock": ratios(
                seconds[f"{STOCK}, steps"], seconds[f"{name}, steps"]
            ),
            "episodes, in units of stock": ratios(whole[STOCK], whole[name]),
        }
        for name in (STOCK, EXACT, FAST)
    ]


def rate(seconds: list[float], options: Options) -> float:
    """Compute environment steps per second."""
    return options.steps / spread(seconds).median


def compare_processes(options: Options) -> dict[str, Any]:
    """Measure the seconds in which pools of processes play the same episodes, action repeat 1."""
    task = options.tasks[0]
    pools = {
        count: ParallelEnvironments(task, count, observation="image") for count in options.processes
    }
    actions = random_actions(pools[options.processes[0]], options.steps)

    def play(pool: ParallelEnvironments) -> None:
        pool.episode_index = 0
        while pool.episode_index < episodes(options):
            pool.reset()
            played = dict.fromkeys(range(len(pool)), 0)
            ready = list(played)
            while played:
                for place in ready:
                    if played[place] == len(actions):
                        del played[place]
                    else:
                        pool.send(place, actions[played[place]])
                        played[place] += 1
                if played:
                    ready, _ = pool.receive()

    runs = {count: lambda pool=pool: play(pool) for count, pool in pools.items()}
    seconds = interleave(runs, options.rounds)
    for pool in pools.values():
        pool.close()
    return {"task": task, "seconds": {str(count): times for count, times in seconds.items()}}


def episodes(options: Options) -> int:
    """Compute the episodes that each pool plays: the same number in each of its processes."""
    return math.lcm(*options.processes)


def process_rows(result: dict[str, Any], options: Options) -> list[dict[str, Any]]:
    """Make the second table's rows; ratios are the first row's time over the row's time."""
    first = result["seconds"][str(options.processes[0])]
    return [
        {
            "processes": count,
            "environment steps per second": f"{episodes(options) * rate(seconds, options):.0f}",
            f"in units of {options.processes[0]}": ratios(first, seconds),
        }
        for count, seconds in result["seconds"].items()
    ]


def main(options: Options) -> None:
    if options.smoke:
        options = dataclasses.replace(
            options, rounds=1, steps=8, tasks=options.tasks[:1], repeats=options.repeats[:2]
        )
    results = [
        compare(task, repeat, options) for task in options.tasks for repeat in options.repeats
    ]
    rows = [row for result in results for row in rows_of(result, options)]
    print(markdown(rows))
    processes = compare_processes(options)
    print("\n" + markdown(process_rows(processes, options)))
    content = {"compared": results, "processes": processes}
    write(options.out, "image_environment", dataclasses.asdict(options), content)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
