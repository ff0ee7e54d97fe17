"""Small pictures from Gymnasium's off-screen viewer, without its slow parts."""

import importlib
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jaxtyping import UInt8

from blocks.environments.gymnasium_1 import offscreen_viewer

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Frame = NDArray[np.uint8]
else:  # jaxtyping takes the bare class only
    Frame = UInt8[np.ndarray, "height width 3"]

ImageQuality = Literal["exact", "fast"]


class OffscreenCamera(ABC):
    """A camera that draws small pictures; subclasses define what it sees.

    Args:
        size: height and width of the picture, in pixels.
        quality: see ``open_viewer``.
    """

    def __init__(self, size: int, quality: ImageQuality) -> None:
        self.size = size
        self.quality: ImageQuality = quality
        self._viewer: Any = None

    @property
    def opened(self) -> bool:
        """Whether the OpenGL context, with its textures, exists."""
        return self._viewer is not None

    def draw(self) -> Frame:
        """Draw the current picture.

        Raises:
            Exception: OpenGL failed; the type depends on its library.
        """
        if self._viewer is None:
            self._viewer = self._open()
        self._viewer.make_context_current()
        return self._picture()

    @abstractmethod
    def _open(self) -> Any:
        """Open the viewer and store it where the environment's ``close`` finds it."""

    @abstractmethod
    def _picture(self) -> Frame:
        """Draw with the viewer, whose OpenGL context is current."""


def open_viewer(model: Any, data: Any, camera: str, size: int, quality: ImageQuality) -> Any:
    """Open a Gymnasium viewer with a new OpenGL context, looking through a camera of the model.

    The context holds the textures of this model.

    Args:
        model: ``mujoco.MjModel``.
        data: ``mujoco.MjData``.
        camera: name of the camera.
        size: height and width of the picture, in pixels.
        quality: "exact" is Gymnasium's picture; "fast" has no multisampling, shadows and
            reflections, and coarser curves.
    """
    mujoco: Any = importlib.import_module("mujoco")
    flags = mujoco.mjtRndFlag
    model.vis.global_.offwidth = model.vis.global_.offheight = size
    if quality == "fast":
        model.vis.quality.offsamples = 0
        model.vis.quality.numstacks = 4
    viewer = offscreen_viewer(model, data)
    viewer.cam.type = mujoco.mjtCamera.mjCAMERA_FIXED
    viewer.cam.fixedcamid = model.camera(camera).id
    if quality == "fast":
        viewer.scn.flags[flags.mjRND_SHADOW] = viewer.scn.flags[flags.mjRND_REFLECTION] = 0
    return viewer


def draw_scene(viewer: Any, model: Any, data: Any) -> Frame:
    """Draw the current picture; the viewer's OpenGL context must be current."""
    mujoco: Any = importlib.import_module("mujoco")
    everything = mujoco.mjtCatBit.mjCAT_ALL
    mujoco.mjv_updateScene(
        model, data, viewer.vopt, viewer.pert, viewer.cam, everything, viewer.scn
    )
    frame = np.empty((viewer.viewport.height, viewer.viewport.width, 3), np.uint8)
    mujoco.mjr_render(viewer.viewport, viewer.scn, viewer.con)
    mujoco.mjr_readPixels(frame.reshape(-1), None, viewer.viewport, viewer.con)
    return np.ascontiguousarray(frame[::-1])  # OpenGL counts rows from the bottom


def free_viewers(viewers: dict[str, Any]) -> None:
    """Free the resources of an environment's viewers, and remove the viewers."""
    for viewer in viewers.values():
        # Freeing later could delete objects with the same ids in another environment's context.
        viewer.make_context_current()
        viewer.con.free()
        viewer.free()
    viewers.clear()
