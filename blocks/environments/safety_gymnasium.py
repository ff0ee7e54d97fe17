"""Safety-Gymnasium tasks as constrained Markov decision processes.

    max_pi E[sum_t reward_t]   subject to   E[sum_t cost_t] <= episode_budget,   cost_t >= 0,

both sums over one episode of ``episode_length`` environment steps. Safety-Gymnasium's ``step``
returns six values, and standard wrappers lose the cost. Here ``step`` returns Gymnasium's five, and
``info["cost"]`` is the cost summed over *all* inner steps of an action repeat. There may be several
costs, each with its own budget: ``info["costs"]``.
"""

import atexit
import copy
import functools
from collections.abc import Callable, Generator
from contextlib import contextmanager, nullcontext
from typing import Any, Literal, cast, get_args

import numpy as np

from blocks.environments.arguments import require_finite, require_integer
from blocks.environments.compatibility import import_safety_gymnasium
from blocks.environments.constrained import constrained, shortest
from blocks.environments.costs import Costs, CostSource
from blocks.environments.episodes import ConstrainedEnvironment, Observation
from blocks.environments.offscreen_viewer import Frame, ImageQuality, free_viewers
from blocks.environments.protocol import IMAGE_SHAPE
from blocks.environments.robot_camera import RobotCamera
from blocks.environments.spaces import Box
from blocks.environments.speed import plain_sky, skip_vision, speed_up
from blocks.environments.tasks import EnvSpec, find_any_task, load_env_creator, make_gymnasium_task
from blocks.environments.tracking_camera import TrackingCamera

ObservationKind = Literal["vector", "image"]

IMAGE_SIZE = IMAGE_SHAPE[0]
VIDEO_SIZE = 256


def make_environment(
    task: str = "SafetyHalfCheetahVelocity-v1",
    *,
    seed: int = 0,
    observation: ObservationKind = "vector",
    action_repeat: int = 1,
    image_quality: ImageQuality = "exact",
    cost: CostSource = None,
) -> ConstrainedEnvironment:
    """Make a task by its name, with Gymnasium's interface and the cost in ``info["cost"]``.

    Args:
        task: a Safety-Gymnasium name without "Vision" or "Debug", such as "SafetyPointGoal1-v0",
            or any id that Gymnasium has registered ("module:id" imports the module first).
        seed: >= 0; seed and episode index determine an episode's start and randomness.
        observation: "vector" (float32 features) or "image" (uint8, 64x64x3: the view of the robot's
            camera, or on velocity tasks of a camera that follows the body). Other tasks have one
            or the other.
        action_repeat: environment steps per action, >= 1; only the last one's image is drawn.
        image_quality: "exact" is Safety-Gymnasium's picture byte for byte, on velocity tasks
            Gymnasium's; "fast" has no multisampling, shadows and reflections, coarser curves and
            no lidar lights.
        cost: where the cost comes from, as for ``constrained``. None: Safety-Gymnasium's total; of
            other tasks ``info["cost"]``. Navigation tasks report each kind of cost in info:
            ``{"hazards": "cost_hazards", "vases": "cost_vases_contact"}``.

    Returns:
        The environment; see ``ConstrainedEnvironment``.

    Raises:
        ValueError: an argument is not allowed, or images of a task without a camera.
        ImportError: Safety-Gymnasium or one of its dependencies is not installed.
        RuntimeError: the installed MuJoCo cannot build the task (some fail only at ``reset``).

    Example:
        >>> env = make_environment("SafetyPointCircle1-v0", seed=1, action_repeat=2)
        >>> first, _ = env.reset()
        >>> following, reward, terminated, truncated, info = env.step(np.zeros(2, np.float32))
        >>> info["cost"], info["inner_steps"], env.episode_length
        (0.0, 2, 500)
    """
    require_integer("seed", seed, minimum=0)
    require_integer("action_repeat", action_repeat, minimum=1)
    if observation not in get_args(ObservationKind):
        raise ValueError(
            f"observation: got {observation!r}; allowed 'vector' or 'image'; choose one of them"
        )
    if image_quality not in get_args(ImageQuality):
        raise ValueError(
            f"image_quality: got {image_quality!r}; allowed 'exact' or 'fast'; choose one of them"
        )
    spec, safety = find_any_task(task)
    if not safety:
        return _gymnasium_environment(spec, observation, cost, action_repeat, seed)
    return SafetyEnvironment(
        spec,
        seed=seed,
        observation=observation,
        action_repeat=action_repeat,
        image_quality=image_quality,
        cost=cost,
    )


