"""CERL with a barrier for each member in place of one for the worst, as in SBSRL.

Every member's slack pushes, not the smallest alone (As et al. 2026, arXiv 2605.19469). With
`--disagreement-limit` the members' disagreement is constrained too: the policy goes only where they
agree about its cost.
"""

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from blocks import Environment, of_policy
from recipes import agents
from recipes.cerl_full import CERL
from recipes.training import run


@dataclass(frozen=True, kw_only=True, init=False)
class Config(agents.Config):
    """CERL's settings, and a limit to disagreement."""

    disagreement_limit: float = 0.0
    """Largest standard deviation of the members' cost returns, in units of the allowed cost; 0: no
    such constraint."""


def every_member(costs: Tensor, disagreement_limit: float) -> Tensor:
    """Return each member's cost ``[member]``, and with a limit their deviation as a share of it."""
    if not disagreement_limit:
        return costs
    deviation = costs.std(0, correction=0) / disagreement_limit
    return torch.cat([costs, deviation[None]])


def agent(config: Config, environment: Environment) -> agents.Agent:
    aggregate = of_policy(partial(every_member, disagreement_limit=config.disagreement_limit))
    return CERL(aggregate=aggregate)(config, environment)


if __name__ == "__main__":
    run("ablation_member_barriers", agent, Config)
