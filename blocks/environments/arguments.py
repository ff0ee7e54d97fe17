"""Checks of arguments and numbers, with errors that name them."""

from typing import Any, cast

import numpy as np
from numpy.typing import NDArray


def require_integer(name: str, value: object, *, minimum: int) -> None:
    """Check that an argument is an integer of at least ``minimum``.

    Raises:
        ValueError: it is not.
    """
    integer = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    if not integer or int(cast(int, value)) < minimum:
        raise ValueError(f"{name}: got {value!r}; allowed an integer >= {minimum}; give one")


def require_finite(name: str, values: NDArray[Any]) -> None:
    """Check that all numbers are finite.

    Raises:
        ValueError: one is not.
    """
    if not np.isfinite(values).all():
        where = np.flatnonzero(~np.isfinite(values)).tolist()
        raise ValueError(
            f"{name}: got NaN or infinity at {where}; allowed finite numbers; "
            "look for the step that produced it"
        )
