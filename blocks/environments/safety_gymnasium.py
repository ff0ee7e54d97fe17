"""Safety-Gymnasium tasks as constrained Markov decision processes.

    max_pi E[sum_t reward_t]   subject to   E[sum_t cost_t] <= episode_budget,   cost_t >= 0,

both sums over one episode of ``episode_length`` environment steps. Safety-Gymnasium's ``step``
returns six values, and standard wrappers lose the cost. Here ``step`` returns Gymnasium's five, and
``info["cost"]`` is the cost summed over *all* inner steps of an action repeat.
"""

import atexit
import copy
import functools
from collections.abc import Callable, Generator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

import numpy as np
from jaxtyping import Float32
from numpy.typing import NDArray

from blocks.environments.compatibility import find_task, missing_package
from blocks.environments.offscreen_viewer import Frame, ImageQuality, free_viewers
from blocks.environments.robot_camera import RobotCamera
from blocks.environments.speed import plain_sky, skip_vision, speed_up
from blocks.environments.tracking_camera import TrackingCamera

try:
    import gymnasium
    from gymnasium.envs.registration import EnvSpec, load_env_creator
    from gymnasium.spaces import Box
except ModuleNotFoundError as error:
    raise missing_package(error) from error

if TYPE_CHECKING:
    Action = NDArray[np.float32]
    Observation = NDArray[np.float32] | Frame
else:  # jaxtyping takes the bare class only
    Action = Float32[np.ndarray, " action"]
    Observation = Float32[np.ndarray, " observation"] | Frame

ObservationKind = Literal["vector", "image"]

IMAGE_SIZE = 64
VIDEO_SIZE = 256


