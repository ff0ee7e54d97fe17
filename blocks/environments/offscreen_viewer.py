"""Small pictures by Gymnasium's off-screen viewer, without what makes it slow."""

import importlib
from abc import ABC, abstractmethod
from typing import Any, Literal

import numpy as np
from jaxtyping import UInt8

ImageQuality = Literal["exact", "fast"]


class OffscreenCamera(ABC):
    """A camera that draws small pictures; subclasses say what is in them.

    Args:
        size: height and width of the picture, in pixels.
        quality: see `open_viewer`.
    """

    def __init__(self, size: int, quality: ImageQuality) -> None:
        self.size = size
        self.quality: ImageQuality = quality
        self._viewer: Any = None

    @property
    def opened(self) -> bool:
        """Whether the OpenGL context, with its textures, is there."""
        return self._viewer is not None

    def draw(self) -> UInt8[np.ndarray, "height width 3"]:
        """The picture of this moment.

        Raises:
            Exception: whatever an OpenGL library that does not work raises.
        """
        if self._viewer is None:
            self._viewer = self._open()
        self._viewer.make_context_current()
        return self._picture()

    @abstractmethod
    def _open(self) -> Any:
        """The viewer, put where its owner's `close` finds it."""

    @abstractmethod
    def _picture(self) -> UInt8[np.ndarray, "height width 3"]:
        """The picture, by the viewer, whose context is the current one."""


def open_viewer(model: Any, data: Any, camera: str, size: int, quality: ImageQuality) -> Any:
    """Gymnasium's viewer with an OpenGL context of its own, looking through the model's camera.

    The context holds the textures of the model at hand.

    Args:
        model, data: MuJoCo's.
        camera: its name.
        size: height and width of the picture, in pixels.
        quality: "exact" is Gymnasium's picture; "fast" is one without multisampling, shadows and
            reflections, with coarser curves.
    """
    mujoco: Any = importlib.import_module("mujoco")
    rendering = importlib.import_module("gymnasium.envs.mujoco.mujoco_rendering")
    flags = mujoco.mjtRndFlag
    model.vis.global_.offwidth = model.vis.global_.offheight = size
    if quality == "fast":
        model.vis.quality.offsamples = 0
        model.vis.quality.numstacks = 4
    viewer = rendering.OffScreenViewer(model, data)
    viewer.cam.type = mujoco.mjtCamera.mjCAMERA_FIXED
    viewer.cam.fixedcamid = model.camera(camera).id
    if quality == "fast":
        viewer.scn.flags[flags.mjRND_SHADOW] = viewer.scn.flags[flags.mjRND_REFLECTION] = 0
    return viewer


def draw_scene(viewer: Any, model: Any, data: Any) -> UInt8[np.ndarray, "height width 3"]:
    """The picture of this moment, in the viewer's context, which has to be the current one."""
    mujoco: Any = importlib.import_module("mujoco")
    everything = mujoco.mjtCatBit.mjCAT_ALL
    mujoco.mjv_updateScene(
        model, data, viewer.vopt, viewer.pert, viewer.cam, everything, viewer.scn
    )
    frame = np.empty((viewer.viewport.height, viewer.viewport.width, 3), np.uint8)
    mujoco.mjr_render(viewer.viewport, viewer.scn, viewer.con)
    mujoco.mjr_readPixels(frame.reshape(-1), None, viewer.viewport, viewer.con)
    return np.ascontiguousarray(frame[::-1])  # OpenGL counts rows from below


def free_viewers(viewers: dict[str, Any]) -> None:
    """Free what Gymnasium's viewers of an environment hold, and forget them."""
    for viewer in viewers.values():
        # Later, Python would free what has the same numbers in another environment's context.
        viewer.make_context_current()
        viewer.con.free()
        viewer.free()
    viewers.clear()
