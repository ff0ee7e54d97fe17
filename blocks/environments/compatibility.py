"""Import Safety-Gymnasium 1.0 on current versions of Python, NumPy, MuJoCo and Gymnasium.

The newest release (1.0.0) was written for Python 3.10, NumPy 1, MuJoCo 2.3.3 and Gymnasium 0.28;
it fails on later versions. ``import_safety_gymnasium`` applies these repairs, one function each,
and on Gymnasium 1 those of ``gymnasium_1``:

- ``array_defaults_allowed``, Python >= 3.11: the import fails on dataclasses with array defaults.
- ``accept_one_element_joint``, MuJoCo >= 3: navigation tasks call ``MjModel.jnt(array([0]))``.
- ``initialise_markers``, MuJoCo >= 3: drawing a navigation task ends in a segmentation fault.
- ``accept_one_element_float``, NumPy >= 2.4: Doggo and Ant robots call ``float(array([0.1]))``.

Tested with Gymnasium 0.28.1 and 1.4, MuJoCo 2.3.3 and 3.17, NumPy 1.26 and 2.5, Python 3.11 to
3.13.
Swimmer, Hopper and Walker2d velocity need MuJoCo 2 or Gymnasium 1: the XML of Gymnasium 0.28 uses
features that MuJoCo 3 removed. No version has the Race tasks, whose textures were not released.
"""

import dataclasses
import difflib
import functools
import importlib
import inspect
import os
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager, nullcontext, suppress
from ctypes.util import find_library
from types import ModuleType
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from blocks.environments import gymnasium_1

if TYPE_CHECKING:
    from gymnasium.envs.registration import EnvSpec

INSTALL_HINT = (
    "pip install 'cerl-blocks[environments]' && "
    "pip install --no-deps safety-gymnasium==1.0.0 gymnasium-robotics==1.2.2"
)

# Silence gymnasium-robotics: ``import gymnasium`` loads it, and it prints a notice about tasks not
# used here. A missing package is reported later, by ``missing_package``.
with suppress(ModuleNotFoundError):
    importlib.import_module("farama_notifications").notifications.pop("gymnasium_robotics", None)


@functools.cache
def import_safety_gymnasium() -> ModuleType:
    """Import and repair ``safety_gymnasium``; repeated calls return the same module.

    Raises:
        ImportError: a package is missing; the message names it and the command to install it.
    """
    try:
        mujoco = importlib.import_module("mujoco")
        old_modules = gymnasium_1.old_wrapper_modules if gymnasium_1.is_installed() else nullcontext
        with array_defaults_allowed(), old_modules():
            module = importlib.import_module("safety_gymnasium")
        rendering = importlib.import_module("gymnasium.envs.mujoco.mujoco_rendering")
        base_agent = importlib.import_module("safety_gymnasium.bases.base_agent")
    except ModuleNotFoundError as error:
        raise missing_package(error) from error
    accept_one_element_joint(mujoco.MjModel)
    initialise_markers(rendering.BaseRender, mujoco)
    accept_one_element_float(base_agent)
    if gymnasium_1.is_installed():
        underlying: Any = importlib.import_module("safety_gymnasium.bases.underlying")
        underlying.OffScreenViewer = gymnasium_1.offscreen_viewer
        gymnasium_1.accept_old_specs(module.utils.registration)
        gymnasium_1.quiet_action_space(base_agent.BaseAgent)
    _render_headless()
    return module


def find_task(task: str) -> "EnvSpec":
    """Return the specification of a task.

    Raises:
        ValueError: no task has this name; the message suggests similar names.
        ImportError: a package is missing.
    """
    names = import_safety_gymnasium().utils.registration.safe_registry
    registration = importlib.import_module("gymnasium.envs.registration")
    allowed = [name for name in sorted(names) if "Vision-" not in name and "Debug-" not in name]
    if task not in allowed:
        near = difflib.get_close_matches(str(task), allowed, cutoff=0.5) or ["SafetyPointGoal1-v0"]
        raise ValueError(
            f"task: got {task!r}; allowed a Safety-Gymnasium task without 'Vision' or 'Debug'; "
            f"perhaps you mean {', '.join(near)}"
        )
    return registration.registry[task]


