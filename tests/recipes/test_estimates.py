"""The estimates of a policy against brute force: a separate backward pass for every number."""

from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from blocks import (
    LBSGD,
    Actor,
    cvar,
    estimation_errors,
    make_environment,
    mean,
    mean_plus_std,
    of_policy,
    per_state,
    stack_parameters,
    worst_case,
)
from recipes.agents import Config
from recipes.agents.components import Aggregate
from recipes.agents.estimates import Estimate, Rollouts, estimate, reach_weights
from recipes.cerl_full import CERL, ERROR_GROUPS, CERLAgent

FEAT, ACTION, MEMBERS, HORIZON, STARTS = 4, 2, 3, 3, 12
GROUPS = 4

AGGREGATES: dict[str, Aggregate] = {
    "worst case": of_policy(worst_case),
    "mean": of_policy(mean),
    "cvar": of_policy(partial(cvar, alpha=0.5)),
    "mean + std": of_policy(partial(mean_plus_std, scale=1.0)),
    "every member": of_policy(lambda costs: costs),
    "worst of each state": per_state(worst_case),
    "two constraints": lambda costs: torch.stack([costs.mean(), costs.square().mean()]),
}
every_aggregate = pytest.mark.parametrize("aggregate", AGGREGATES.values(), ids=AGGREGATES)
seeds = st.integers(0, 10_000)
few = settings(max_examples=10)


class World:
    """Members with different dynamics, a policy, and the noise of its rollouts."""

    def __init__(self, seed: int) -> None:
        torch.manual_seed(seed)
        self.actor = Actor(FEAT, ACTION, hidden_size=6).double()
        nn.init.normal_(self.actor.output.weight)
        self.by_state = torch.randn(MEMBERS, FEAT, FEAT).double()
        self.by_action = torch.randn(MEMBERS, ACTION, FEAT).double()
        self.start = torch.randn(STARTS, FEAT).double()
        self.noise = torch.randn(HORIZON, STARTS, ACTION).double()
        self.weight = reach_weights(torch.rand(MEMBERS, HORIZON, STARTS).double())

    def roll_out(self, copies: dict[str, Tensor] | None = None) -> Rollouts:
        """Act with copies of the policy's parameters, or with the policy."""
        feat = self.start.expand(MEMBERS, -1, -1)
        feats, returns, costs, log_probs = [], [], [], []
        for noise in self.noise:
            feats.append(feat)
            sample = self.actor.sample(feat, noise, weights=copies)
            feat = torch.tanh(feat @ self.by_state + sample.action @ self.by_action)
            returns.append(feat[..., 0])
            costs.append(torch.stack([feat.square().sum(-1), feat[..., 1].exp()], -1))
            log_probs.append(sample.log_prob)
        return Rollouts(
            feat=torch.stack(feats, 1),
            returns=torch.stack(returns, 1),
            cost_returns=torch.stack(costs, 1),
            weight=self.weight,
            entropy=-torch.stack(log_probs).mean(),
        )

    def gradient(self, value: Tensor) -> Tensor:
        """By the policy's parameters, flat."""
        parameters = list(self.actor.parameters())
        parts = torch.autograd.grad(value, parameters, retain_graph=True, materialize_grads=True)
        return torch.cat([part.flatten() for part in parts])

    def estimate(self, aggregate: Aggregate, *, level: float = 0.0) -> Estimate:
        copies = stack_parameters(self.actor, MEMBERS * (GROUPS if level else 1))
        rollouts = self.roll_out(copies)
        return estimate(gain_of(rollouts), rollouts, copies, aggregate, level=level)


def weighted_costs(rollouts: Rollouts) -> Tensor:
    """Of each constraint, ``[constraint, member, horizon, batch]``."""
    return (rollouts.cost_returns * rollouts.weight.unsqueeze(-1)).movedim(-1, 0)


def constrained_costs(rollouts: Rollouts, aggregate: Aggregate) -> Tensor:
    return torch.cat([aggregate(costs).reshape(-1) for costs in weighted_costs(rollouts)])


def gain_of(rollouts: Rollouts) -> Tensor:
    """Not linear in the returns, as an objective may be."""
    return rollouts.returns.exp().mean() + 0.1 * rollouts.entropy


# ---- gradients -----------------------------------------------------------------------------------


