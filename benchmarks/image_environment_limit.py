"""How much faster than Safety-Gymnasium's own the same pictures could be drawn at all.

    python benchmarks/image_environment_limit.py

Both sides let MuJoCo draw. Whoever draws the same picture has to draw the objects without which a
byte would be another. Here they are found by leaving out whole objects, one after the other (other
orders may leave other ones), and drawing them alone is compared with a step of Safety-Gymnasium's
vision environment: that ratio is what an environment would reach at an action repeat of 1 if
nothing but drawing took any time.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from time import perf_counter
from typing import Any

import numpy as np
import tyro
from image_environment import Options as Compared
from image_environment import some_actions, stock_player
from measure import markdown, ratios, spread, write

from blocks import make_environment
from blocks.environments.offscreen_viewer import draw_scene
from blocks.environments.robot_camera import RobotCamera

REPEATS = 5  # of a drawing that is timed


@dataclass(frozen=True, kw_only=True)
class Options:
    """The ratio to Safety-Gymnasium's pictures that MuJoCo's renderer allows."""

    tasks: tuple[str, ...] = tuple(task for task in Compared.tasks if "Doggo" not in task)
    """Navigation tasks whose robots do not see the lidar's lights above them."""
    steps: int = 240
    """Environment steps of an episode."""
    every: int = 20
    """Steps from one picture that is looked at to the next."""
    rounds: int = 3
    """Episodes."""
    smoke: bool = False
    """One task, one episode and a few steps, to see that it works."""
    out: Path = Path("runs/benchmarks/image_environment_limit.json")
    """Where the results go."""


def seconds_of(draw: Callable[[], object]) -> float:
    """Seconds of a drawing, on average."""
    draw()
    start = perf_counter()
    for _ in range(REPEATS):
        draw()
    return (perf_counter() - start) / REPEATS


def needed(model: Any, draw: Callable[[], np.ndarray]) -> np.ndarray:
    """Which objects change a byte of the picture, as ``[object]`` alphas with zeros elsewhere."""
    picture, alpha = draw(), model.geom_rgba[:, 3].copy()
    kept = alpha.copy()
    for number in range(model.ngeom):
        before = kept[number]
        kept[number] = 0
        model.geom_rgba[:, 3] = kept
        if not np.array_equal(draw(), picture):
            kept[number] = before
    model.geom_rgba[:, 3] = alpha
    return kept


def measure(task: str, episode: int, options: Options) -> dict[str, list[float]]:
    """Seconds at each moment that is looked at: of our picture, and of its needed objects alone."""
    environment = make_environment(task, observation="image")
    environment.reset(options={"episode": episode})
    camera, model = environment._camera, environment._inner.task.model
    assert isinstance(camera, RobotCamera)

    def draw() -> np.ndarray:
        return draw_scene(camera._viewer, model, environment._inner.task.data)

    seconds: dict[str, list[float]] = {"ours": [], "needed": []}
    for count, action in enumerate(some_actions(environment, options.steps), 1):
        picture, *_ = environment.step(action)
        if count % options.every:
            continue
        if camera._lights_may_show():
            raise RuntimeError(f"{task}: the lidar's lights are in sight; choose another task")
        seconds["ours"].append(seconds_of(camera.draw))
        alpha = model.geom_rgba[:, 3].copy()
        model.geom_rgba[:, 3] = needed(model, draw)
        seconds["needed"].append(seconds_of(draw))
        if not np.array_equal(draw(), picture):
            raise RuntimeError(f"{task}: the pictures are not the same")
        model.geom_rgba[:, 3] = alpha
    environment.close()
    return seconds


def compare(task: str, options: Options) -> dict[str, Any]:
    """Mean seconds of a step of Safety-Gymnasium's, and of our two drawings, in each episode."""
    actions = some_actions(make_environment(task), options.steps)
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
    """Milliseconds are medians over episodes."""
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
