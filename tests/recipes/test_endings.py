"""Episodes that end: what is learned of them, and what it changes in returns, costs and states."""

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from blocks import Transitions, lambda_returns
from recipes.agents import Config
from recipes.agents.estimates import reach_weights
from recipes.agents.latent_agent import BURN_IN
from recipes.cerl_full import CERL, CERLAgent

LAST, EPISODES = 5, 100
VALUES = torch.tensor([4.90, 3.94, 2.97, 1.99, 1.00])  # of states 0 to 4, discounted by 0.99
CONFIG: dict[str, Any] = {
    "action_repeat": 1,
    "reward_unit": 1.0,
    "deter_size": 32,
    "stoch_size": 8,
    "hidden_size": 32,
    "members": 2,
    "batch_size": 16,
    "horizon": 8,
    "imagination_batch_size": 32,
    "model_learning_rate": 3e-3,
    "noise_learning_rate": 3e-3,
}


class Row:
    """States 0 to 5 in a row, one-hot: each step goes one on, pays 1 and costs 1; 5 is the end."""

    observation_space = Box(0.0, 1.0, (LAST + 1,), np.float32)
    action_space = Box(-1.0, 1.0, (1,), np.float32)
    episode_length, action_repeat, episode_index = 1000, 1, 0

    def reset(self, **_: Any) -> tuple[NDArray[np.float32], dict[str, Any]]:
        self.place = 0
        return np.eye(LAST + 1, dtype=np.float32)[0], {}

    def step(
        self, action: NDArray[Any]
    ) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        self.place += 1
        observation = np.eye(LAST + 1, dtype=np.float32)[self.place]
        return observation, 1.0, self.place == LAST, False, {"cost": 1.0, "inner_steps": 1}

    def render(self) -> NDArray[np.uint8]:
        raise RuntimeError("nothing to draw")

    def close(self) -> None: ...


def trained(*, terminated: bool, updates: int) -> CERLAgent:
    """Fit model and critics to episodes whose last row is terminal, or not marked as such."""
    agent = CERLAgent(Config(smoke=True, **CONFIG), Row(), CERL())
    environment, source = Row(), np.random.default_rng(0)
    for _ in range(EPISODES):
        observation, _ = environment.reset()
        none = np.zeros(1, np.float32)
        agent.remember(observation, none, reward=0.0, cost=0.0, is_first=True)
        over = False
        while not over:
            action = source.uniform(-1, 1, 1)
            observation, reward, over, _, info = environment.step(action)
            agent.remember(
                observation,
                action,
                reward=reward,
                cost=info["cost"],
                is_first=False,
                terminated=over and terminated,
            )
    agent.fit_posterior(updates)
    agent.fit_critics(2 * updates)
    return agent


def values(agent: CERLAgent) -> tuple[Tensor, Tensor]:
    """Values of reward and cost in states 0 to 4, averaged over members."""
    state = agent.model.filter(agent.replay.newest_episode(), torch.Generator()).state
    feat = state.feat[:, :LAST].expand(agent.model.members, -1, -1)
    with torch.no_grad():
        agent.critics.state_dict()  # waits for the last update
        cost = agent.critics.cost(feat)[..., 0] * agent.budgets  # it is in budgets
        return agent.critics.reward(feat).mean(0), cost.mean(0)


def test_critics_know_that_the_episode_ends() -> None:
    agent = trained(terminated=True, updates=400)
    newest = agent.replay.newest_episode()
    feat = agent.model.filter(newest, torch.Generator()).state.feat[0]
    cont = agent.model.cont(feat)
    assert cont[:LAST].min() > 0.95
    assert cont[LAST] < 0.05
    for value in values(agent):
        torch.testing.assert_close(value, VALUES, rtol=0.05, atol=0.05)


def test_critics_go_on_for_ever_where_a_limit_cut_the_episode_off() -> None:
    """The control: without the mark the same data promise more than comes."""
    agent = trained(terminated=False, updates=150)
    assert torch.equal(
        agent.model.cont(torch.randn(4, agent.config.model.feat_size)), torch.ones(4)
    )
    for value in values(agent):
        assert value[-1] > 3 * VALUES[-1]


def test_nothing_starts_where_an_episode_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    agent = CERLAgent(Config(smoke=True, **CONFIG), Row(), CERL())
    for row in range(200):  # episodes of four rows; only the last of each is terminal
        first, last = row % 4 == 0, row % 4 == 3
        agent.remember(
            np.zeros(LAST + 1),
            np.zeros(1),
            reward=0.0,
            cost=0.0,
            is_first=first,
            terminated=last,
        )
    drawn: list[Transitions] = []
    sample = agent.replay.sample

    def kept(*arguments: Any, **options: Any) -> Transitions:
        drawn.append(sample(*arguments, **options))
        return drawn[-1]

    monkeypatch.setattr(agent.replay, "sample", kept)
    starts = agent.start_states()
    data = drawn[0]
    known = data.is_first.cumsum(1) > 0
    known[:, BURN_IN:] = True
    assert len(starts.deter) == int((known & ~data.terminated).sum())
    assert (known & data.terminated).any()


def test_the_newest_cost_is_that_of_all_episodes_of_the_iterate() -> None:
    """Of two episodes of 3 steps that cost 6 each, one terminated, one cut off; 1000 cost 25."""
    agent = CERLAgent(Config(smoke=True, **CONFIG), Row(), CERL())
    for terminated in (False, True):
        agent.iterate_row = 0
        for step in range(4):
            agent.remember(
                np.zeros(LAST + 1),
                np.zeros(1),
                reward=0.0,
                cost=2.0 * (step > 0),
                is_first=step == 0,
                terminated=terminated and step == 3,
            )
    assert agent.newest_costs() == pytest.approx([12 / (25 + 3 * 0.025)])
    agent.iterate_row = 4
    assert agent.newest_costs() == pytest.approx([6 / 25])


@given(st.integers(0, 10_000), st.integers(1, 6))
def test_returns_with_certain_ends_are_sums_up_to_them(seed: int, horizon: int) -> None:
    """What the weights and the discount of CERL make of a rollout, against a sum by hand."""
    source = torch.Generator().manual_seed(seed)
    rewards = torch.rand(horizon, generator=source, dtype=torch.float64)
    values = torch.rand(horizon + 1, generator=source, dtype=torch.float64)
    cont = (torch.rand(horizon, generator=source) < 0.7).double()
    returns = lambda_returns(rewards, values, discount=0.9 * cont, lambda_=1.0)
    weights = reach_weights(cont.view(1, -1, 1)).flatten()
    alive, total, factor = True, 0.0, 1.0
    for step in range(horizon):
        assert (weights[step] > 0) == alive
        if alive:
            total += factor * float(rewards[step])
        factor *= 0.9
        alive = alive and bool(cont[step])
    total += factor * float(values[-1]) if alive else 0.0
    assert float(returns[0]) == pytest.approx(total)
    assert float(weights.mean()) == pytest.approx(1.0)
