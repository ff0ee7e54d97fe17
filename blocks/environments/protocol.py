"""Protocol of a constrained environment."""

from typing import Any, Protocol, runtime_checkable

from numpy.typing import NDArray

IMAGE_SHAPE = (64, 64, 3)
"""Shape of image observations, in bytes."""


@runtime_checkable
class Space(Protocol):
    """A box, as Gymnasium's ``spaces.Box``."""

    @property
    def shape(self) -> tuple[int, ...] | None: ...
    @property
    def low(self) -> NDArray[Any]: ...
    @property
    def high(self) -> NDArray[Any]: ...


@runtime_checkable
class Environment(Protocol):
    """A constrained task with Gymnasium's five-value step; ``make_environment`` makes one.

    Attributes:
        observation_space: a box; float32 vectors, or uint8 images ``[height, width, 3]``.
        action_space: a box ``[action]``; policies act in [-1, 1], which maps to its bounds.
        episode_length: environment steps (not actions) in a whole episode.
        action_repeat: environment steps per action.
        episode_index: index of the episode that the next ``reset`` starts. Set it to resume a run:
            if episodes depend on it alone, the resumed run gives the same numbers.

    An environment with several costs also has ``cost_names: tuple[str, ...]`` and reports them in
    that order as ``info["costs"]``, float64 ``[constraint]``; ``info["cost"]`` is their sum. Read
    both with ``cost_names_of`` and ``costs_of``, which also take environments with one cost.

    An environment with n discrete actions has ``discrete = True`` and the action space [0, 1]^n: an
    action's largest entry, the first of equal ones, chooses. Policies then give one-hot vectors.
    """

    episode_length: int
    action_repeat: int
    episode_index: int

    @property
    def observation_space(self) -> Space: ...
    @property
    def action_space(self) -> Space: ...

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[Any], dict[str, Any]]:
        """Start an episode; with a seed, restart as if the environment were new."""
        ...

    def step(self, action: NDArray[Any]) -> tuple[NDArray[Any], float, bool, bool, dict[str, Any]]:
        """Apply an action ``[action]`` for up to ``action_repeat`` environment steps.

        Returns:
            Observation, summed reward, terminated, truncated, and info with ``cost`` (summed over
            the inner steps, >= 0) and ``inner_steps`` (environment steps taken).
        """
        ...

    def render(self) -> NDArray[Any]:
        """Draw a frame ``[height, width, 3]`` of bytes for a video; may raise RuntimeError."""
        ...

    def close(self) -> None:
        """Free the resources of rendering."""
        ...
