"""Episodes of a constrained task: their randomness, action repeat, costs and end."""

import copy
import math
from abc import abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float32
from numpy.typing import NDArray

from blocks.environments.arguments import require_finite, require_integer
from blocks.environments.compatibility import missing_package
from blocks.environments.costs import Costs, add_report
from blocks.environments.offscreen_viewer import Frame
from blocks.environments.simulator import Simulator

try:
    import gymnasium
    from gymnasium.spaces import Box
except ModuleNotFoundError as error:
    raise missing_package(error) from error

if TYPE_CHECKING:
    Action = NDArray[np.float32]
    Observation = NDArray[np.float32] | Frame
else:  # jaxtyping takes the bare class only
    Action = Float32[np.ndarray, " action"]
    Observation = Float32[np.ndarray, " observation"] | Frame


class ConstrainedEnvironment(gymnasium.Env[Observation, Action]):
    """A task with costs, made by ``make_environment`` or ``constrained``.

    An episode ends where the task ends it, and is truncated after ``episode_length`` environment
    steps, even within an action repeat (``info["inner_steps"]`` is the number of steps taken).

    The randomness of episode k, ``np_random`` included, depends only on ``(seed, k)``. To resume a
    run at an episode's boundary, save ``episode_index`` and set it on a new environment with the
    same arguments. A copy (``copy.deepcopy``, ``pickle``) is such an environment: it starts the
    next episode, and in the middle of one it must be reset first.

    MuJoCo resets a simulation whose numbers explode. Then the episode is truncated before that
    step, with ``info["unstable"] = True`` and the last observation before it.

    Attributes:
        task: the task's name.
        episode_length: environment steps (not actions) in a whole episode.
        action_repeat: environment steps per action.
        episode_index: index of the episode that the next ``reset`` starts.
        cost_names: names of the costs, in the order of ``info["costs"]``.
        discrete: whether an action's largest entry chooses one of the task's actions.
    """

    discrete: bool = False

    def __init__(
        self,
        inner: Any,
        *,
        task: str,
        costs: Costs,
        observation_space: Box,
        action_space: Box,
        episode_length: int,
        action_repeat: int,
        seed: int,
    ) -> None:
        self.task = task
        self.episode_length: int = episode_length
        self.action_repeat: int = action_repeat
        self.episode_index: int = 0
        self.cost_names: tuple[str, ...] = costs.names
        # Gymnasium allows any ``Space``; these are boxes.
        self.observation_space: Box = observation_space  # pyright: ignore[reportIncompatibleVariableOverride]
        self.action_space: Box = action_space  # pyright: ignore[reportIncompatibleVariableOverride]
        self._low, self._high = action_space.low, action_space.high
        self._inner = inner
        self._costs = costs
        self._simulator = Simulator(inner)
        self._seed = seed
        self._steps_left = 0
        self._raw: Any = None  # the last observation of ``inner``, for functions of the transition
        empty: Any = np.zeros(observation_space.shape, observation_space.dtype)
        self._observation: Observation = empty

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
            ValueError: an argument is not allowed; NaN or infinity from the task.
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
        inner_seed, own_seed = map(int, entropy.generate_state(2))
        super().reset(seed=own_seed)
        raw, info = self._reset_inner(inner_seed)
        self.episode_index += 1
        self._steps_left = self.episode_length
        self._remember(raw)
        self._observation = self._observe(raw)
        return self._observation.copy(), dict(info)

    def step(self, action: NDArray[Any]) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Apply an action for up to ``action_repeat`` environment steps.

        Args:
            action: ``[action]``, clipped to ``action_space``.

        Returns:
            Observation, summed reward, terminated, truncated, and the task's info with "costs"
            (``[constraint]``, summed, >= 0), "cost" (their sum) and "inner_steps" (environment
            steps taken; 0 if the simulation exploded in the first). Numbers of the task's info
            whose key begins with "cost" are summed, flags or-ed.

        Raises:
            ValueError: wrong shape; NaN or infinity in the action or from the task; a negative or
                missing cost.
            RuntimeError: the episode is over, or none has begun.
        """
        action = self._within_bounds(action)
        raw, reward, costs = None, 0.0, [0.0] * len(self.cost_names)
        terminated, truncated, unstable, inner_steps = False, False, False, 0
        info: dict[str, Any] = {}
        while inner_steps < self.action_repeat and not (terminated or truncated):
            following, gained, *reported, ended, cut, report = self._step_inner(
                self._for_task(action)
            )
            unstable = truncated = self._simulator.exploded()
            if unstable:
                break
            given = self._for_task(action)  # anew: some tasks change what they are given
            added = self._costs.read(self._raw, given, following, report, *reported)
            costs = [cost + more for cost, more in zip(costs, added, strict=True)]
            self._remember(following)
            raw, terminated = following, bool(ended)
            reward += float(gained)
            inner_steps += 1
            truncated = bool(cut or inner_steps == self._steps_left)
            add_report(info, report)
        self._steps_left = 0 if terminated or truncated else self._steps_left - inner_steps
        if not math.isfinite(reward):
            raise ValueError(
                f"reward: got {reward}; allowed a finite number; look for the step that produced it"
            )
        info |= {"cost": sum(costs), "costs": np.array(costs), "inner_steps": inner_steps}
        if unstable:
            info["unstable"] = True
        if inner_steps:
            self._observation = self._observe_past(raw) if unstable else self._observe(raw)
        return self._observation.copy(), reward, terminated, truncated, info

    @abstractmethod
    def render(self) -> Frame:
        """Draw a frame ``[height, width, 3]`` of bytes for a video; may raise RuntimeError."""

    def __reduce__(self) -> tuple[Any, ...]:
        make, arguments, options = self._made_by()
        state = {"episode_index": self.episode_index}
        return _make_again, (make, arguments, options | {"seed": self._seed}), state

    @abstractmethod
    def _observe(self, raw: Any) -> Observation:
        """Convert an observation of the task, or draw the current state."""

    @abstractmethod
    def _made_by(self) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]:
        """Return what makes the same environment: a callable and its arguments, without seed."""

    def _observe_past(self, raw: Any) -> Observation:
        """Convert an observation whose state the simulator has left."""
        return self._observe(raw)

    def _reset_inner(self, seed: int) -> tuple[Any, dict[str, Any]]:
        return self._inner.reset(seed=seed)

    def _for_task(self, action: Action) -> Any:
        """Convert an action to what the task, and costs of the transition, are given."""
        return action

    def _step_inner(self, action: Any) -> tuple[Any, ...]:
        """Take an environment step; five values, or Safety-Gymnasium's six with the cost."""
        return self._inner.step(action)

    def _within_bounds(self, action: NDArray[Any]) -> Action:
        action = np.asarray(action, np.float32)
        if action.shape != self._low.shape:
            raise ValueError(
                f"action: got shape {action.shape}; allowed {self._low.shape}; reshape it"
            )
        require_finite("action", action)
        if self._steps_left == 0:
            raise RuntimeError(f"{self.task}: the episode is over, or none begun; call reset()")
        return np.minimum(np.maximum(action, self._low), self._high)

    def _remember(self, raw: Any) -> None:
        if self._costs.of_transition:  # some tasks return the same array at each step
            self._raw = copy.deepcopy(raw)


def _make_again(
    make: Callable[..., Any], arguments: tuple[Any, ...], options: dict[str, Any]
) -> Any:
    return make(*arguments, **options)
