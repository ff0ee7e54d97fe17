"""Import OmniSafe and count every environment step of its training."""

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from blocks.environments.compatibility import import_safety_gymnasium

INSTALL_HINT = (
    "pip install -e '.[environments,recipes,model-free]' and pip install --no-deps "
    "safety-gymnasium==1.0.0 gymnasium-robotics==1.2.2 omnisafe==0.5.0, or make model-free"
)
OnEpisode = Callable[[float, float, int], None]
"""Receives return, cost and environment steps at the end of an episode."""


def import_omnisafe() -> ModuleType:
    """Import OmniSafe on a Safety-Gymnasium patched for this version of Python.

    Raises:
        RuntimeError: a package is missing; the message says what to install.
    """
    import_safety_gymnasium()
    try:
        return importlib.import_module("omnisafe")
    except ModuleNotFoundError as error:
        raise RuntimeError(f"{error}: {INSTALL_HINT}") from error


@contextmanager
def counted(omnisafe: ModuleType, on_episode: OnEpisode, seed: int) -> Iterator[None]:
    """Make every environment that OmniSafe creates report its episodes.

    Args:
        omnisafe: the package.
        on_episode: called for each episode, also for one that a reset cuts short.
        seed: initial seed of each environment; OmniSafe may set another.
    """
    registry = omnisafe.envs.core.ENV_REGISTRY
    stock: Any = omnisafe.envs.safety_gymnasium_env.SafetyGymnasiumEnv

    class CountedEnvironment(stock):
        """Sums the simulator's rewards and costs, before OmniSafe's wrappers change them."""

        def __init__(self, *arguments: Any, **options: Any) -> None:
            self.sums: tuple[float, float, int] = (0.0, 0.0, 0)
            super().__init__(*arguments, **options)
            self.set_seed(seed)

        def step(self, action: Any) -> Any:
            result = super().step(action)
            _, reward, cost, terminated, truncated, _ = result
            total, total_cost, steps = self.sums
            self.sums = (total + float(reward), total_cost + float(cost), steps + 1)
            if terminated or truncated:
                self._report()
            return result

        def reset(self, *arguments: Any, **options: Any) -> Any:
            self._report()
            return super().reset(*arguments, **options)

        def close(self) -> None:
            self._report()
            super().close()

        def _report(self) -> None:
            if self.sums[2]:
                on_episode(*self.sums)
            self.sums = (0.0, 0.0, 0)

    registry.unregister(stock)
    registry.register(CountedEnvironment)
    try:
        yield
    finally:
        registry.unregister(CountedEnvironment)
        registry.register(stock)
