"""What makes Safety-Gymnasium's navigation tasks faster without changing one of their numbers.

- `plain_sky`: a reset no longer compiles 190 MB of stars.
- `speed_up`: layouts are sampled, and gremlins moved, by the same arithmetic in fewer steps, and
  observations are not checked twice.

Only environments built here are affected; Safety-Gymnasium's own are as they were.
"""

import importlib
import math
from collections.abc import Iterator
from contextlib import contextmanager
from types import MethodType, SimpleNamespace
from typing import Any

import numpy as np

PLACEMENT_ATTEMPTS = 100
"""For one object, as in Safety-Gymnasium, before the whole layout begins anew."""

# A texture of MuJoCo's XML, in the form of Safety-Gymnasium's assets.yaml.
PLAIN_SKY = {
    "@type": "skybox",
    "@builtin": "gradient",
    "@rgb1": "0.3 0.5 0.7",
    "@rgb2": "0.05 0.1 0.15",
    "@width": 64,
    "@height": 384,
}


@contextmanager
def plain_sky() -> Iterator[None]:
    """Within the context, navigation tasks are built under a plain sky.

    The stock one is six photographs of stars, 190 MB once decoded, and a navigation task compiles
    its model, sky and all, at every reset. Physics and vector observations know no sky; images do,
    so that they need the stock one.
    """
    world: Any = importlib.import_module("safety_gymnasium.world")
    original = world.yaml

    def load(*arguments: Any, **options: Any) -> Any:
        assets = original.load(*arguments, **options)
        if "skybox" in assets.get("textures", {}):
            assets["textures"]["skybox"] = PLAIN_SKY
        return assets

    world.yaml = SimpleNamespace(load=load, FullLoader=original.FullLoader)
    try:
        yield
    finally:
        world.yaml = original


def speed_up(task: Any) -> None:
    """Give a navigation task's instance its layout sampler and its gremlins below.

    Its observations are no longer compared with their space, up to forty boxes a step: what is not
    finite is refused by `SafetyEnvironment`, and their shapes are what the space was built from.
    """
    task.obs_info.obs_space_dict.contains = lambda observation: True
    generator = task.random_generator
    generator.sample_layout = MethodType(sample_layout, generator)
    if hasattr(task, "gremlins"):
        task.gremlins.move = MethodType(move_gremlins, task.gremlins)


def skip_vision(task: Any) -> None:
    """Leave a navigation task's instance without observations of its own.

    They would be lidar, sensors and a picture at every environment step. What else its `obs` does
    stays: bringing the simulator's sensors up to date.
    """
    mujoco: Any = importlib.import_module("mujoco")
    task.obs = lambda: mujoco.mj_forward(task.model, task.data)


def sample_layout(generator: Any) -> bool:
    """`RandomGenerator.sample_layout`, on Python's floats in place of arrays of two.

    Placing some tasks' objects takes ten thousands of attempts. Draws, sums and roots are the same
    ones in the same order.
    """
    layout: dict[str, np.ndarray] = {}
    placed: list[tuple[float, float, float]] = []  # x, y, keepout with the margin
    for name, (placements, keepout) in generator.placements.items():
        for _ in range(PLACEMENT_ATTEMPTS):
            xy = generator.draw_placement(placements, keepout)
            x, y = xy.tolist()
            if not any(
                math.sqrt((x - other_x) * (x - other_x) + (y - other_y) * (y - other_y))
                < other_keepout + keepout
                for other_x, other_y, other_keepout in placed
            ):
                break
        else:
            return False
        layout[name] = xy
        placed.append((x, y, keepout + generator.placements_margin))
    generator.layout = layout
    return True


def move_gremlins(gremlins: Any) -> None:
    """`Gremlins.move`: all go to the same place, which is worked out once in place of each time."""
    phase = float(gremlins.engine.data.time)
    circle = np.array([np.sin(phase), np.cos(phase)]) * gremlins.travel
    position = np.array([*circle, gremlins.size])
    for i in range(gremlins.num):
        gremlins.set_mocap_pos(f"gremlin{i}mocap", position)
