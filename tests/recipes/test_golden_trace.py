"""Twenty updates from one seed: whatever makes them faster may not change their numbers.

`golden_trace.json` was recorded at b45a39a, before the first optimisation for speed. When the
method is meant to change, record it again: python tests/recipes/test_golden_trace.py
"""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

RECIPES = Path(__file__).parents[2] / "recipes"
sys.path.insert(0, str(RECIPES))

from cerl_config import SMOKE, Config  # noqa: E402
from cerl_full import CERL  # noqa: E402

from blocks import make_environment, set_threads  # noqa: E402

GOLDEN = Path(__file__).with_name("golden_trace.json")
UPDATES, ROWS, EPISODE_LENGTH = 20, 400, 100
SIZES: dict[str, Any] = {
    "members": 3,
    "deter": 32,
    "stoch": 8,
    "hidden": 24,
    "batch_size": 8,
    "budget_share": 40.0,  # in budgets: with room to the constraint a step needs both gradients
    "constraint_smoothness": 1e6,  # the step-size rule binds all the same
    "free_nats": 0.0,  # the KL has a gradient
}


def trace(policy_updates: int = 1) -> list[dict[str, float]]:
    """Losses and policy metrics of twenty updates on a random walk with costs."""
    config = Config(**SMOKE | SIZES)
    agent = CERL(config, make_environment(config.task, seed=0, action_repeat=config.action_repeat))
    observation, source = torch.zeros(17), torch.Generator().manual_seed(1)
    for row in range(ROWS):
        first = row % EPISODE_LENGTH == 0
        action = torch.rand(6, generator=source) * (0.0 if first else 1.0)
        observation = 0.9 * observation + 0.5 * torch.randn(17, generator=source)
        agent.replay.add(
            observation,
            action,
            reward=0.0 if first else float(action.mean()),
            cost=0.0 if first else float(observation[0] > 1),
            is_first=first,
        )
    return [agent.learn_model(1) | agent.learn_policy(policy_updates) for _ in range(UPDATES)]


def test_the_losses_are_those_from_before_any_optimisation() -> None:
    golden = json.loads(GOLDEN.read_text())
    assert len(golden) == UPDATES
    assert all(update["feasible"] and update["step_size"] < 1 for update in golden)
    for update, (expected, actual) in enumerate(zip(golden, trace(), strict=True)):
        for name, value in expected.items():
            assert actual[name] == pytest.approx(value, rel=1e-4, abs=1e-4), (update, name)


def test_two_threads_compute_the_same_to_the_bit() -> None:
    alone = trace(policy_updates=3)  # the critics of one learn beside the next
    set_threads(2)
    try:
        assert trace(policy_updates=3) == alone
    finally:
        set_threads(1)


if __name__ == "__main__":
    torch.set_num_threads(1)
    GOLDEN.write_text(json.dumps(trace(), indent=1) + "\n")
    print(f"written to {GOLDEN}")
