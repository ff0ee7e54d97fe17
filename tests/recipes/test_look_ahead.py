"""The check of a new policy before it acts."""

from typing import Any

import pytest
import torch

from blocks import make_environment
from recipes.agents import Config
from recipes.cerl_full import CERL, CERLAgent


def filled_agent(**settings: Any) -> CERLAgent:
    """Build an agent with random rows in its replay."""
    config = Config(smoke=True, action_repeat=10, **settings)
    environment = make_environment(config.task, action_repeat=config.action_repeat)
    agent = CERLAgent(config, environment, CERL())
    size = agent.replay.observations.shape[-1]
    for row in range(200):
        first = row % 50 == 0
        action = torch.rand(agent.actor.action_size) * 2 - 1
        agent.replay.add(
            torch.randn(size), action * (not first), reward=0.0, cost=0.0, is_first=first
        )
    return agent


def ahead(agent: CERLAgent, monkeypatch: pytest.MonkeyPatch, *costs: float) -> dict[str, float]:
    """Improve the policy where its cost ahead is as given: of the old one, then of each attempt."""
    given = iter(costs)
    monkeypatch.setattr(agent, "costs_ahead", lambda starts, weights: torch.tensor([next(given)]))
    metrics = agent.improve_policy(3)
    assert next(given, None) is None
    return metrics


def test_a_policy_that_costs_more_ahead_is_taken_back(monkeypatch: pytest.MonkeyPatch) -> None:
    agent = filled_agent()
    before = [x.detach().clone() for x in agent.actor.parameters()]
    metrics = ahead(agent, monkeypatch, 0.2, 3.0, 0.9, 0.3)
    assert metrics["cost_ahead_before"] == pytest.approx(0.2)
    assert metrics["cost_ahead"] == 3.0
    assert metrics["step_kept"] == 0.25  # 0.3 is below the share of 0.4 that is allowed
    now = agent.actor.parameters()
    assert not all(torch.equal(x, y) for x, y in zip(now, before, strict=True))


def test_it_may_cost_what_the_old_one_does(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ahead(filled_agent(), monkeypatch, 3.0, 2.9)["step_kept"] == 1.0


def test_the_old_policy_acts_again_if_every_share_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    agent = filled_agent()
    before = [x.detach().clone() for x in agent.actor.parameters()]
    assert ahead(agent, monkeypatch, 0.1, 9.0, 9.0, 9.0, 9.0)["step_kept"] == 0.0
    assert all(torch.equal(x, y) for x, y in zip(agent.actor.parameters(), before, strict=True))


def test_without_a_horizon_nothing_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: what the check would take back is kept, and no metric claims a check."""
    agent = filled_agent(check_horizon=0)
    before = [x.detach().clone() for x in agent.actor.parameters()]
    metrics = agent.improve_policy(3)
    assert "step_kept" not in metrics
    now = agent.actor.parameters()
    assert not all(torch.equal(x, y) for x, y in zip(now, before, strict=True))


def test_the_cost_ahead_is_that_of_the_worst_member_late_in_a_longer_rollout() -> None:
    """By hand, for cost heads that know only the time: cost grows with each imagined step."""
    agent = filled_agent()
    agent.fit_posterior(1)
    weights, starts = agent.sample_posterior(), agent.start_states()
    rates = torch.tensor([1.0, 3.0]).view(-1, 1, 1, 1)  # of the two members, in budgets
    seen: list[torch.Size] = []

    def cost(feat: torch.Tensor, _: object) -> torch.Tensor:
        seen.append(feat.shape)
        return agent.cost_rates * rates.expand(*feat.shape[:-1], 1)

    agent.model.cost = cost  # pyright: ignore[reportAttributeAccessIssue]
    noise = agent.generator.get_state()
    assert agent.costs_ahead(starts, weights).tolist() == pytest.approx([3.0])
    horizon = agent.config.policy.check_horizon
    assert seen[0][:3] == (2, horizon // 2, 64)
    assert torch.equal(agent.generator.get_state(), noise)  # takes no noise from the agent
