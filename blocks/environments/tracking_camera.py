"""Camera of the velocity tasks: it follows the body and sees it from the side."""

from typing import Any

from blocks.environments.offscreen_viewer import (
    Frame,
    ImageQuality,
    OffscreenCamera,
    draw_scene,
    open_viewer,
)

CAMERA = "track"


class TrackingCamera(OffscreenCamera):
    """Draws the view of the camera that follows a velocity task's body.

    It leaves out the coloured ball above the body, which shows the speed in Safety-Gymnasium's
    videos.

    Args:
        environment: Safety-Gymnasium's environment of a velocity task, unwrapped.
        size: height and width of the picture, in pixels.
        quality: "exact" is Gymnasium's picture of this size; "fast" has no multisampling, shadows
            and reflections, and coarser curves.

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

    def _picture(self) -> Frame:
        return draw_scene(self._viewer, self._environment.model, self._environment.data)
