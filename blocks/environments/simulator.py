"""Notice that MuJoCo has restarted a simulation whose numbers exploded."""

import functools
import importlib
from typing import Any


class Simulator:
    """MuJoCo below an environment, if there is one.

    MuJoCo answers NaN or huge positions, velocities and accelerations with a reset in the middle of
    the step. Only its counts of warnings say so. Time does not: after a restart within the first
    step of an episode it is what it would have been.

    Args:
        environment: a Gymnasium environment; MuJoCo's ``data`` belongs to it or to its ``task``.
    """

    def __init__(self, environment: Any) -> None:
        self._environment = environment

    def exploded(self) -> bool:
        """Whether MuJoCo has met a bad number since the episode's reset."""
        if self._owner is None:
            return False
        counts = self._owner.data.warning.number
        position, velocity, acceleration = _bad_numbers()
        return bool(counts[position] or counts[velocity] or counts[acceleration])

    @functools.cached_property
    def _owner(self) -> Any:
        """The object that holds ``data``; navigation tasks replace ``data`` at each reset."""
        bare = self._environment.unwrapped
        for owner in (bare, getattr(bare, "task", None)):
            if hasattr(getattr(getattr(owner, "data", None), "warning", None), "number"):
                return owner
        return None


@functools.cache
def _bad_numbers() -> tuple[int, ...]:
    warning: Any = importlib.import_module("mujoco").mjtWarning
    names = ("mjWARN_BADQPOS", "mjWARN_BADQVEL", "mjWARN_BADQACC")
    return tuple(int(getattr(warning, name)) for name in names)
