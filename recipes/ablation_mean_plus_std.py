"""CERL with a dial from optimism to pessimism: mean + scale * standard deviation over members.

At 0 this is the mean; the larger, the more pessimistic; below 0 it is optimistic about costs. No
member of five lies more than two deviations above their mean, so from `--std-scale 2` on it is
never milder than the worst one. (The shape of ActSafe's bound, As et al. 2024, which has it for
each step.)

python recipes/ablation_mean_plus_std.py --seed 0
"""

from dataclasses import dataclass
from functools import partial

from blocks import Environment, mean_plus_std, of_policy
from recipes import agents
from recipes.cerl_full import CERL
from recipes.training import run


@dataclass(frozen=True, kw_only=True, init=False)
class Config(agents.Config):
    """CERL's settings, and how pessimistic to be."""

    std_scale: float = 1.0
    """Standard deviations above the mean."""


def agent(config: Config, environment: Environment) -> agents.Agent:
    """CERL with the mean and so many standard deviations."""
    aggregate = of_policy(partial(mean_plus_std, scale=config.std_scale))
    return CERL(aggregate=aggregate)(config, environment)


if __name__ == "__main__":
    run("ablation_mean_plus_std", agent, Config)