class SafetyEnvironment(ConstrainedEnvironment):
    """A Safety-Gymnasium task; use ``make_environment`` to make one.

    Most tasks never terminate: they truncate after ``episode_length`` environment steps.
    """

    def __init__(
        self,
        spec: EnvSpec,
        *,
        seed: int,
        observation: ObservationKind,
        action_repeat: int,
        image_quality: ImageQuality,
        cost: Any = None,
    ) -> None:
        self.task = spec.id
        self.render_mode = "rgb_array"
        self._spec = spec
        self._images = observation == "image"
        self._navigation = spec.entry_point == "safety_gymnasium.builder:Builder"
        self._options = {
            "observation": observation,
            "action_repeat": action_repeat,
            "image_quality": image_quality,
            "cost": cost,
        }
        costs = Costs(cost)
        if self._images and costs.of_transition:
            raise ValueError(
                "cost: got a function for image observations, which are not drawn at every step; "
                "allowed keys of info; use one, or observation='vector'"
            )
        inner = self._build(spec)
        limit = spec.max_episode_steps
        if self._navigation:
            speed_up(inner.task)
            limit = shortest(limit, inner.task.num_steps)
        if self._images:
            self._camera = self._open_camera(inner, image_quality)
            observations = Box(0, 255, IMAGE_SHAPE, np.uint8)
        else:
            observations = Box(-np.inf, np.inf, inner.observation_space.shape, np.float32)
        bounds = inner.action_space
        low, high = bounds.low.astype(np.float32), bounds.high.astype(np.float32)
        super().__init__(
            inner,
            task=spec.id,
            costs=costs,
            observation_space=observations,
            action_space=Box(low, high, dtype=np.float32, seed=seed),
            episode_length=limit or 1000,
            action_repeat=action_repeat,
            seed=seed,
        )
        self._drawn = False
        fps = inner.metadata["render_fps"]
        self.metadata = {"render_modes": ["rgb_array"], "render_fps": fps}
        owner = inner.task if self._navigation else inner.mujoco_renderer
        self._free_viewers = functools.partial(free_viewers, owner._viewers)

    def render(self) -> Frame:
        """Draw a frame for a video: the scene, or with image observations the last of them."""
        if self._images:
            scale = VIDEO_SIZE // IMAGE_SIZE
            return cast(Frame, self._observation).repeat(scale, axis=0).repeat(scale, axis=1)
        return self._draw(self._inner.render)

    def close(self) -> None:
        """Free the resources of rendering; do not use the environment afterwards."""
        self._free_viewers()

    def __del__(self) -> None:
        if hasattr(self, "_free_viewers"):  # False if the constructor failed
            self._free_viewers()

    def _build(self, spec: EnvSpec) -> Any:
        options = copy.deepcopy(cast(dict[str, Any], cast(Any, spec).kwargs))
        if self._images and self._navigation:
            options["config"] |= {"observe_vision": True, "observation_flatten": False}
            options["config"]["vision_env_conf.vision_size"] = (IMAGE_SIZE, IMAGE_SIZE)
        # Gymnasium 1 would not follow the body by itself.
        options["camera_name"] = "fixedfar" if self._navigation else "track"
        # Not by ``gymnasium.make``, whose checker and wrappers cost time; ``step`` keeps the limit.
        creator: Any = load_env_creator(str(spec.entry_point))
        with self._model_errors_explained():
            return creator(render_mode="rgb_array", width=VIDEO_SIZE, height=VIDEO_SIZE, **options)

    def _made_by(self) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]:
        return _make_again, (self._spec,), self._options

    def _open_camera(self, inner: Any, quality: ImageQuality) -> RobotCamera | TrackingCamera:
        if not self._navigation:
            return TrackingCamera(inner, IMAGE_SIZE, quality)
        skip_vision(inner.task)  # ``_observe`` draws
        return RobotCamera(inner.task, IMAGE_SIZE, quality)

    def _reset_inner(self, seed: int) -> tuple[Any, dict[str, Any]]:
        # The camera takes its sky from the first model; vector observations do not show it.
        sky = nullcontext() if self._images and not self._camera.opened else plain_sky()
        with self._model_errors_explained(), sky:
            started = super()._reset_inner(seed)
        if self._navigation:  # these say 30 for every robot, and have no model before a reset
            task = self._inner.task
            step = task.model.opt.timestep * task.sim_conf.frameskip_binom_n
            self.metadata["render_fps"] = round(1 / step)
        return started

    def _observe(self, raw: Any) -> Observation:
        if self._images:
            return self._draw(self._camera.draw)
        vector = np.asarray(raw, np.float32)
        require_finite("observation", vector)
        return vector

    def _observe_past(self, raw: Any) -> Observation:
        return self._observation if self._images else self._observe(raw)

    def _draw(self, draw: Callable[[], Any]) -> Frame:
        try:
            frame = np.ascontiguousarray(draw())
        except Exception as error:  # the type depends on the GL library
            raise RuntimeError(
                f"{self.task}: no frame could be drawn ({type(error).__name__}: {error}); install "
                "OpenGL (Debian: apt-get install libegl1 libgl1, or libosmesa6) and set MUJOCO_GL "
                "to egl, osmesa or glfw"
            ) from error
        if not self._drawn:
            # Exit handlers run last in, first out: registered after the GL library's handler, this
            # one frees the viewers before the library shuts down.
            atexit.register(self._free_viewers)
            self._drawn = True
        return frame

    @contextmanager
    def _model_errors_explained(self) -> Generator[None, None, None]:
        # Navigation tasks compile their model at every reset, other tasks once.
        try:
            yield
        except ValueError as error:
            raise RuntimeError(
                f"task: the installed MuJoCo cannot build {self.task} "
                f"({' '.join(str(error).split())}); the Swimmer, Hopper and Walker2d tasks need "
                "mujoco 2.3.3 (Python 3.11) or gymnasium >= 1.1, and no release has the Race "
                "tasks' textures"
            ) from error


def _make_again(spec: EnvSpec, **options: Any) -> SafetyEnvironment:
    import_safety_gymnasium()  # repairs it before a process's first task is built
    return SafetyEnvironment(spec, **options)


def _gymnasium_environment(
    spec: EnvSpec, observation: ObservationKind, cost: Any, action_repeat: int, seed: int
) -> ConstrainedEnvironment:
    inner = make_gymnasium_task(spec)
    environment = constrained(inner, cost, action_repeat=action_repeat, seed=seed)
    kind = "image" if environment.observation_space.dtype == np.uint8 else "vector"
    if observation != kind:
        raise ValueError(f"observation: got {observation!r}; {spec.id} has {kind!r} only; use it")
    return environment
