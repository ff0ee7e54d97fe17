"""A recorded episode, and the check that it is whole."""

from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray


class Episode(NamedTuple):
    """One recorded episode of T agent steps."""

    observations: NDArray[Any]  # [T + 1, ...]
    actions: NDArray[Any]  # [T, action], within the environment's bounds
    rewards: NDArray[Any]  # [T]
    costs: NDArray[Any]  # [T] or [T, constraint], >= 0
    terminated: bool = False  # whether the task ended it
    truncated: bool = False  # whether it was cut off


def checked(episode: Episode, where: str) -> Episode:
    """Convert to arrays and flags.

    Args:
        episode: ``terminated`` and ``truncated`` may have one entry for each step.
        where: a name for the errors.

    Raises:
        ValueError: a shape is wrong, a number not finite, a cost negative, or an end not the last
            step.
    """
    arrays: dict[str, NDArray[Any]] = {}
    for name, value in episode._asdict().items():
        if isinstance(value, (dict, tuple)):
            kind = "dict" if isinstance(value, dict) else "tuple"
            raise ValueError(
                f"{name}: got a {kind} in {where}; allowed one array; flatten it, "
                "for example with gymnasium.spaces.flatten"
            )
        arrays[name] = np.asarray(value)
    steps = len(arrays["actions"]) if arrays["actions"].ndim == 2 else 0
    fits = {
        "actions": steps > 0 and arrays["actions"].shape[1] > 0,
        "observations": arrays["observations"].shape[:1] == (steps + 1,),
        "rewards": arrays["rewards"].shape == (steps,),
        "costs": arrays["costs"].shape[:1] == (steps,)
        and arrays["costs"].ndim <= 2
        and arrays["costs"].size > 0,
        "terminated": arrays["terminated"].shape in ((), (steps,)),
        "truncated": arrays["truncated"].shape in ((), (steps,)),
    }
    allowed = {"actions": "[T, action], T >= 1", "observations": "[T + 1, ...]"}
    allowed["costs"] = "[T] or [T, constraint]"
    for name, right in fits.items():
        if not right:
            raise ValueError(
                f"{name}: got shape {arrays[name].shape} in {where}; allowed "
                f"{allowed.get(name, '[T]')} with the T of the actions, {steps}; reshape it"
            )
    for name, array in arrays.items():
        if array.dtype.kind not in "fiub" or not np.isfinite(array).all():
            raise ValueError(
                f"{name}: got NaN, infinity or {array.dtype} in {where}; allowed finite numbers; "
                "remove the episode, or mend what produced it"
            )
    if (arrays["costs"] < 0).any():
        raise ValueError(
            f"costs: got {arrays['costs'].min()} in {where}; allowed 0 and above; a gain is a "
            "reward"
        )
    flags = {name: _flag(name, arrays[name], where) for name in ("terminated", "truncated")}
    return Episode(**cast(Any, arrays | flags))


def _flag(name: str, values: NDArray[Any], where: str) -> bool:
    """Return whether an episode ended so, from one flag or from one for each step."""
    if values.ndim and values[:-1].any():
        raise ValueError(
            f"{name}: got an end before the last step of {where}; allowed at the last step only; "
            "split it into episodes"
        )
    return bool(values[-1] if values.ndim else values)
