"""Camera of a navigation task's robot: Safety-Gymnasium's picture, byte for byte, in less time.

Without a GPU, a small frame spends nearly all its time on triangles, many of them out of view.
``RobotCamera`` draws only what may be visible, directly or mirrored in the floor, and reads back
only colours.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from blocks.environments.offscreen_viewer import (
    Frame,
    ImageQuality,
    OffscreenCamera,
    draw_scene,
    open_viewer,
)

CAMERA = "vision"
MARGIN = 0.02  # metres added to every radius, against rounding errors in the visibility test
COMPASS = 0.15 + 0.05  # metres from the centre to the far side of Safety-Gymnasium's compass


class RobotCamera(OffscreenCamera):
    """Draws the view of a navigation task's robot.

    The first frame builds an OpenGL context with the textures of the current model, including the
    sky; models of later episodes need no textures.

    Args:
        task: Safety-Gymnasium's task, with a camera called "vision".
        size: height and width of the picture, in pixels.
        quality: "exact" is Safety-Gymnasium's picture; "fast" has no multisampling, no reflections
            in the floor, coarser curves and no lidar lights.
    """

    def __init__(self, task: Any, size: int, quality: ImageQuality) -> None:
        super().__init__(size, quality)
        self._task = task

    def _open(self) -> Any:
        task = self._task
        viewer = open_viewer(task.model, task.data, CAMERA, self.size, self.quality)
        viewer.vopt.geomgroup[:] = 1
        task._viewers["rgb_array"] = task.viewer = viewer  # ``task.render`` draws with it too
        return viewer

    def _picture(self) -> Frame:
        viewer, task = self._viewer, self._task
        viewer.model, viewer.data = task.model, task.data
        if self.quality == "exact" and self._lights_may_show():
            frame = task.render(self.size, self.size, "rgb_array", camera_name=CAMERA, cost={})
            return np.ascontiguousarray(frame, np.uint8)
        hidden = self._out_of_sight(task.data.geom_xpos, task.model.geom_rbound)
        hidden &= task.model.geom_rbound > 0  # a plane has no radius
        alpha = task.model.geom_rgba[:, 3].copy()
        task.model.geom_rgba[hidden, 3] = 0  # MuJoCo skips fully transparent geoms
        try:
            return draw_scene(viewer, task.model, task.data)
        finally:
            task.model.geom_rgba[:, 3] = alpha

    def _lights_may_show(self) -> bool:
        """Return whether a light of the lidar or compass, above the robot, may be visible."""
        task, conf = self._task, self._task.render_conf
        if not conf.lidar_markers:
            return False
        rings = len(task._obstacles)
        heights = conf.lidar_offset_init + conf.lidar_offset_delta * np.arange(rings)
        centres = task.agent.pos + heights[:, None] * task.agent.mat[:, 2]
        radius = max(conf.lidar_radius + conf.lidar_size, COMPASS)
        return not self._out_of_sight(centres, np.full(rings, radius)).all()

    def _out_of_sight(self, centres: NDArray[Any], radii: NDArray[Any]) -> NDArray[np.bool_]:
        """Find the balls that are outside the camera's pyramid, as are their mirror images.

        ``[object, 3], [object] -> [object]``.
        """
        camera = self._viewer.cam.fixedcamid
        data, mirror = self._task.data, np.array([1.0, 1.0, -1.0])
        half = math.radians(self._task.model.cam_fovy[camera]) / 2
        cos, sin = math.cos(half), math.sin(half)
        # Outward normals of the pyramid's four sides and the camera's plane; it looks along -z.
        outwards = np.array(
            [[cos, 0, sin], [-cos, 0, sin], [0, cos, sin], [0, -cos, sin], [0, 0, 1]]
        )
        normals = data.cam_xmat[camera].reshape(3, 3) @ outwards.T
        limit = radii[:, None] + MARGIN
        seen: list[NDArray[np.bool_]] = [
            (((at - data.cam_xpos[camera]) @ normals) <= limit).all(1)
            for at in (centres, centres * mirror)
        ]
        return ~(seen[0] | seen[1])
