"""Check an environment before training: everything that is wrong with it, in one error."""

import math
from numbers import Real
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from blocks.environments.costs import cost_names_of, costs_of
from blocks.environments.protocol import IMAGE_SHAPE

REPEATED_ACTIONS = 50
"""Actions that are played again to see whether the seed fixes an episode."""

Findings = dict[str, str]
"""What is wrong, by subject; of each subject the first."""


class Played(NamedTuple):
    """What a step or reset gave, for comparison with the same step in a second run."""

    observation: NDArray[Any]
    numbers: tuple[Any, ...]  # reward, cost, terminated, truncated


def check_environment(env: Any, *, seed: int = 0, actions: int = 1000) -> None:
    """Check that an environment is what ``Environment`` promises.

    It plays one episode, with the bounds of the action space first, then random actions, and the
    beginning of the same episode again. Afterwards the environment is in an episode of ``seed``:
    call ``reset(seed=...)``.

    Args:
        env: an object with the attributes of ``Environment``.
        seed: >= 0; seed of the episode and of the actions.
        actions: the episode is cut after this many actions.

    Raises:
        ValueError: something is wrong; the message lists everything, one line each.

    Example:
        >>> from blocks import make_environment
        >>> check_environment(make_environment("SafetyPointCircle1-v0", action_repeat=10))
    """
    found: Findings = {}
    _check_integers(env, found)
    _check_names(cost_names_of(env), found)
    bounds = _check_spaces(env, found)
    if bounds is not None:
        plan = _plan(*bounds, seed, actions)
        first = _play(env, plan, seed, found)
        again = _play(env, plan[:REPEATED_ACTIONS], seed, found)
        _compare(first, again, seed, found)
        _check_next_episode(env, found)
    if found:
        listed = "\n".join(f"- {subject}: {text}" for subject, text in found.items())
        name = type(env).__name__
        raise ValueError(f"env: got {name} with {len(found)} faults; mend each\n{listed}")


def _check_integers(environment: Any, found: Findings) -> None:
    for name, minimum in (("episode_length", 1), ("action_repeat", 1), ("episode_index", 0)):
        value: Any = getattr(environment, name, None)
        if not _is_integer(value) or value < minimum:
            found[name] = f"got {value!r}; allowed an integer >= {minimum}"


def _check_names(names: tuple[Any, ...], found: Findings) -> None:
    strings = all(isinstance(name, str) and name for name in names)
    if not names or not strings or len(set(names)) < len(names):
        found["cost_names"] = f"got {names!r}; allowed one or more strings, each once"


def _check_spaces(environment: Any, found: Findings) -> tuple[NDArray[Any], NDArray[Any]] | None:
    """Return the bounds of actions, if actions can be made."""
    low, _ = _bounds(environment, "observation_space")
    vector = low is not None and low.dtype == np.float32 and low.ndim == 1
    image = low is not None and low.dtype == np.uint8 and low.shape == IMAGE_SHAPE
    if not (vector or image):
        space = getattr(environment, "observation_space", None)
        found["observation_space"] = (
            f"got {space}; allowed a box of float32 vectors or of {IMAGE_SHAPE} bytes; "
            "constrained() makes one"
        )
    low, high = _bounds(environment, "action_space")
    if low is not None and high is not None and low.ndim == 1 and (low < high).all():
        low, high = low.astype(np.float32), high.astype(np.float32)
        if np.isfinite((low, high)).all():
            _check_discrete(environment, low, high, found)
            return low, high
    space = getattr(environment, "action_space", None)
    found["action_space"] = f"got {space}; allowed a box [action], finite, low < high"
    return None


def _check_discrete(
    environment: Any, low: NDArray[Any], high: NDArray[Any], found: Findings
) -> None:
    discrete: Any = getattr(environment, "discrete", False)
    unit = not low.any() and (high == 1).all()
    if not isinstance(discrete, bool) or (discrete and not unit):
        found["discrete"] = (
            f"got {discrete!r} with the action_space {environment.action_space}; allowed False, or "
            "True with the box [0, 1]^n of n actions"
        )


def _bounds(environment: Any, name: str) -> tuple[NDArray[Any] | None, NDArray[Any] | None]:
    space: Any = getattr(environment, name, None)
    low: Any = getattr(space, "low", None)
    high: Any = getattr(space, "high", None)
    arrays = isinstance(low, np.ndarray) and isinstance(high, np.ndarray)
    return (cast(Any, low), cast(Any, high)) if arrays else (None, None)


def _plan(low: NDArray[Any], high: NDArray[Any], seed: int, actions: int) -> list[NDArray[Any]]:
    """Make the actions of an episode: the bounds, their middle, random ones."""
    noise = np.random.default_rng(seed).uniform(low, high, (max(actions - 3, 0), *low.shape))
    fixed = [low, high, (low + high) / 2]
    return [*fixed, *noise.astype(np.float32)][:actions]