@pytest.mark.parametrize("level", [0.0, 0.9])
@few
@given(seeds)
def test_each_members_cost_and_gradient_are_those_of_a_pass_for_it(level: float, seed: int) -> None:
    world = World(seed)
    found = world.estimate(of_policy(worst_case), level=level)
    costs = weighted_costs(world.roll_out()).mean((2, 3))
    torch.testing.assert_close(found.member_costs, costs.detach())
    expected = torch.stack([world.gradient(cost) for cost in costs.flatten()])
    torch.testing.assert_close(found.member_gradients, expected.view(*costs.shape, -1))
    assert not torch.allclose(expected[0], expected[1])
    assert not torch.allclose(expected[0], expected[MEMBERS])  # of the other constraint


@pytest.mark.parametrize("level", [0.0, 0.9])
@every_aggregate
@few
@given(seeds)
def test_what_is_constrained_has_the_gradient_that_autograd_finds(
    aggregate: Aggregate, level: float, seed: int
) -> None:
    world = World(seed)
    found = world.estimate(aggregate, level=level)
    cost = constrained_costs(world.roll_out(), aggregate)
    torch.testing.assert_close(found.cost, cost.detach())
    assert not found.cost.requires_grad
    expected = torch.stack([world.gradient(value) for value in cost])
    assert expected.any()
    torch.testing.assert_close(found.cost_gradient, expected)


@pytest.mark.parametrize("level", [0.0, 0.9])
@few
@given(seeds)
def test_the_gain_has_the_gradient_that_autograd_finds(level: float, seed: int) -> None:
    world = World(seed)
    found, rollouts = world.estimate(of_policy(mean), level=level), world.roll_out()
    gain = gain_of(rollouts)
    torch.testing.assert_close(found.gain, gain.detach())
    torch.testing.assert_close(found.gain_gradient, world.gradient(gain))
    mean_return = (rollouts.returns * rollouts.weight).mean()
    torch.testing.assert_close(found.mean_return, mean_return.detach())
    torch.testing.assert_close(found.entropy, rollouts.entropy.detach())


@pytest.mark.parametrize("name", ["worst case", "every member", "worst of each state"])
def test_an_optimiser_steps_as_if_it_had_the_graph(name: str) -> None:
    aggregate, moved = AGGREGATES[name], []
    for known in (True, False):
        world = World(0)
        optimizer = LBSGD(
            world.actor.parameters(),
            eta=0.1,
            objective_smoothness=1.0,
            constraint_smoothness=1.0,
            direction="adam",
            learning_rate=0.01,
        )
        if known:
            gain, cost = world.estimate(aggregate, level=0.9).differentiable(world.actor)
        else:
            rollouts = world.roll_out()
            gain, cost = gain_of(rollouts), constrained_costs(rollouts, aggregate)
        step = optimizer.step(gain, cost, 5.0)
        assert step.feasible
        assert float(step.step_length) > 0
        moved.append(nn.utils.parameters_to_vector(world.actor.parameters()).detach())
    torch.testing.assert_close(*moved)


# ---- errors --------------------------------------------------------------------------------------


@few
@given(seeds, st.sampled_from([0.6, 0.9, 0.99]))
def test_errors_are_those_of_the_groups_of_start_states(seed: int, level: float) -> None:
    """Of the member with the largest: costs and gradients of each group by a pass for it."""
    world = World(seed)
    found = world.estimate(of_policy(worst_case), level=level)
    states = weighted_costs(world.roll_out()).mean(2).flatten(0, 1)
    costs = torch.stack([part.mean(1) for part in states.chunk(GROUPS, dim=1)])
    gradients = torch.stack([world.gradient(cost) for cost in costs.flatten()])
    errors = estimation_errors(costs.detach(), gradients.view(*costs.shape, -1), level=level)
    torch.testing.assert_close(found.slack_error, errors.slack_error.max())
    torch.testing.assert_close(found.slope_error, errors.slope_error.max())
    assert found.slack_error > 0
    assert found.slope_error > 0


def test_without_a_level_there_are_no_errors() -> None:
    found = World(0).estimate(of_policy(worst_case), level=0.0)
    assert found.slack_error.shape == found.slope_error.shape == ()
    assert found.slack_error == found.slope_error == 0


@given(seeds)
@few
def test_a_policy_whose_starts_are_all_alike_has_no_errors(seed: int) -> None:
    world = World(seed)
    world.start = world.start[:1].expand(STARTS, -1)
    world.noise = world.noise[:, :1].expand(-1, STARTS, -1)
    world.weight = world.weight.mean(2, keepdim=True).expand(-1, -1, STARTS)
    found = world.estimate(of_policy(worst_case), level=0.9)
    assert found.slack_error < 1e-12
    assert found.slope_error < 1e-12


# ---- what is watched -----------------------------------------------------------------------------


