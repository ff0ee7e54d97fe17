"""Twenty updates from one seed: whatever makes them faster may not change their numbers.

`golden_trace.json` was recorded at b45a39a, before the first optimisation for speed. When the
method is meant to change, record it again: python tests/recipes/test_golden_trace.py
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._dynamo.utils import counters

from blocks import make_environment, set_threads
from recipes.agents import Config
from recipes.agents.recording import record_updates
from recipes.cerl_full import CERL, CERLAgent

GOLDEN = Path(__file__).with_name("golden_trace.json")
UPDATES, ROWS, EPISODE_LENGTH = 20, 400, 100
SIZES: dict[str, Any] = {
    "members": 3,
    "deter_size": 32,
    "stoch_size": 8,
    "hidden_size": 24,
    "batch_size": 8,
    "budget_share": 40.0,  # in budgets: with room to the constraint a step needs both gradients
    "constraint_smoothness": 1e6,  # the step-size rule binds all the same
    "free_nats": 0.0,  # the KL has a gradient
}


def trace(
    policy_updates: int = 1, *, recorded: bool = False, **settings: Any
) -> list[dict[str, float]]:
    """Losses and policy metrics of twenty updates on a random walk with costs."""
    config = Config(smoke=True, **SIZES | settings)
    reward_unit = config.model.reward_unit
    environment = make_environment(config.task, seed=0, action_repeat=config.action_repeat)
    agent = CERLAgent(config, environment, CERL())
    if recorded:
        record_updates(agent)
    observation, source = torch.zeros(17), torch.Generator().manual_seed(1)
    for row in range(ROWS):
        first = row % EPISODE_LENGTH == 0
        action = torch.rand(6, generator=source) * (0.0 if first else 1.0)
        observation = 0.9 * observation + 0.5 * torch.randn(17, generator=source)
        agent.replay.add(
            observation,
            action,
            reward=0.0 if first else reward_unit * float(action.mean()),
            cost=0.0 if first else float(observation[0] > 1),
            is_first=first,
        )
    return [agent.fit_posterior(1) | agent.improve_policy(policy_updates) for _ in range(UPDATES)]


def agree_with_golden(updates: list[dict[str, float]]) -> None:
    golden = json.loads(GOLDEN.read_text())
    assert len(golden) == UPDATES
    assert all(update["feasible"] and update["step_size"] < 1 for update in golden)
    for update, (expected, actual) in enumerate(zip(golden, updates, strict=True)):
        for name, value in expected.items():
            assert actual[name] == pytest.approx(value, rel=1e-4, abs=1e-4), (update, name)


def test_the_losses_are_those_from_before_any_optimisation() -> None:
    agree_with_golden(trace())


def test_a_policy_step_takes_recorded_gradients_as_its_own() -> None:
    """On the CPU the function that a GPU would record is called instead."""
    assert trace(2, recorded=True) == trace(2)


@pytest.mark.gpu
def test_recorded_updates_are_those_that_were_not() -> None:
    """The noise is a GPU's, so the golden trace is not the one to compare with."""
    recorded = trace(2, device="cuda")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("blocks.acceleration.cuda_graph.EAGER_CALLS", 1000)
        eager = trace(2, device="cuda")
    for update, (expected, actual) in enumerate(zip(eager, recorded, strict=True)):
        for name, value in expected.items():
            assert actual[name] == pytest.approx(value, rel=1e-3, abs=1e-3), (update, name)


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile calls g++, or CXX")
def test_compiled_updates_agree_on_two_threads() -> None:
    # In a separate process: torch cannot compile what jaxtyping checks.
    command = [sys.executable, __file__, "--compiled"]
    environment = os.environ | {"TORCHINDUCTOR_COMPILE_THREADS": "1"}  # other tests run beside
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    compiled = json.loads(ended.stdout)
    agree_with_golden(compiled["updates"])
    assert compiled["graphs"] >= 5  # encoder, decoder, policy, a step of filter and of transition


def test_two_threads_compute_the_same_to_the_bit() -> None:
    alone = trace(policy_updates=3)  # the critics of one learn beside the next
    set_threads(2)
    try:
        assert trace(policy_updates=3) == alone
    finally:
        set_threads(1)


def test_rewards_and_their_unit_may_be_scaled_together() -> None:
    """By a power of two to the bit: the model, the critics and the step know no other size."""
    unit = 1 / 64
    for ours, theirs in zip(trace(reward_unit=unit), trace(), strict=True):
        assert ours.pop("objective") == unit * theirs.pop("objective")
        assert ours == theirs


if __name__ == "__main__":
    torch.set_num_threads(1)
    if "--compiled" in sys.argv:
        set_threads(2)
        updates = trace(compile=True)
        print(json.dumps({"updates": updates, "graphs": counters["stats"]["unique_graphs"]}))
    else:
        GOLDEN.write_text(json.dumps(trace(), indent=1) + "\n")
        print(f"written to {GOLDEN}")
