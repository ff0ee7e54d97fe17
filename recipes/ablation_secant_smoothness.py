"""CERL that estimates its cost return's smoothness from the gradients it meets.

python recipes/ablation_secant_smoothness.py --seed 0
"""

from blocks import LBSGD, Actor, SecantSmoothness
from recipes.agents import Config
from recipes.agents.builders import build_lbsgd
from recipes.cerl_full import CERL
from recipes.training import run


def secant_lbsgd(actor: Actor, config: Config) -> LBSGD:
    """LBSGD for which the configured constant is only the first guess."""
    return build_lbsgd(actor, config, SecantSmoothness(config.safety.constraint_smoothness))


if __name__ == "__main__":
    run("ablation_secant_smoothness", CERL(optimizer=secant_lbsgd))
