"""What a velocity task's camera sees: the body from the side, moving along with it."""

from typing import Any

import numpy as np
from jaxtyping import UInt8

from blocks.environments.offscreen_viewer import (
    ImageQuality,
    OffscreenCamera,
    draw_scene,
    open_viewer,
)

CAMERA = "track"


class TrackingCamera(OffscreenCamera):
    """Draws what the camera that follows a velocity task's body sees.

    Without the ball over the body whose colour tells, in Safety-Gymnasium's videos, how fast it is.

    Args:
        environment: Safety-Gymnasium's environment of a velocity task, unwrapped.
        size: height and width of the picture, in pixels.
        quality: "exact" is Gymnasium's own picture of this size; "fast" is one without
            multisampling, shadows and reflections, with coarser curves.

    Raises:
        ValueError: the model has no camera called "track".
    """

    def __init__(self, environment: Any, size: int, quality: ImageQuality) -> None:
        model = environment.model
        cameras = [model.camera(number).name for number in range(model.ncam)]
        if CAMERA not in cameras:
            raise ValueError(
                f"observation: got 'image' for a model whose cameras are {cameras}; allowed "
                f"'vector'; use it, or a task with a camera called {CAMERA!r}"
            )
        super().__init__(size, quality)
        self._environment = environment

    def _open(self) -> Any:
        model, data = self._environment.model, self._environment.data
        viewer = open_viewer(model, data, CAMERA, self.size, self.quality)
        self._environment.mujoco_renderer._viewers["rgb_array"] = viewer
        return viewer

    def _picture(self) -> UInt8[np.ndarray, "height width 3"]:
        return draw_scene(self._viewer, self._environment.model, self._environment.data)
