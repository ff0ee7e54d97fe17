"""A user's own task: a walk on a line with two costs, a flag, noise and an end."""

from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box


class Walk(gymnasium.Env):
    """Starts near 0 and ends beyond ``end``; it costs to be on the left and to push hard."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 20}  # noqa: RUF012
    action_space = Box(-2.0, 2.0, (1,), np.float32)

    def __init__(self, end: float = np.inf, render_mode: str | None = None) -> None:
        self.observation_space = Box(-np.inf, np.inf, (2,), np.float64)
        self.end = end
        self.render_mode = render_mode
        self.x = self.steps = 0.0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.x, self.steps = float(self.np_random.normal()), 0
        return np.array((self.x, self.steps)), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        push = float(action[0])
        self.x += push + 0.1 * float(self.np_random.normal())
        self.steps += 1
        info = {
            "x": self.x,
            "cost": float(self.x < 0),
            "cost_left": float(self.x < 0),
            "cost_push": abs(push),
            "cost_count": np.array((1, 2)),
            "hard": abs(push) > 1.5,
        }
        return np.array((self.x, self.steps)), push, abs(self.x) > self.end, False, info

    def render(self) -> np.ndarray:
        return np.full((8, 8, 3), int(self.steps), np.uint8)


class SixValues(Walk):
    """As Safety-Gymnasium's tasks: ``step`` returns the cost in third place."""

    def step(self, action: np.ndarray) -> Any:
        observation, reward, terminated, truncated, info = super().step(action)
        return observation, reward, 7 * info.pop("cost"), terminated, truncated, info
