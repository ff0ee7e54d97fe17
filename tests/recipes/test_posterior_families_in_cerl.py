"""The main job trains, and resumes to the last digit, with each family of the posterior."""

import copy
import math

import pytest
import torch

from blocks import MeanField, Particles, Point, Stein, make_environment
from blocks.environments.safety_gymnasium import SafetyEnvironment
from blocks.posteriors.ensemble import MakeFamily
from recipes.agents import Config
from recipes.cerl_full import CERL, CERLAgent
from recipes.training.episode import run_episode


def agent(family: MakeFamily) -> tuple[CERLAgent, SafetyEnvironment]:
    config = Config(smoke=True, members=3)
    environment = make_environment(config.task, seed=0, action_repeat=config.action_repeat)
    return CERLAgent(config, environment, CERL(posterior=family)), environment


@pytest.mark.parametrize("family", [Particles, Stein, MeanField, Point])
def test_cerl_trains_and_resumes_with_each_family(family: MakeFamily) -> None:
    one, environment = agent(family)
    run_episode(one, environment, 0.5)
    before = {k: v.clone() for k, v in one.model.parameter_posterior.state_dict().items()}
    assert all(math.isfinite(value) for value in one.begin().values())
    after = one.model.parameter_posterior.state_dict()
    changed = {
        name.partition(".")[0] for name in after if not torch.equal(after[name], before[name])
    }
    assert changed == {"_offsets"}
    other, _ = agent(family)
    other.load_state_dict(copy.deepcopy(one.state_dict()))  # a checkpoint shares nothing
    assert other.learn(0.5) == one.learn(0.5)
