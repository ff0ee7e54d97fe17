"""What a navigation task's robot sees: Safety-Gymnasium's picture, byte for byte, in less time.

Without a GPU nearly all the time of a small frame goes into triangles, many of which are not in it.
`RobotCamera` draws only what the camera may see, itself or in the floor's mirror, and reads back
colours alone.
"""

import math
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, UInt8

from blocks.environments.offscreen_viewer import (
    ImageQuality,
    OffscreenCamera,
    draw_scene,
    open_viewer,
)

CAMERA = "vision"
MARGIN = 0.02  # metres by which objects count as larger: against roundings in what is in sight
COMPASS = 0.15 + 0.05  # metres from its centre to the far side of Safety-Gymnasium's compass


class RobotCamera(OffscreenCamera):
    """Draws what the camera of a navigation task's robot sees.

    The first frame builds an OpenGL context with the textures of the model at hand, the sky's among
    them; models of later episodes need none.

    Args:
        task: Safety-Gymnasium's task, with a camera called "vision".
        size: height and width of the picture, in pixels.
        quality: "exact" is Safety-Gymnasium's picture; "fast" is one without multisampling, without
            the floor's reflections, with coarser curves and without the lidar's lights.
    """

    def __init__(self, task: Any, size: int, quality: ImageQuality) -> None:
        super().__init__(size, quality)
        self._task = task

    def _open(self) -> Any:
        task = self._task
        viewer = open_viewer(task.model, task.data, CAMERA, self.size, self.quality)
        viewer.vopt.geomgroup[:] = 1
        task._viewers["rgb_array"] = task.viewer = viewer  # from which `task.render` draws too
        return viewer

    def _picture(self) -> UInt8[np.ndarray, "height width 3"]:
        viewer, task = self._viewer, self._task
        viewer.model, viewer.data = task.model, task.data
        if self.quality == "exact" and self._lights_may_show():
            frame = task.render(self.size, self.size, "rgb_array", camera_name=CAMERA, cost={})
            return np.ascontiguousarray(frame)
        hidden = self._out_of_sight(task.data.geom_xpos, task.model.geom_rbound)
        hidden &= task.model.geom_rbound > 0  # a plane has no bounds
        alpha = task.model.geom_rgba[:, 3].copy()
        task.model.geom_rgba[hidden, 3] = 0  # MuJoCo leaves out what cannot be seen through
        try:
            return draw_scene(viewer, task.model, task.data)
        finally:
            task.model.geom_rgba[:, 3] = alpha

    def _lights_may_show(self) -> bool:
        """Whether one of the lidar's and compass's lights, above the robot, may be in sight."""
        task, conf = self._task, self._task.render_conf
        if not conf.lidar_markers:
            return False
        rings = len(task._obstacles)
        heights = conf.lidar_offset_init + conf.lidar_offset_delta * np.arange(rings)
        centres = task.agent.pos + heights[:, None] * task.agent.mat[:, 2]
        radius = max(conf.lidar_radius + conf.lidar_size, COMPASS)
        return not self._out_of_sight(centres, np.full(rings, radius)).all()

    def _out_of_sight(
        self, centres: Float[np.ndarray, "object 3"], radii: Float[np.ndarray, " object"]
    ) -> Bool[np.ndarray, " object"]:
        """Which balls are outside the camera's pyramid, and so are their images in the floor."""
        camera = self._viewer.cam.fixedcamid
        data, mirror = self._task.data, np.array([1.0, 1.0, -1.0])
        half = math.radians(self._task.model.cam_fovy[camera]) / 2
        cos, sin = math.cos(half), math.sin(half)
        # Normals of the four sides and of the camera's plane, outwards; it looks along -z.
        outwards = np.array(
            [[cos, 0, sin], [-cos, 0, sin], [0, cos, sin], [0, -cos, sin], [0, 0, 1]]
        )
        normals = data.cam_xmat[camera].reshape(3, 3) @ outwards.T
        limit = radii[:, None] + MARGIN
        seen = [
            (((at - data.cam_xpos[camera]) @ normals) <= limit).all(1)
            for at in (centres, centres * mirror)
        ]
        return ~(seen[0] | seen[1])
