"""Take a task of every family through ``check_environment`` and a few steps; print a table.

``make check-tasks`` runs it on Gymnasium 0.28 and on the newest 1.x. It needs no torch; images need
OpenGL. The exit code is 1 if a family that should work does not.

    python tests/task_families.py            all families
    python tests/task_families.py Goal image only tasks with one of these words in the name
"""

import functools
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import gymnasium
import mujoco
import numpy as np
from own_task import Walk

from blocks import check_environment, constrained, make_environment

ROBOTS = ("Point", "Car", "Doggo", "Racecar", "Ant")
NAVIGATION = ("Goal1", "Push1", "Button1", "Circle1", "Run0")
OTHER_NAVIGATION = ("PointFadingEasy1", "PointFadingHard1", "PointRace1")
BODIES = ("HalfCheetah", "Hopper", "Walker2d", "Ant", "Humanoid", "Swimmer")
PICTURED = ("SafetyPointGoal1-v0", "SafetyHalfCheetahVelocity-v1")
"""A task for each of the two cameras."""

SMOKE_ACTIONS = 20
IMAGE_ACTIONS = 20
"""Images are checked for this many actions only: each is drawn without a GPU."""


class Family(NamedTuple):
    """A task, how to make it, and why it is known not to work, if it is."""

    name: str
    make: Callable[[], Any]
    broken: str = ""
    actions: int = 1000


def fast_pendulum(before: Any, action: Any, after: Any, info: dict[str, Any]) -> float:
    """Cost of Pendulum: it swings fast."""
    return float(abs(after[2]) > 4)


def make_own() -> Any:
    """Make a user's environment with two costs."""
    return constrained(Walk(end=5), {"left": "cost_left", "push": "cost_push"}, episode_length=100)


def families() -> Iterator[Family]:
    """Give a task of each family, with each robot."""
    pairs = (f"{robot}{task}" for task in NAVIGATION for robot in ROBOTS)
    names = [f"Safety{name}-v0" for name in (*pairs, *OTHER_NAVIGATION)]
    names += [f"Safety{body}Velocity-v1" for body in BODIES]
    for name in names:
        yield Family(name, functools.partial(make_environment, name), why_broken(name))
    for name in PICTURED:
        make = functools.partial(make_environment, name, observation="image")
        yield Family(f"{name} image", make, actions=IMAGE_ACTIONS)
    yield Family("Pendulum-v1", lambda: make_environment("Pendulum-v1", cost=fast_pendulum))
    yield Family("a user's own", make_own)


def why_broken(name: str) -> str:
    """Return why a task is known not to work on the installed versions; "" if it should work."""
    if "Race1" in name:
        return "its textures were not released"
    old_xml = gymnasium.__version__.startswith("0.") and not mujoco.__version__.startswith("2.")
    if old_xml and any(body in name for body in ("Swimmer", "Hopper", "Walker2d")):
        return "the XML of Gymnasium 0.28 needs MuJoCo 2"
    return ""


def smoke(environment: Any, seed: int = 0) -> None:
    """Take random actions through the ends of episodes."""
    environment.action_space.seed(seed)
    environment.reset(seed=seed)
    for _ in range(SMOKE_ACTIONS):
        _, reward, terminated, truncated, info = environment.step(environment.action_space.sample())
        assert np.isfinite((reward, info["cost"])).all()
        if terminated or truncated:
            environment.reset()
    if environment.task in PICTURED:
        frame = environment.render()
        assert frame.shape == (256, 256, 3)
        assert frame.std() > 5


def go_through(family: Family) -> tuple[str, str, str]:
    """Return whether it builds, whether it is checked, and what went wrong."""
    builds = "no"
    try:
        environment = family.make()
        environment.reset()
        builds = "yes"
        check_environment(environment, actions=family.actions)
        smoke(environment)
        environment.close()
    except Exception as error:  # whatever it is belongs into the table
        return builds, "no", f"{type(error).__name__}: {' '.join(str(error).split())}"
    return builds, "yes", ""


def main(words: list[str]) -> int:
    """Print the table; return 1 if a family that should work does not."""
    versions = f"Gymnasium {gymnasium.__version__}, MuJoCo {mujoco.__version__}"
    print(f"{versions}, NumPy {np.__version__}, Python {sys.version.split()[0]}\n")
    print("| task | builds | checked | seconds | reason |\n|---|---|---|---|---|")
    failed = 0
    for family in families():
        if words and not any(word in family.name for word in words):
            continue
        start = time.perf_counter()
        builds, checked, reason = go_through(family)
        seconds = time.perf_counter() - start
        if reason and family.broken:
            reason = f"known: {family.broken}"
        failed += bool(reason and not family.broken)
        print(f"| {family.name} | {builds} | {checked} | {seconds:.1f} | {reason} |", flush=True)
    print(f"\n{failed} of the families that should work failed")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