@pytest.mark.parametrize("level", [0.0, 0.9])
@pytest.mark.parametrize("name", ["worst case", "every member", "worst of each state"])
@few
@given(seeds)
def test_every_member_is_watched_where_all_are_bounded(name: str, level: float, seed: int) -> None:
    found = World(seed).estimate(AGGREGATES[name], level=level)
    allowed = torch.tensor([0.7, 0.4])
    watched = found.watched(allowed)
    assert watched is not None
    slack = allowed[:, None] - found.member_costs - found.slack_error
    torch.testing.assert_close(watched.slack, slack.flatten())
    assert torch.equal(watched.gradient, found.member_gradients.flatten(0, 1))
    limits = found.limits(allowed)  # of what is constrained
    assert limits.shape == found.cost.shape
    assert limits.tolist() == sorted(limits.tolist(), reverse=True)


@pytest.mark.parametrize("name", ["mean", "cvar"])
@few
@given(seeds)
def test_no_member_is_watched_where_one_may_exceed_what_is_bounded(name: str, seed: int) -> None:
    """It would limit the policy to a worst case that its constraint leaves out."""
    found = World(seed).estimate(AGGREGATES[name])
    assert (found.by_constraint() < found.member_costs.amax(1)).all()
    assert found.watched(torch.tensor([0.7, 0.4])) is None


@given(seeds)
def test_rounding_hides_no_member(seed: int) -> None:
    """In single precision the worst cost comes out of two sums with different roundings."""
    torch.manual_seed(seed)
    copies = {"weight": torch.ones(MEMBERS * GROUPS, 1, requires_grad=True)}
    by_start = copies["weight"].repeat_interleave(STARTS // GROUPS, 0).view(MEMBERS, 1, STARTS)
    costs = torch.rand(MEMBERS, HORIZON, STARTS) * by_start
    ones = torch.ones_like(costs)
    rollouts = Rollouts(costs, costs, costs.unsqueeze(-1), ones, costs.mean())
    found = estimate(costs.mean(), rollouts, copies, of_policy(worst_case), level=0.9)
    watched = found.watched(torch.ones(1))
    assert watched is not None
    assert len(watched.slack) == MEMBERS


# ---- in the agent --------------------------------------------------------------------------------


@pytest.mark.parametrize("level", [0.0, 0.9])
def test_the_agents_estimate_is_that_of_brute_force(
    level: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With its world model and critics: the same noise, but one pass for each member."""
    config = Config(
        smoke=True, action_repeat=10, confidence_level=level, imagination_batch_size=ERROR_GROUPS
    )
    environment = make_environment(config.task, action_repeat=config.action_repeat)
    agent = CERLAgent(config, environment, CERL())
    nn.init.normal_(agent.actor.output.weight, std=0.1)
    size = agent.replay.observations.shape[-1]
    for row in range(200):
        first = row % 50 == 0
        action = torch.rand(agent.actor.action_size) * 2 - 1
        reward, cost = (0.0 if first else float(torch.rand(())) for _ in range(2))
        agent.replay.add(
            torch.randn(size), action * (not first), reward=reward, cost=cost, is_first=first
        )
    agent.fit_posterior(1)
    weights, starts = agent.sample_posterior(), agent.sample_starts(agent.start_states())
    noise = agent.generator.get_state()
    rollouts = agent.roll_out(starts, weights, agent.actor.sample)
    agent.generator.set_state(noise)
    monkeypatch.setattr(agent.critics, "learn", lambda _: None)  # it changes the graph's weights
    found = agent.evaluate(starts, weights)
    costs = weighted_costs(rollouts).mean((2, 3))
    torch.testing.assert_close(found.member_costs, costs.detach())
    torch.testing.assert_close(found.cost, costs.amax(1).detach())
    parameters = list(agent.actor.parameters())

    def gradient(value: Tensor) -> Tensor:
        parts = torch.autograd.grad(value, parameters, retain_graph=True, materialize_grads=True)
        return torch.cat([part.flatten() for part in parts])

    for row, cost in zip(found.member_gradients[0], costs[0], strict=True):
        torch.testing.assert_close(row, gradient(cost), rtol=1e-3, atol=1e-6)
    gain = agent.objective(rollouts.returns, rollouts.entropy)  # in the updated return scale
    torch.testing.assert_close(found.gain, gain.detach())
    torch.testing.assert_close(found.gain_gradient, gradient(gain), rtol=1e-3, atol=1e-6)
    assert bool(found.slack_error > 0) == bool(found.slope_error > 0) == bool(level)
    environment.close()
