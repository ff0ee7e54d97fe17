"""Any Gymnasium environment as a constrained task."""

from collections.abc import Callable, Generator
from typing import Any, cast

import numpy as np

from blocks.environments.arguments import require_finite, require_integer
from blocks.environments.costs import Costs, CostSource
from blocks.environments.episodes import Action, ConstrainedEnvironment, Observation
from blocks.environments.offscreen_viewer import Frame
from blocks.environments.spaces import Discrete, Wrapper, action_box, observation_box


def constrained(
    env: Any,
    cost: CostSource = None,
    *,
    episode_length: int | None = None,
    action_repeat: int = 1,
    seed: int = 0,
) -> ConstrainedEnvironment:
    """Turn a Gymnasium environment into a constrained task.

    Args:
        env: a Gymnasium environment, 0.28 to 1.x, whose ``step`` returns five values, or six with
            the cost in third place. Actions: a Box with finite bounds, or Discrete, of which the
            largest entry of an action in [0, 1]^n chooses one. Observations: 64x64x3 bytes, or
            anything of fixed size, which is flattened to a float32 vector.
        cost: where the cost comes from:

            - None: the third of six values, or else ``info["cost"]``;
            - "key": ``info["key"]``;
            - a function ``(observation, action, next_observation, info) -> cost`` of one
              environment step, with observations and action as ``env`` gives and takes them; it
              must not look at ``env``, which a copy of the task does not share;
            - {"name": "key" or function, ...}: several named costs.
        episode_length: environment steps in an episode; None: the environment's own limit. The
            smaller one counts.
        action_repeat: environment steps per action, >= 1; rewards and costs are summed.
        seed: >= 0; seed and episode index determine an episode's start and randomness.

    Returns:
        The constrained task; see ``ConstrainedEnvironment``.

    Raises:
        ValueError: an argument or a space is not allowed, or no episode length is known.

    Example:
        >>> import gymnasium
        >>> def torque(observation, action, next_observation, info):
        ...     return float(abs(action[0]) > 1)
        >>> env = constrained(gymnasium.make("Pendulum-v1"), torque, action_repeat=2)
        >>> first, _ = env.reset()
        >>> following, reward, terminated, truncated, info = env.step(np.full(1, 2, np.float32))
        >>> info["cost"], info["inner_steps"], env.episode_length
        (2.0, 2, 200)
    """
    require_integer("action_repeat", action_repeat, minimum=1)
    require_integer("seed", seed, minimum=0)
    if episode_length is not None:
        require_integer("episode_length", episode_length, minimum=1)
    if isinstance(env, ConstrainedEnvironment):
        raise ValueError(
            f"env: got {env.task}, which is constrained already; allowed an environment of "
            "Gymnasium; give cost= and action_repeat= where it was made"
        )
    return GymnasiumEnvironment(
        env, cost=cost, episode_length=episode_length, action_repeat=action_repeat, seed=seed
    )


class GymnasiumEnvironment(ConstrainedEnvironment):
    """A Gymnasium environment as a constrained task; use ``constrained`` to make one."""

    def __init__(
        self,
        inner: Any,
        *,
        cost: Any,
        episode_length: int | None,
        action_repeat: int,
        seed: int,
    ) -> None:
        observations, self._convert = observation_box(inner.observation_space)
        actions, self._as_taken = action_box(inner.action_space, seed)
        limit = shortest(episode_length, *step_limits(inner))
        if limit is None:
            raise ValueError(
                "episode_length: got None for an environment without a time limit; allowed an "
                "integer >= 1; give one"
            )
        spec = inner.spec
        super().__init__(
            inner,
            task=type(inner.unwrapped).__name__ if spec is None else spec.id,
            costs=Costs(cost),
            observation_space=observations,
            action_space=actions,
            episode_length=limit,
            action_repeat=action_repeat,
            seed=seed,
        )
        self._options = {
            "cost": cost,
            "episode_length": episode_length,
            "action_repeat": action_repeat,
        }
        self.discrete = isinstance(inner.action_space, Discrete)
        self.render_mode = inner.render_mode if inner.render_mode == "rgb_array" else None
        fps = inner.metadata.get("render_fps") or 30
        self.metadata = {"render_modes": ["rgb_array"], "render_fps": fps}

    def render(self) -> Frame:
        """Draw a frame ``[height, width, 3]`` of bytes.

        Raises:
            RuntimeError: the environment draws none.
        """
        if self.render_mode is None:
            raise RuntimeError(
                f"{self.task}: got render_mode={self._inner.render_mode!r}; allowed 'rgb_array'; "
                "make the environment with render_mode='rgb_array'"
            )
        try:
            frame = np.ascontiguousarray(self._inner.render())
        except Exception as error:  # the type depends on the library that draws
            raise RuntimeError(
                f"{self.task}: no frame could be drawn ({type(error).__name__}: {error}); install "
                "what its renderer needs"
            ) from error
        if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
            raise RuntimeError(
                f"{self.task}: render gave {frame.dtype} of shape {frame.shape}; allowed bytes "
                "[height, width, 3]; make the environment with render_mode='rgb_array'"
            )
        return frame

    def close(self) -> None:
        """Close the environment."""
        self._inner.close()

    def _observe(self, raw: Any) -> Observation:
        observation = self._convert(raw)
        if observation.shape != self.observation_space.shape:
            raise ValueError(
                f"observation: got shape {observation.shape} after flattening; allowed "
                f"{self.observation_space.shape}; let it match observation_space"
            )
        require_finite("observation", observation)
        return observation

    def _for_task(self, action: Action) -> Any:
        return self._as_taken(action)

    def _made_by(self) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]:
        return GymnasiumEnvironment, (self._inner,), self._options


def shortest(*limits: int | None) -> int | None:
    """Return the smallest of the limits that are known; None if none is."""
    return min((limit for limit in limits if limit is not None), default=None)


def step_limits(env: Any) -> Generator[int | None, None, None]:
    """Give every limit of an environment's steps: its spec's, its wrappers' and its builder's."""
    yield None if env.spec is None else env.spec.max_episode_steps
    yield getattr(getattr(env.unwrapped, "task", None), "num_steps", None)  # Safety-Gymnasium
    while isinstance(env, Wrapper):
        yield env.__dict__.get("_max_episode_steps")  # ``TimeLimit``
        env = cast(Any, env).env
