"""Faster navigation tasks of Safety-Gymnasium, with identical results.

- ``plain_sky``: a reset no longer compiles 190 MB of stars.
- ``speed_up``: sampling layouts and moving gremlins take fewer steps of the same arithmetic, and
  observations are not checked twice.

Environments made by Safety-Gymnasium itself do not change.
"""

import importlib
import math
from collections.abc import Generator
from contextlib import contextmanager
from types import MethodType, SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

PLACEMENT_ATTEMPTS = 100
"""Attempts for one object before the whole layout restarts, as in Safety-Gymnasium."""

# A MuJoCo texture in the format of Safety-Gymnasium's assets.yaml.
PLAIN_SKY = {
    "@type": "skybox",
    "@builtin": "gradient",
    "@rgb1": "0.3 0.5 0.7",
    "@rgb2": "0.05 0.1 0.15",
    "@width": 64,
    "@height": 384,
}


@contextmanager
def plain_sky() -> Generator[None, None, None]:
    """Build navigation tasks with a plain sky within the context.

    The original sky is six photographs of stars, 190 MB after decoding, and a navigation task
    compiles its model, including the sky, at every reset. The sky affects neither physics nor
    vector observations. Images show it, so they need the original.
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
    """Replace a navigation task's layout sampler and gremlin motion with the faster ones below.

    It also skips the check of observations against their space, up to forty boxes a step:
    ``SafetyEnvironment`` rejects values that are not finite, and the space was built from the same
    shapes.
    """

    def contains(observation: object) -> bool:
        return True

    task.obs_info.obs_space_dict.contains = contains
    generator = task.random_generator
    generator.sample_layout = MethodType(sample_layout, generator)
    if hasattr(task, "gremlins"):
        task.gremlins.move = MethodType(move_gremlins, task.gremlins)


def skip_vision(task: Any) -> None:
    """Skip the observations of a navigation task, but still update the simulator's sensors.

    The task would compute lidar, sensors and a picture at every environment step.
    """
    mujoco: Any = importlib.import_module("mujoco")
    task.obs = lambda: mujoco.mj_forward(task.model, task.data)


def sample_layout(generator: Any) -> bool:
    """Sample a layout as ``RandomGenerator.sample_layout`` does, with floats instead of arrays.

    Some tasks need tens of thousands of attempts to place their objects. Draws, sums and roots are
    the same, in the same order.
    """
    layout: dict[str, NDArray[Any]] = {}
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
    """Move the gremlins as ``Gremlins.move`` does, but compute their common position once."""
    phase = float(gremlins.engine.data.time)
    circle = np.array([np.sin(phase), np.cos(phase)]) * gremlins.travel
    position = np.array([*circle, gremlins.size])
    for i in range(gremlins.num):
        gremlins.set_mocap_pos(f"gremlin{i}mocap", position)
