"""The main job trains, and resumes to the last digit, with each family of the posterior."""

import copy
import math
from typing import cast

import pytest
import torch
from cerl_config import SMOKE, Config
from cerl_full import CERL, Blocks
from episode import run_episode

from blocks import make_environment
from blocks.ensemble_posterior import FAMILIES, Family
from blocks.environments import SafetyEnvironment


def agent(family: Family) -> tuple[CERL, SafetyEnvironment]:
    config = Config(**(SMOKE | {"members": 3}))
    environment = make_environment(config.task, seed=0, action_repeat=config.action_repeat)
    return CERL(config, environment, Blocks(family=family)), environment


@pytest.mark.parametrize("family", FAMILIES)
def test_cerl_trains_and_resumes_with_each_family(family: str) -> None:
    one, environment = agent(cast(Family, family))
    run_episode(one, environment, None, 0.5)
    before = {k: v.clone() for k, v in one.model.parameter_posterior.state_dict().items()}
    assert all(math.isfinite(value) for value in one.begin().values())
    after = one.model.parameter_posterior.state_dict()
    changed = {
        name.partition(".")[0] for name in after if not torch.equal(after[name], before[name])
    }
    assert changed == {"_offsets"}
    other, _ = agent(cast(Family, family))
    other.load_state_dict(copy.deepcopy(one.state_dict()))  # a checkpoint shares nothing
    assert other.learn(0.5) == one.learn(0.5)
