"""Costs of a step: where they come from, and how environments hand them on.

An environment has named costs. ``info["costs"]`` is their vector ``[constraint]``, in the order of
``cost_names``; ``info["cost"]`` is their sum. Both are >= 0 and summed over the action repeat.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from numbers import Real
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

CostFunction = Callable[[Any, Any, Any, dict[str, Any]], Any]
"""``function(observation, action, next_observation, info)`` returns a cost, or several."""

CostSource = (
    str
    | CostFunction
    | Mapping[str, str | CostFunction]
    | Mapping[str | tuple[str, ...], str | CostFunction]
    | None
)
"""What ``Costs`` takes."""

SINGLE = ("cost",)
"""Names of the costs of an environment that does not name them."""


class Costs:
    """Reads the costs of an environment step.

    Args:
        source: where they come from:

            - None: the third of six values of ``step`` (Safety-Gymnasium), else ``info["cost"]``;
            - "key": ``info["key"]``;
            - a function ``(observation, action, next_observation, info) -> cost``;
            - {"name": "key" or function, ...}: several costs. A tuple of names stands for a key or
              function that gives as many values: ``{("speed", "torque"): function}``.

    Attributes:
        names: names of the costs; ("cost",) unless the source names them.
        of_transition: whether a function needs the observations.

    Raises:
        ValueError: the source is none of these, or a name is given twice.
    """

    def __init__(self, source: Any = None) -> None:
        parts = cast(dict[Any, Any], source if isinstance(source, Mapping) else {SINGLE: source})
        self._parts = [(_as_names(names), part) for names, part in parts.items()]
        self.names: tuple[str, ...] = tuple(name for names, _ in self._parts for name in names)
        if not self.names or len(set(self.names)) < len(self.names):
            raise ValueError(f"cost: got the names {self.names}; allowed one or more, each once")
        for names, part in self._parts:
            known = isinstance(part, str) or callable(part)
            if not known and not (part is None and source is None):
                raise ValueError(
                    f"cost: got {part!r} for {_listed(names)}; allowed a key of info or a function "
                    "(observation, action, next_observation, info); give one"
                )
        self.of_transition: bool = any(callable(part) for _, part in self._parts)

    def read(
        self,
        observation: Any,
        action: Any,
        following: Any,
        info: dict[str, Any],
        reported: Any = None,
    ) -> list[float]:
        """Return the costs of one environment step, in the order of ``names``.

        Args:
            observation: observation before the step.
            action: what the task was given: ``[action]``, or the index of a discrete one.
            following: observation after the step.
            info: the step's info.
            reported: the cost that ``step`` itself returned, if any.

        Raises:
            ValueError: info lacks a key, or a cost is negative, not finite or no number.
        """
        values: list[float] = []
        for names, part in self._parts:
            if callable(part):
                given = part(observation, action, following, info)
            elif part is None and reported is not None:
                given = reported
            else:
                given = _look_up(part, info)
            values += _checked(names, given)
        return values


def costs_of(info: Mapping[str, Any], names: Sequence[str] = SINGLE) -> NDArray[np.float64]:
    """Return the costs ``[constraint]`` of a step, from its info.

    Args:
        info: the step's info; one cost is ``info["cost"]``, several are ``info["costs"]``.
        names: the environment's ``cost_names``.

    Raises:
        ValueError: info does not hold one cost for each name.

    Example:
        >>> costs_of({"cost": 2.0})
        array([2.])
        >>> costs_of({"cost": 3.0, "costs": np.array([1.0, 2.0])}, ("hazards", "vases"))
        array([1., 2.])
    """
    key = "cost" if len(names) == 1 else "costs"
    values = np.asarray(info.get(key, ()), np.float64).reshape(-1)
    if values.shape != (len(names),):
        raise ValueError(
            f"info[{key!r}]: got {info.get(key)!r}; allowed {len(names)} numbers, for "
            f"{_listed(names)}; let step() report them"
        )
    return values


def cost_names_of(environment: object) -> tuple[str, ...]:
    """Return the environment's ``cost_names``; ("cost",) if it does not name its costs."""
    return tuple(getattr(environment, "cost_names", SINGLE))


def add_report(total: dict[str, Any], report: Mapping[str, Any]) -> None:
    """Add an inner step's info to that of the action.

    Numbers whose key begins with "cost" are summed and flags are or-ed, so an action reports what
    the same number of single steps report. Of everything else the last value counts.

    Example:
        >>> total = {"cost_hazards": 1.0, "goal_met": True, "x_position": 0.1}
        >>> add_report(total, {"cost_hazards": 2.0, "goal_met": False, "x_position": 0.2})
        >>> total
        {'cost_hazards': 3.0, 'goal_met': True, 'x_position': 0.2}
    """
    for key, value in report.items():
        before = total.get(key)
        if _is_flag(before) and _is_flag(value):
            total[key] = bool(before or value)
        elif key.startswith("cost") and _is_number(before) and _is_number(value):
            total[key] = before + value
        else:
            total[key] = value


def _as_names(names: Any) -> tuple[str, ...]:
    several = cast(tuple[Any, ...], names if isinstance(names, tuple) else (names,))
    for name in several:
        if not isinstance(name, str) or not name:
            raise ValueError(f"cost: got the name {name!r}; allowed a string; rename it")
    return tuple(several)


def _look_up(key: str | None, info: dict[str, Any]) -> Any:
    name = "cost" if key is None else key
    if name not in info:
        keys = ", ".join(repr(key) for key in info) or "no key"
        raise ValueError(
            f"cost: got {key!r}, but info has no {name!r}; allowed one of its keys ({keys}) or a "
            "function (observation, action, next_observation, info); give one as cost="
        )
    return info[name]


def _checked(names: tuple[str, ...], given: Any) -> list[float]:
    if isinstance(given, float) and 0 <= given < math.inf and len(names) == 1:
        return [float(given)]  # at once: this is nearly every step
    raw: NDArray[Any] = np.asarray(given)
    if raw.dtype.kind not in "biuf" or raw.ndim > 1 or raw.size != len(names):
        raise ValueError(
            f"cost: got {given!r} for {_listed(names)}; allowed {len(names)} of numbers >= 0; "
            "return one for each name"
        )
    values: list[float] = raw.reshape(-1).astype(np.float64).tolist()
    for name, value in zip(names, values, strict=True):
        if not 0 <= value < math.inf:
            raise ValueError(
                f"{name if names == SINGLE else f'cost {name!r}'}: got {value}; allowed a finite "
                "number >= 0; look for the step that produced it"
            )
    return values


def _listed(names: Sequence[str]) -> str:
    return ", ".join(repr(name) for name in names)


def _is_flag(value: Any) -> bool:
    return isinstance(value, (bool, np.bool_))


def _is_number(value: Any) -> bool:
    if isinstance(value, np.ndarray):
        return cast(NDArray[Any], value).dtype.kind in "iuf"
    return isinstance(value, Real) and not _is_flag(value)
