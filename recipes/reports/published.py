"""Read the published figures in `published.toml`, and normalise by those of unconstrained PPO."""

import tomllib
from pathlib import Path

_CONTENT = tomllib.loads(Path(__file__).with_name("published.toml").read_text())
METHODS: dict[str, dict[str, dict[str, float]]] = {
    method["name"]: method["tasks"] for method in _CONTENT["methods"]
}
"""By method and task: `return` and `cost`, undiscounted per episode, after training."""
UNCONSTRAINED_PPO = METHODS[_CONTENT["reference"]]


def normalised(
    task: str, episode_return: float, episode_cost: float, episode_budget: float
) -> tuple[float, float] | None:
    """Return, and cost beyond the budget, over unconstrained PPO's, as in the Safety Gym paper.

    None if PPO's figures are unknown, or if PPO keeps the budget too.
    """
    ppo = UNCONSTRAINED_PPO.get(task)
    if ppo is None or ppo["cost"] <= episode_budget:
        return None
    excess = max(0.0, episode_cost - episode_budget) / (ppo["cost"] - episode_budget)
    return episode_return / ppo["return"], excess
