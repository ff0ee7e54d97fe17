"""Turn Gymnasium's spaces into boxes of float32 vectors or of bytes."""

from collections.abc import Callable
from typing import Any

import numpy as np
from gymnasium import Wrapper as Wrapper
from gymnasium.spaces import Box as Box
from gymnasium.spaces import Discrete as Discrete
from gymnasium.spaces.utils import flatten, flatten_space
from numpy.typing import NDArray

from blocks.environments.protocol import IMAGE_SHAPE


def observation_box(space: Any) -> tuple[Box, Callable[[Any], NDArray[Any]]]:
    """Return the box of a task's observations, and what converts an observation to it.

    Args:
        space: a Gymnasium space. Images of 64x64x3 bytes stay; everything else becomes a float32
            vector by Gymnasium's ``flatten``, as its ``FlattenObservation`` wrapper does.

    Raises:
        ValueError: images of another shape, or a space that has no fixed size.
    """
    if isinstance(space, Box) and space.dtype == np.uint8 and len(space.shape) > 1:
        if space.shape != IMAGE_SHAPE:
            raise ValueError(
                f"observation_space: got images of shape {space.shape}; allowed {IMAGE_SHAPE} "
                "(RGB); wrap the environment in gymnasium.wrappers.ResizeObservation(env, (64, 64))"
            )
        return Box(0, 255, IMAGE_SHAPE, np.uint8), _as_bytes
    try:
        flat: Any = flatten_space(space)
    except (NotImplementedError, ValueError):  # a space that Gymnasium cannot flatten
        flat = None
    if not isinstance(flat, Box):
        raise ValueError(
            f"observation_space: got {space}; allowed a space of fixed size (Box, Discrete, Dict, "
            "Tuple); wrap the environment in one that gives vectors"
        )
    with np.errstate(over="ignore"):  # float64's largest numbers become infinite bounds
        low, high = flat.low.astype(np.float32), flat.high.astype(np.float32)

    def as_vector(observation: Any) -> NDArray[Any]:
        return np.array(flatten(space, observation), np.float32)

    return Box(low, high, dtype=np.float32), as_vector


def action_box(space: Any, seed: int) -> tuple[Box, Callable[[NDArray[np.float32]], Any]]:
    """Return the box ``[action]`` of a task's actions, and what converts one to the task's.

    Args:
        space: a ``Box`` of floats with finite bounds, flattened to one axis; or ``Discrete(n)``,
            whose box is [0, 1]^n: the largest entry chooses the action, the first of equal ones.
        seed: of ``sample``.

    Raises:
        ValueError: another space, or bounds that are infinite or equal.
    """
    if isinstance(space, Discrete):
        start = space.start
        return Box(0, 1, (int(space.n),), np.float32, seed=seed), lambda a: start + a.argmax()
    if not isinstance(space, Box) or not np.issubdtype(space.dtype, np.floating):
        raise ValueError(
            f"action_space: got {space}; allowed a Box of floats or Discrete; wrap the environment "
            "in a gymnasium.ActionWrapper that maps one of these to its actions"
        )
    low, high = space.low.astype(np.float32).ravel(), space.high.astype(np.float32).ravel()
    if not (np.isfinite(low).all() and np.isfinite(high).all() and (low < high).all()):
        raise ValueError(
            f"action_space: got the bounds {low.tolist()} and {high.tolist()}; allowed finite "
            "ones, low < high; wrap the environment in a gymnasium.ActionWrapper with such a Box"
        )
    shape, dtype = space.shape, space.dtype
    return Box(low, high, dtype=np.float32, seed=seed), lambda a: a.reshape(shape).astype(dtype)


def _as_bytes(observation: Any) -> NDArray[Any]:
    return np.array(observation, np.uint8)