def _play(environment: Any, plan: list[NDArray[Any]], seed: int, found: Findings) -> list[Played]:
    """Play an episode and return what can be compared; it ends at an error."""
    played: list[Played] = []
    try:
        observation, info = environment.reset(seed=seed)
    except Exception as error:  # whatever it is belongs into the list
        found["reset"] = f"raised {type(error).__name__}: {error}"
        return played
    if not isinstance(info, dict):
        found["reset"] = f"gave {info!r} as info; allowed (observation, dictionary)"
    _check_observation(environment, observation, "reset()", found)
    played.append(Played(np.array(observation), ()))
    taken = 0
    for number, action in enumerate(plan, start=1):
        where = f"action {number}"
        try:
            observation, reward, terminated, truncated, info = environment.step(action.copy())
        except Exception as error:
            found["step"] = f"raised {type(error).__name__} at {where}: {error}"
            break
        if not isinstance(info, dict):
            found["info"] = f"got {info!r} at {where}; allowed a dictionary"
            break
        info = cast(dict[str, Any], info)
        _check_observation(environment, observation, where, found)
        _check_numbers(reward, terminated, truncated, where, found)
        _check_costs(info, cost_names_of(environment), where, found)
        taken += _check_inner_steps(environment, info, where, found)
        numbers = (reward, info.get("cost"), bool(terminated), bool(truncated))
        played.append(Played(np.array(observation), numbers))
        if terminated or truncated:
            break
        if "episode_length" not in found and taken >= environment.episode_length:
            found["truncated"] = (
                f"got False after {taken} environment steps; allowed True from episode_length = "
                f"{environment.episode_length} on"
            )
            break
    return played


def _check_observation(environment: Any, observation: Any, where: str, found: Findings) -> None:
    low, high = _bounds(environment, "observation_space")
    if low is None or high is None:
        return
    if not isinstance(observation, np.ndarray):
        found.setdefault(
            "observation", f"got {type(observation).__name__} at {where}; allowed a NumPy array"
        )
        return
    observation = cast(NDArray[Any], observation)
    if observation.dtype != low.dtype or observation.shape != low.shape:
        found.setdefault(
            "observation",
            f"got {observation.dtype} of shape {observation.shape} at {where}; allowed "
            f"{low.dtype} of shape {low.shape}, as observation_space says",
        )
    elif not np.isfinite(observation).all():
        found.setdefault("observation", f"got NaN or infinity at {where}; allowed finite numbers")
    elif (observation < low).any() or (observation > high).any():
        found.setdefault(
            "observation", f"got one outside of observation_space at {where}; widen its bounds"
        )


def _check_numbers(
    reward: Any, terminated: Any, truncated: Any, where: str, found: Findings
) -> None:
    if not _is_finite(reward):
        found.setdefault("reward", f"got {reward!r} at {where}; allowed a finite number")
    for name, value in (("terminated", terminated), ("truncated", truncated)):
        if not isinstance(value, (bool, np.bool_)):
            found.setdefault(name, f"got {value!r} at {where}; allowed True or False")


def _check_costs(info: Any, names: tuple[str, ...], where: str, found: Findings) -> None:
    total = info.get("cost")
    if not _is_finite(total) or total < 0:
        got = repr(total) if "cost" in info else "nothing"
        found.setdefault("info['cost']", f"got {got} at {where}; allowed a finite number >= 0")
        return
    if len(names) == 1 and "costs" not in info:
        return
    try:
        each = costs_of({"cost": info.get("costs"), "costs": info.get("costs")}, names)
    except (TypeError, ValueError):
        each = np.full(len(names), np.nan)
    if not (np.isfinite(each).all() and (each >= 0).all() and np.isclose(each.sum(), total)):
        found.setdefault(
            "info['costs']",
            f"got {info.get('costs')!r} at {where}; allowed one number >= 0 for each of {names}, "
            f"whose sum is info['cost'] = {total}",
        )


def _check_inner_steps(environment: Any, info: Any, where: str, found: Findings) -> int:
    """Return the environment steps of the action, as far as info says."""
    value = info.get("inner_steps")
    minimum = 0 if info.get("unstable") else 1
    maximum = np.inf if "action_repeat" in found else environment.action_repeat
    if not _is_integer(value) or not minimum <= value <= maximum:
        got = repr(value) if "inner_steps" in info else "nothing"
        found.setdefault(
            "info['inner_steps']",
            f"got {got} at {where}; allowed an integer from 1 to action_repeat",
        )
        return 1
    return int(value)


def _compare(first: list[Played], again: list[Played], seed: int, found: Findings) -> None:
    for number, (one, other) in enumerate(zip(first, again, strict=False)):
        floats = one.observation.dtype.kind == "f"  # NaN is another fault
        same = np.array_equal(one.observation, other.observation, equal_nan=floats)
        if not same or repr(one.numbers) != repr(other.numbers):
            where = f"action {number}" if number else "reset()"
            found["determinism"] = (
                f"the episode differs from {where} on when reset(seed={seed}) starts it again; "
                "draw all randomness from a generator that reset(seed=...) seeds"
            )
            return


def _check_next_episode(environment: Any, found: Findings) -> None:
    if "episode_index" in found or "reset" in found:
        return
    before = environment.episode_index
    environment.reset()
    if environment.episode_index != before + 1:
        found["episode_index"] = (
            f"got {environment.episode_index} after {before} and reset(); allowed {before + 1}"
        )


def _is_integer(value: Any) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def _is_finite(value: Any) -> bool:
    if isinstance(value, bool):
        return False
    return isinstance(value, Real) and math.isfinite(value)
