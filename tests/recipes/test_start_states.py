"""Where imagination starts: in what the newest policies saw, and in as much else as is set."""

import pytest
import torch

from blocks import Transitions, make_environment
from recipes.agents import Config
from recipes.cerl_full import CERL, CERLAgent

EPISODES, LENGTH = 8, 60


def sampled_rows(monkeypatch: pytest.MonkeyPatch, **settings: float) -> torch.Tensor:
    """First rows of the sequences whose states an agent would start from, over many draws."""
    config = Config(smoke=True, **settings)
    with make_environment(config.task, action_repeat=config.action_repeat) as environment:
        agent = CERLAgent(config, environment, CERL())
    agent.episode_rows = LENGTH  # of a whole episode
    for row in range(EPISODES * LENGTH):
        observation = torch.full((17,), row / LENGTH)
        first = row % LENGTH == 0
        agent.replay.add(observation, torch.zeros(6), reward=0.0, cost=0.0, is_first=first)
    rows: list[torch.Tensor] = []
    sample = agent.replay.sample

    def spy(*arguments: int, **fractions: float) -> Transitions:
        data = sample(*arguments, **fractions)
        rows.append(data.row[:, 0])
        return data

    monkeypatch.setattr(agent.replay, "sample", spy)
    for _ in range(20):
        agent.start_states()
    return torch.cat(rows)


def test_without_a_share_of_the_replay_all_are_from_the_newest_episodes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = sampled_rows(monkeypatch, start_episodes=2, start_replay_share=0.0)
    newest = (EPISODES - 2) * LENGTH
    assert rows.min() == newest
    assert (rows[rows % LENGTH != 0] > newest).any()  # not their beginnings alone


def test_the_share_of_the_replay_is_from_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = sampled_rows(monkeypatch, start_episodes=1, start_replay_share=0.5)
    older = (rows < (EPISODES - 1) * LENGTH).double().mean()
    # Half of them are drawn from everywhere, of which the newest episode is an eighth.
    assert float(older) == pytest.approx(0.5 * 7 / 8, abs=0.06)
    assert rows.min() < LENGTH
