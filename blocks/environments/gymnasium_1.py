"""Repairs that Safety-Gymnasium 1.0 needs on Gymnasium 1.x, one function each.

- ``old_wrapper_modules``: the import fails on modules that Gymnasium 1 merged.
- ``accept_old_specs``: ``safety_gymnasium.make`` uses two fields that ``EnvSpec`` lost.
- ``offscreen_viewer``: Gymnasium's viewer takes its size as arguments.
- ``quiet_action_space``: every navigation task warns of an overflow in a comparison of bounds.

``compatibility.import_safety_gymnasium`` applies them. Gymnasium itself does not change.
``safety_gymnasium.vector`` is not repaired; use ``ParallelEnvironments``.
"""

import copy
import functools
import importlib
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from importlib import metadata
from types import ModuleType
from typing import Any

import numpy as np

# Gymnasium 0.28 -> 1: all wrappers that Safety-Gymnasium and gymnasium-robotics import.
MOVED_WRAPPERS = {
    "autoreset.AutoResetWrapper": "common.Autoreset",
    "env_checker.PassiveEnvChecker": "common.PassiveEnvChecker",
    "normalize.NormalizeObservation": "stateful_observation.NormalizeObservation",
    "normalize.NormalizeReward": "stateful_reward.NormalizeReward",
    "normalize.RunningMeanStd": "utils.RunningMeanStd",
    "time_limit.TimeLimit": "common.TimeLimit",
}


def is_installed() -> bool:
    """Return whether the installed Gymnasium is version 1.1 or later.

    Raises:
        ImportError: it is 1.0, which sorts the sensors of a navigation task by name, so that
            observations have another order than on every other version.
    """
    try:
        version = metadata.version("gymnasium")
    except metadata.PackageNotFoundError:
        return False
    if version.startswith("1.0."):
        raise ImportError(
            f"gymnasium: got {version}, which reorders observations; allowed 0.28.1 or >= 1.1; "
            "install it with: pip install 'gymnasium>=1.1'"
        )
    return int(version.split(".")[0]) >= 1


@contextmanager
def old_wrapper_modules() -> Generator[None, None, None]:
    """Make wrappers importable from their modules of Gymnasium 0.28 within the context."""
    prefix = "gymnasium.wrappers"
    # The wrapper of old Gym tasks is gone; Safety-Gymnasium imports it, but has no such tasks.
    modules = {f"{prefix}.compatibility": ModuleType("compatibility")}
    modules[f"{prefix}.compatibility"].__dict__["EnvCompatibility"] = None
    for old, new in MOVED_WRAPPERS.items():
        (module, name), (place, current) = old.split("."), new.split(".")
        found = getattr(importlib.import_module(f"{prefix}.{place}"), current)
        modules.setdefault(f"{prefix}.{module}", ModuleType(module)).__dict__[name] = found
    sys.modules.update(modules)
    try:
        yield
    finally:
        for module in modules:
            del sys.modules[module]


def accept_old_specs(registration: Any) -> None:
    """Give ``EnvSpec`` two fields of Gymnasium 0.28, in Safety-Gymnasium's ``registration`` only.

    Its ``make`` reads ``autoreset`` and ``apply_api_compatibility``, off for all tasks, and passes
    them on to ``EnvSpec``.
    """
    find: Callable[[str], Any] = registration._find_spec
    current: Any = registration.EnvSpec

    class OldSpec(current):
        autoreset = False
        apply_api_compatibility = False

        def __init__(
            self, *, autoreset: bool = False, apply_api_compatibility: bool = False, **fields: Any
        ) -> None:
            current.__init__(self, **fields)

    def find_old_spec(name: str) -> Any:
        spec = copy.copy(find(name))
        spec.__class__ = OldSpec
        return spec

    registration.EnvSpec = OldSpec
    registration._find_spec = find_old_spec


def offscreen_viewer(model: Any, data: Any) -> Any:
    """Open Gymnasium's off-screen viewer, as large as the model's off-screen buffer.

    Gymnasium 0.28 reads that size itself; Gymnasium 1 takes it as arguments.
    """
    viewer: Any = importlib.import_module("gymnasium.envs.mujoco.mujoco_rendering").OffScreenViewer
    buffer = model.vis.global_
    return viewer(model, data, *((buffer.offwidth, buffer.offheight) if is_installed() else ()))


def quiet_action_space(agent_class: Any) -> None:
    """Silence the overflow in Gymnasium 1.4's ``Box`` for float32 bounds of a float64 space.

    ``Box`` compares the bounds with the smallest float64, which is none in float32.
    """
    original: Callable[..., Any] = agent_class._build_action_space

    @functools.wraps(original)
    def build_action_space(self: Any) -> Any:
        with np.errstate(over="ignore"):
            return original(self)

    agent_class._build_action_space = build_action_space
