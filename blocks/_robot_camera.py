"""What a navigation task's robot sees: Safety-Gymnasium's picture, byte for byte, in less time.

Without a GPU nearly all the time of a small frame goes into triangles, many of which are not in it.
`RobotCamera` draws only what the camera may see, itself or in the floor's mirror, and reads back
colours alone.
"""

import importlib
import math
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float, UInt8

ImageQuality = Literal["exact", "fast"]
MARGIN = 0.02  # metres by which objects count as larger: against roundings in what is in sight
COMPASS = 0.15 + 0.05  # metres from its centre to the far side of Safety-Gymnasium's compass


def free_viewers(viewers: dict[str, Any]) -> None:
    """Free what Gymnasium's viewers of an environment hold, and forget them."""
    for viewer in viewers.values():
        # Later, Python would free what has the same numbers in another environment's context.
        viewer.make_context_current()
        viewer.con.free()
        viewer.free()
    viewers.clear()


class RobotCamera:
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
        self.size = size
        self.quality = quality
        self._task = task
        self._mujoco: Any = importlib.import_module("mujoco")
        self._viewer: Any = None

    @property
    def opened(self) -> bool:
        """Whether the context, with its textures, is there."""
        return self._viewer is not None

    def draw(self) -> UInt8[np.ndarray, "height width 3"]:
        """The picture of this moment.

        Raises:
            Exception: whatever an OpenGL library that does not work raises.
        """
        if self._viewer is None:
            self._viewer = self._open()
        viewer, task = self._viewer, self._task
        viewer.make_context_current()
        viewer.model, viewer.data = task.model, task.data
        if self.quality == "exact" and self._lights_may_show():
            frame = task.render(self.size, self.size, "rgb_array", camera_name="vision", cost={})
            return np.ascontiguousarray(frame)
        self._update_scene()
        frame = np.empty((self.size, self.size, 3), np.uint8)
        self._mujoco.mjr_render(viewer.viewport, viewer.scn, viewer.con)
        self._mujoco.mjr_readPixels(frame.reshape(-1), None, viewer.viewport, viewer.con)
        return np.ascontiguousarray(frame[::-1])  # OpenGL counts rows from below

    def _open(self) -> Any:
        """Gymnasium's viewer, from which `task.render` draws too and which `close` will free."""
        rendering = importlib.import_module("gymnasium.envs.mujoco.mujoco_rendering")
        model, flags = self._task.model, self._mujoco.mjtRndFlag
        model.vis.global_.offwidth = model.vis.global_.offheight = self.size
        if self.quality == "fast":
            model.vis.quality.offsamples = 0
            model.vis.quality.numstacks = 4
        viewer = rendering.OffScreenViewer(model, self._task.data)
        viewer.vopt.geomgroup[:] = 1
        viewer.cam.type = self._mujoco.mjtCamera.mjCAMERA_FIXED
        viewer.cam.fixedcamid = model.camera("vision").id
        if self.quality == "fast":
            viewer.scn.flags[flags.mjRND_SHADOW] = viewer.scn.flags[flags.mjRND_REFLECTION] = 0
        self._task._viewers["rgb_array"] = self._task.viewer = viewer
        return viewer

    def _update_scene(self) -> None:
        """Fill the scene with the objects that may be in sight."""
        model, viewer = self._task.model, self._viewer
        hidden = self._out_of_sight(self._task.data.geom_xpos, model.geom_rbound)
        hidden &= model.geom_rbound > 0  # a plane has no bounds
        alpha = model.geom_rgba[:, 3].copy()
        model.geom_rgba[hidden, 3] = 0  # MuJoCo leaves out what cannot be seen through
        everything = self._mujoco.mjtCatBit.mjCAT_ALL
        self._mujoco.mjv_updateScene(
            model, viewer.data, viewer.vopt, viewer.pert, viewer.cam, everything, viewer.scn
        )
        model.geom_rgba[:, 3] = alpha

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
