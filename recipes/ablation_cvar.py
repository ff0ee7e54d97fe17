"""CERL with softer pessimism: the mean of the worst members (CVaR) in place of the single worst.

At `--cvar-alpha 1` this is the mean, up to 1 / members the worst case. Unlike a quantile, it
averages all members beyond its level, so each of them contributes to the gradient.
"""

from dataclasses import dataclass
from functools import partial

from blocks import Environment, cvar, of_policy
from recipes import agents
from recipes.cerl_full import CERL
from recipes.training import run


@dataclass(frozen=True, kw_only=True, init=False)
class Config(agents.Config):
    """CERL's settings, and the fraction of the members in the mean."""

    cvar_alpha: float = 0.4
    """Fraction of the members in the mean, in (0, 1]: two of five."""


def agent(config: Config, environment: Environment) -> agents.Agent:
    aggregate = of_policy(partial(cvar, alpha=config.cvar_alpha))
    return CERL(aggregate=aggregate)(config, environment)


if __name__ == "__main__":
    run("ablation_cvar", agent, Config)