def make_environment(
    task: str = "SafetyHalfCheetahVelocity-v1",
    *,
    seed: int = 0,
    observation: ObservationKind = "vector",
    action_repeat: int = 1,
    image_quality: ImageQuality = "exact",
) -> "SafetyEnvironment":
    """Make a Safety-Gymnasium task with Gymnasium's interface and the cost in ``info["cost"]``.

    Args:
        task: a Safety-Gymnasium name without "Vision" or "Debug", such as "SafetyPointGoal1-v0".
        seed: >= 0; seed and episode index determine an episode's start and randomness.
        observation: "vector" (float32 features) or "image" (uint8, 64x64x3: the view of the robot's
            camera, or on velocity tasks of a camera that follows the body).
        action_repeat: environment steps per action, >= 1; only the last one's image is drawn.
        image_quality: "exact" is Safety-Gymnasium's picture byte for byte, on velocity tasks
            Gymnasium's; "fast" has no multisampling, shadows and reflections, coarser curves and
            no lidar lights.

    Returns:
        The environment; see ``SafetyEnvironment``.

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
    return SafetyEnvironment(
        find_task(task),
        seed=seed,
        observation=observation,
        action_repeat=action_repeat,
        image_quality=image_quality,
    )


class SafetyEnvironment(gymnasium.Env[Observation, Action]):
    """A Safety-Gymnasium task; use ``make_environment`` to make one.

    Most tasks never terminate: they truncate after ``episode_length`` environment steps, even
    within an action repeat (``info["inner_steps"]`` is the number of steps taken).

    The randomness of episode k depends only on ``(seed, k)``. To resume a run at an episode's
    boundary, save ``episode_index`` and set it on a new environment with the same arguments.

    Attributes:
        task: the task's name.
        episode_length: environment steps (not actions) in an episode.
        action_repeat: environment steps per action.
        episode_index: index of the episode that the next ``reset`` starts.
    """

    def __init__(
        self,
        spec: EnvSpec,
        *,
        seed: int,
        observation: ObservationKind,
        action_repeat: int,
        image_quality: ImageQuality,
    ) -> None:
        self.task: str = spec.id
        self.episode_length: int = spec.max_episode_steps or 1000
        self.action_repeat: int = action_repeat
        self.episode_index: int = 0
        self.render_mode = "rgb_array"
        self._seed = seed
        self._images = observation == "image"
        self._navigation = spec.entry_point == "safety_gymnasium.builder:Builder"
        self._inner = self._build(spec)
        if self._navigation:
            speed_up(self._inner.task)
        self._steps_left = 0
        self._drawn = False
        self._frame: NDArray[np.uint8] = np.zeros((IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8)
        if self._images:
            self._camera = self._open_camera(image_quality)
            observations = Box(0, 255, self._frame.shape, np.uint8)
        else:
            observations = Box(-np.inf, np.inf, self._inner.observation_space.shape, np.float32)
        bounds = self._inner.action_space
        self._low, self._high = bounds.low.astype(np.float32), bounds.high.astype(np.float32)
        actions = Box(self._low, self._high, dtype=np.float32, seed=seed)
        # Gymnasium allows any ``Space``; these are boxes.
        self.observation_space: Box = observations  # pyright: ignore[reportIncompatibleVariableOverride]
        self.action_space: Box = actions  # pyright: ignore[reportIncompatibleVariableOverride]
        fps = self._inner.metadata["render_fps"]
        self.metadata = {"render_modes": ["rgb_array"], "render_fps": fps}
        owner = self._inner.task if self._navigation else self._inner.mujoco_renderer
        self._free_viewers = functools.partial(free_viewers, owner._viewers)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start episode ``episode_index`` and increment that index.

        Args:
            seed: >= 0; restart as if the environment had been made with this seed.
            options: ``{"episode": k}`` starts episode k; later resets continue from there.

        Returns:
            The first observation and the task's info.

        Raises:
            ValueError: an argument is not allowed.
            RuntimeError: the installed MuJoCo cannot build the task.
        """
        if seed is not None:
            require_integer("seed", seed, minimum=0)
            self._seed, self.episode_index = seed, 0
        for name, value in (options or {}).items():
            if name != "episode":
                raise ValueError(f"options: got {name!r}; allowed 'episode'; remove it")
            require_integer("episode", value, minimum=0)
            self.episode_index = value
        entropy = np.random.SeedSequence((self._seed, self.episode_index))
        # The camera takes its sky from the first model; vector observations do not show it.
        sky = nullcontext() if self._images and not self._camera.opened else plain_sky()
        with self._model_errors_explained(), sky:
            raw, info = self._inner.reset(seed=int(entropy.generate_state(1)[0]))
        self.episode_index += 1
        self._steps_left = self.episode_length
        return self._observe(raw), dict(info)

    def step(self, action: NDArray[Any]) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Apply an action for up to ``action_repeat`` environment steps.

        Args:
            action: ``[action]``, clipped to ``action_space``.

        Returns:
            Observation, summed reward, terminated, truncated, and the task's info with "cost"
            (summed, >= 0) and "inner_steps" (environment steps taken).

        Raises:
            ValueError: wrong shape; NaN or infinity in the action or from the simulator.
            RuntimeError: the episode is over.
        """
        action = np.asarray(action, np.float32)
        if action.shape != self._low.shape:
            raise ValueError(
                f"action: got shape {action.shape}; allowed {self._low.shape}; reshape it"
            )
        _require_finite("action", action)
        if self._steps_left == 0:
            raise RuntimeError(f"{self.task}: the episode is over, or none begun; call reset()")
        action = np.minimum(np.maximum(action, self._low), self._high)

        reward = cost = 0.0
        raw, terminated, truncated, inner_steps = None, False, False, 0
        info: dict[str, Any] = {}
        while inner_steps < self.action_repeat and not (terminated or truncated):
            raw, inner_reward, inner_cost, terminated, truncated, report = self._inner.step(action)
            reward += float(inner_reward)
            cost += float(inner_cost)
            info |= report
            inner_steps += 1
            truncated = bool(truncated or inner_steps == self._steps_left)
        self._steps_left = 0 if terminated or truncated else self._steps_left - inner_steps
        _require_finite("reward and cost", np.array((reward, cost)))
        info |= {"cost": cost, "inner_steps": inner_steps}
        return self._observe(raw), reward, bool(terminated), truncated, info

    def render(self) -> Frame:
        """Draw a frame for a video: the scene, or with image observations the last of them."""
        if self._images:
            scale = VIDEO_SIZE // IMAGE_SIZE
            return self._frame.repeat(scale, axis=0).repeat(scale, axis=1)
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
        if self._navigation:
            options["camera_name"] = "fixedfar"
        # Not by ``gymnasium.make``, whose checker and wrappers cost time; ``step`` keeps the limit.
        creator: Any = load_env_creator(str(spec.entry_point))
        with self._model_errors_explained():
            return creator(render_mode="rgb_array", width=VIDEO_SIZE, height=VIDEO_SIZE, **options)

    def _open_camera(self, quality: ImageQuality) -> RobotCamera | TrackingCamera:
        if not self._navigation:
            return TrackingCamera(self._inner, IMAGE_SIZE, quality)
        skip_vision(self._inner.task)  # ``_observe`` draws
        return RobotCamera(self._inner.task, IMAGE_SIZE, quality)

    def _observe(self, raw: Any) -> Observation:
        if self._images:
            self._frame = self._draw(self._camera.draw)
            return self._frame
        vector = np.asarray(raw, np.float32)
        _require_finite("observation", vector)
        return vector

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
                "mujoco 2.3.3 (Python 3.11), and no release has the Race tasks' textures"
            ) from error


def require_integer(name: str, value: object, *, minimum: int) -> None:
    """Check that an argument is an integer of at least ``minimum``.

    Raises:
        ValueError: it is not.
    """
    integer = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    if not integer or int(cast(int, value)) < minimum:
        raise ValueError(f"{name}: got {value!r}; allowed an integer >= {minimum}; give one")


def _require_finite(name: str, values: NDArray[Any]) -> None:
    if not np.isfinite(values).all():
        where = np.flatnonzero(~np.isfinite(values)).tolist()
        raise ValueError(
            f"{name}: got NaN or infinity at {where}; allowed finite numbers; "
            "look for the step that produced it"
        )