def missing_package(error: ModuleNotFoundError) -> ImportError:
    """Make the error that names the missing package and the command to install it."""
    extra = "gymnasium-1" if gymnasium_1.is_installed() else "environments"
    command = INSTALL_HINT.replace("[environments]", f"[{extra}]")
    return ImportError(
        f"Safety-Gymnasium tasks need the package {error.name!r}; install it with: {command}"
    )


@contextmanager
def array_defaults_allowed() -> Generator[None, None, None]:
    """Make ``@dataclass`` accept array defaults within the context; each instance gets a copy.

    Python 3.11 rejects unhashable defaults; Safety-Gymnasium's geoms have fields such as
    ``color: np.ndarray = COLOR['apple']``. The context restores the standard library at its end.

    Example:
        >>> with array_defaults_allowed():
        ...     @dataclasses.dataclass
        ...     class Geom:
        ...         color: np.ndarray = np.ones(2)
        >>> Geom().color
        array([1., 1.])
    """
    original: Any = dataclasses.dataclass

    def dataclass(cls: type | None = None, /, **options: Any) -> Any:
        if cls is None:
            return functools.partial(dataclass, **options)
        for name in inspect.get_annotations(cls):
            default: Any = cls.__dict__.get(name)
            if isinstance(default, np.ndarray):
                copy = cast(Callable[[], object], cast(Any, default).copy)
                setattr(cls, name, dataclasses.field(default_factory=copy))
        return original(cls, **options)

    dataclasses.dataclass = dataclass
    try:
        yield
    finally:
        dataclasses.dataclass = original


def accept_one_element_joint(model_class: Any) -> None:
    """Make ``MjModel.jnt`` accept a one-element array such as ``model.sensor(i).objid``.

    MuJoCo 2.3.3 accepted it; MuJoCo 3 raises TypeError. Scalars and names pass unchanged.
    """
    original: Callable[..., Any] = model_class.jnt

    @functools.wraps(original)
    def jnt(self: Any, key: Any = -1) -> Any:
        return original(self, key.item() if isinstance(key, np.ndarray) else key)

    model_class.jnt = jnt


def initialise_markers(renderer_class: Any, mujoco: Any) -> None:
    """Initialise the scene's next geom before Gymnasium makes a marker of it (the lidar's spheres).

    Gymnasium 0.28 sets the fields of MuJoCo 2. MuJoCo 3 moved the texture into ``matid``, which
    stays uninitialised, so drawing reads outside the table of materials.
    """
    original: Callable[..., None] = renderer_class._add_marker_to_scene

    @functools.wraps(original)
    def add_marker_to_scene(self: Any, marker: dict[str, Any]) -> None:
        if self.scn.ngeom < self.scn.maxgeom:  # the original raises for a full scene
            sphere = mujoco.mjtGeom.mjGEOM_SPHERE
            geom = self.scn.geoms[self.scn.ngeom]
            mujoco.mjv_initGeom(
                geom, sphere, np.zeros(3), np.zeros(3), np.eye(3).ravel(), np.ones(4, np.float32)
            )
        original(self, marker)

    renderer_class._add_marker_to_scene = add_marker_to_scene


def accept_one_element_float(module: Any) -> None:
    """Make ``float`` accept a one-element array, as before NumPy 2.4, in ``module`` only."""

    def one_element_float(value: Any) -> float:
        return float(cast(Any, value).item() if isinstance(value, np.ndarray) else value)

    module.float = one_element_float


def _render_headless() -> None:
    # The first frame reads MUJOCO_GL. It must not be set before ``import mujoco``,
    # which would then fail without EGL, even for vector observations.
    if not sys.platform.startswith("linux"):
        return
    if not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        egl = find_library("EGL") or not find_library("OSMesa")
        os.environ.setdefault("MUJOCO_GL", "egl" if egl else "osmesa")
    # Without a GPU, Mesa draws tiles of 64x64 pixels on threads. A robot's picture is one tile, so
    # a second thread only costs time.
    os.environ.setdefault("LP_NUM_THREADS", "0")
