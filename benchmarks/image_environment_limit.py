"""Measures how much faster than Safety-Gymnasium the same images can be drawn at best.

    python benchmarks/image_environment_limit.py

MuJoCo draws both. An image needs the objects without which at least one byte would change. The
benchmark finds them by leaving out objects one after the other (another order may keep other
objects), and compares drawing only these with a step of Safety-Gymnasium's vision environment. The
ratio is the limit at action repeat 1, reached if nothing but drawing took time.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from time import perf_counter
from typing import Any, cast

import numpy as np
import tyro
from image_environment import Options as Compared
from image_environment import random_actions, stock_player
from measure import markdown, ratios, spread, write

from blocks import make_environment
from blocks.environments.offscreen_viewer import draw_scene
from blocks.environments.robot_camera import RobotCamera

REPEATS = 5  # draws per measurement


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of the benchmark."""

    tasks: tuple[str, ...] = tuple(task for task in Compared.tasks if "Doggo" not in task)
    """Navigation tasks whose robots do not see the lidar lights above them."""
    steps: int = 240
    """Environment steps of an episode."""
    every: int = 20
    """Steps between two measured images."""
    rounds: int = 3
    """Episodes."""
    smoke: bool = False
    """Use one task, one episode and a few steps; checks that everything works."""
    out: Path = Path("runs/benchmarks/image_environment_limit.json")
    """File of the results."""


def seconds_of(draw: Callable[[], object]) -> float:
    """Measure the mean seconds of a draw."""
    draw()
    start = perf_counter()
    for _ in range(REPEATS):
        draw()
    return (perf_counter() - start) / REPEATS


def needed(model: Any, draw: Callable[[], np.ndarray]) -> np.ndarray:
    """Find the objects that the image needs; return ``[object]`` alphas, zero for all others."""
    image, alpha = draw(), model.geom_rgba[:, 3].copy()
    kept = alpha.copy()
    for number in range(model.ngeom):
        before = kept[number]
        kept[number] = 0
        model.geom_rgba[:, 3] = kept
        if not np.array_equal(draw(), image):
            kept[number] = before
    model.geom_rgba[:, 3] = alpha
    return kept


def measure(task: str, episode: int, options: Options) -> dict[str, list[float]]:
    """Measure the seconds of our image and of only its needed objects, at each measured step."""
    environment = make_environment(task, observation="image")
    environment.reset(options={"episode": episode})
    camera, model = cast(Any, environment)._camera, environment._inner.task.model
    assert isinstance(camera, RobotCamera)

    def draw() -> np.ndarray:
        return draw_scene(camera._viewer, model, environment._inner.task.data)

    seconds: dict[str, list[float]] = {"ours": [], "needed": []}
    for count, action in enumerate(random_actions(environment, options.steps), 1):
        image, *_ = environment.step(action)
        if count % options.every:
            continue
        if camera._lights_may_show():
            raise RuntimeError(f"{task}: the lidar lights are visible; choose another task")
        seconds["ours"].append(seconds_of(camera.draw))
        alpha = model.geom_rgba[:, 3].copy()
        model.geom_rgba[:, 3] = needed(model, draw)
        seconds["needed"].append(seconds_of(draw))
        if not np.array_equal(draw(), image):
            raise RuntimeError(f"{task}: the images differ")
        model.geom_rgba[:, 3] = alpha
    environment.close()
    return seconds


def compare(task: str, options: Options) -> dict[str, Any]:
    """Measure mean seconds of Safety-Gymnasium's steps and of our two draws, in each episode."""
    actions = random_actions(make_environment(task), options.steps)
    stock = stock_player(task, actions, 1)
    results: dict[str, list[float]] = {"stock": [], "ours": [], "needed": []}
    for episode in range(options.rounds):
        stock.reset()
        start = perf_counter()
        stock.steps()
        results["stock"].append((perf_counter() - start) / len(actions))
        for name, seconds in measure(task, episode, options).items():
            results[name].append(mean(seconds))
    stock.close()
    return {"task": task, "seconds": results}


def row_of(result: dict[str, Any]) -> dict[str, Any]:
    """Make a row of the table; milliseconds are medians over episodes."""
    seconds = result["seconds"]

    def milliseconds(name: str) -> str:
        return f"{1000 * spread(seconds[name]).median:.1f}"

    return {
        "task": result["task"],
        "stock's step, ms": milliseconds("stock"),
        "our picture, ms": milliseconds("ours"),
        "its needed objects, ms": milliseconds("needed"),
        "ours, in units of these": ratios(seconds["ours"], seconds["needed"]),
        "limit of the ratio": ratios(seconds["stock"], seconds["needed"]),
    }


def main(options: Options) -> None:
    if options.smoke:
        options = dataclasses.replace(options, rounds=1, steps=8, every=4, tasks=options.tasks[:1])
    results = [compare(task, options) for task in options.tasks]
    print(markdown([row_of(result) for result in results]))
    write(options.out, "image_environment_limit", dataclasses.asdict(options), results)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
