"""Find a task by its name: Safety-Gymnasium's, or one that Gymnasium has registered."""

import difflib
import importlib
import sys
from typing import Any, cast

import gymnasium
from gymnasium.envs.registration import EnvSpec as EnvSpec
from gymnasium.envs.registration import load_env_creator as load_env_creator
from gymnasium.envs.registration import registry

from blocks.environments.compatibility import find_task


def find_any_task(task: str) -> tuple[EnvSpec, bool]:
    """Return the specification of a task, and whether it is Safety-Gymnasium's.

    Args:
        task: a name; "module:name" imports the module first, which registers the task.

    Raises:
        ValueError: no task has this name; the message suggests similar names.
        ImportError: a package is missing.
    """
    module, _, name = task.rpartition(":")
    if module:
        importlib.import_module(module)
    if name in registry and name not in _safety_tasks():
        return registry[name], False
    try:
        return find_task(name), True
    except ImportError:
        if name.startswith("Safety"):
            raise
    except ValueError:
        pass
    hidden = ("Vision-", "Debug-", "Gymnasium-")  # Safety-Gymnasium's variants of its tasks
    known = [known for known in sorted(registry) if not any(part in known for part in hidden)]
    near = difflib.get_close_matches(name, known, cutoff=0.5) or ["SafetyPointGoal1-v0"]
    raise ValueError(
        f"task: got {task!r}; allowed a Safety-Gymnasium task without 'Vision' or 'Debug', or an "
        f"id that Gymnasium has registered; perhaps you mean {', '.join(near)}"
    )


def make_gymnasium_task(spec: EnvSpec) -> Any:
    """Make a task that Gymnasium has registered; it draws pictures if it can."""
    entry: Any = spec.entry_point
    creator = entry if callable(entry) else load_env_creator(entry)
    modes: Any = getattr(creator, "metadata", {}).get("render_modes", ())
    options: dict[str, Any] = {"render_mode": "rgb_array"} if "rgb_array" in modes else {}
    return cast(Any, gymnasium).make(spec, disable_env_checker=True, **options)


def _safety_tasks() -> set[str]:
    """Names that Safety-Gymnasium has registered; none before it is imported."""
    package = sys.modules.get("safety_gymnasium")
    return set() if package is None else package.utils.registration.safe_registry
