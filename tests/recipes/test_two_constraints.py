"""Several costs with different budgets, from the environment to the optimiser."""

import json
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box

from blocks import constrained
from blocks.environments.episodes import ConstrainedEnvironment
from recipes.agents import Config
from recipes.agents.budgets import cost_source, episode_budgets
from recipes.cerl_full import CERL, CERLAgent
from recipes.evaluations import evaluate
from recipes.training import train

NAMES = ("left", "right")


class Sides(gymnasium.Env):
    """A point on a line; where it is pushed to costs, on each side another cost."""

    observation_space = Box(-np.inf, np.inf, (1,), np.float64)
    action_space = Box(-1.0, 1.0, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.x = 0.3 * float(self.np_random.normal())
        return np.array([self.x]), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.x += 0.3 * float(action[0])
        info = {"cost_left": max(0.0, -self.x), "cost_right": max(0.0, self.x)}
        return np.array([self.x]), float(action[0]), False, False, info


def sides(seed: int = 0) -> ConstrainedEnvironment:
    costs = {name: f"cost_{name}" for name in NAMES}
    return constrained(Sides(), costs, episode_length=100, action_repeat=2, seed=seed)


def agent_with_costs(**settings: Any) -> CERLAgent:
    """Build an agent whose replay holds random rows with both costs."""
    config = Config(smoke=True, action_repeat=2, **settings)
    agent = CERLAgent(config, sides(), CERL())
    source = np.random.default_rng(0)
    for row in range(200):
        first = row % 50 == 0
        x = source.normal()
        agent.remember(
            np.array([x], np.float32),
            source.uniform(-1, 1, 1) * (not first),
            reward=0.0,
            cost=np.array([max(0.0, -x), max(0.0, x)]) * (not first),
            is_first=first,
        )
    return agent


def test_each_cost_meets_its_own_budget_on_the_way_to_the_optimiser() -> None:
    agent = agent_with_costs(budgets=("left=10", "right=40"))
    assert agent.episode_budgets == (10.0, 40.0)
    torch.testing.assert_close(agent.budgets[1], 4 * agent.budgets[0])
    agent.fit_posterior(2)
    found = agent.evaluate(agent.sample_starts(agent.start_states()), agent.sample_posterior())
    assert found.member_costs.shape == (2, agent.model.members)
    assert found.cost.shape == (2,)
    step = agent.step(found, agent.allowed())
    torch.testing.assert_close(step.slack, agent.allowed() - found.cost)


def test_a_tighter_budget_moves_the_cost_returns_of_its_cost_alone() -> None:
    """In units of the budgets, for the same model, policy and noise."""
    loose = agent_with_costs(budgets=("left=10", "right=40"))
    loose.fit_posterior(2)
    weights, starts = loose.sample_posterior(), loose.sample_starts(loose.start_states())
    tight = agent_with_costs(budgets=("left=5", "right=40"))
    tight.model.load_state_dict(loose.model.state_dict())
    found: list[torch.Tensor] = []
    for agent in (loose, tight):
        agent.generator.manual_seed(0)
        found.append(agent.roll_out(starts, weights, loose.actor.sample).cost_returns)
    torch.testing.assert_close(found[1][..., 0], 2 * found[0][..., 0])
    torch.testing.assert_close(found[1][..., 1], found[0][..., 1])


def test_margins_learn_apart() -> None:
    agent = agent_with_costs()
    agent.predicted_costs = [0.1, 0.1]
    agent.newest_costs = lambda: [5.0, 0.0]  # pyright: ignore[reportAttributeAccessIssue]
    before = agent.allowed()
    agent.move_margin()
    after = agent.allowed()
    assert after[0] < before[0]  # a miss
    assert after[1] > before[1]


def test_a_run_records_each_cost_and_resumes(tmp_path: Path) -> None:
    config = Config(
        smoke=True, action_repeat=2, steps=1200, budgets=("right=3", "left=2"), guard_share=0.5
    )
    run = train(CERL(), config, environment=sides, out=tmp_path / "run")
    rows = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    episodes = [row for row in rows if row["kind"] == "episode"]
    for row in episodes:
        total = row["episode_cost_left"] + row["episode_cost_right"]
        assert row["episode_cost"] == pytest.approx(total)
    over = {
        row["iterate"]
        for row in episodes
        if row["episode_cost_left"] > 2 or row["episode_cost_right"] > 3
    }
    assert run["episode_violations"] >= len(over) > 0  # the first policies drift
    assert run["budgets"] == {"left": 2.0, "right": 3.0}
    assert run["final_cost_by_name"].keys() == set(NAMES)
    evaluated = evaluate(run, CERL(), sides)
    assert evaluated["episode_budget"] == 5.0  # of both, as its costs are sums
    assert evaluated["costs"] == pytest.approx(run["final_costs"])
    update = next(row for row in rows if row["kind"] == "update")
    assert update["cost_worst"] == pytest.approx(
        max(update["cost_worst_left"], update["cost_worst_right"]), rel=0.2
    )


@pytest.mark.parametrize(
    ("budgets", "message"),
    [
        (("left=2", "up=3"), "budgets: got left, up; allowed one for each of the task's costs"),
        (("1", "2", "3"), "budgets: got 3 numbers; allowed 2"),
    ],
)
def test_budgets_of_other_costs_are_refused(budgets: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        episode_budgets(Config(budgets=budgets), sides())


@pytest.mark.parametrize("budgets", [("left=0",), ("left=x",), ("a=1", "a=2"), ("a=1", "2")])
def test_budgets_that_are_none_are_refused(budgets: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="budgets: got"):
        Config(budgets=budgets)


def test_budgets_by_name_and_in_order() -> None:
    assert episode_budgets(Config(budgets=("right=3", "left=2")), sides()) == (2.0, 3.0)
    assert episode_budgets(Config(budgets=("2", "3")), sides()) == (2.0, 3.0)
    assert episode_budgets(Config(episode_budget=7.0), sides()) == (7.0, 7.0)
    source = cost_source(Config(budgets=("hazards=25", "cost_sum=9")))
    assert source == {"hazards": "cost_hazards", "cost_sum": "cost_sum"}
