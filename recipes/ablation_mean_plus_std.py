"""CERL with adjustable pessimism: mean + scale * standard deviation over members.

At 0 this is the mean; below 0 it is optimistic about costs. None of five members is more than two
deviations above their mean, so `--std-scale 2` is at least as pessimistic as the worst member.
ActSafe's bound (As et al. 2024) has this form at each step.
"""

from dataclasses import dataclass
from functools import partial

from blocks import Environment, mean_plus_std, of_policy
from recipes import agents
from recipes.cerl_full import CERL
from recipes.training import run


@dataclass(frozen=True, kw_only=True, init=False)
class Config(agents.Config):
    """CERL's settings, and the scale of the deviation."""

    std_scale: float = 1.0
    """Standard deviations above the mean."""


def agent(config: Config, environment: Environment) -> agents.Agent:
    aggregate = of_policy(partial(mean_plus_std, scale=config.std_scale))
    return CERL(aggregate=aggregate)(config, environment)


if __name__ == "__main__":
    run("ablation_mean_plus_std", agent, Config)
