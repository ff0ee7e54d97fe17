"""CERL that estimates its cost return's smoothness from the gradients it meets.

python recipes/ablation_secant_smoothness.py --seed 0
"""

from functools import partial

from blocks import LBSGD, Actor, SecantSmoothness
from recipes.agents.config import Config
from recipes.cerl_full import CERL, Blocks, lbsgd
from recipes.training.loop import run


def secant_lbsgd(actor: Actor, config: Config) -> LBSGD:
    """LBSGD for which the configured constant is only the first guess."""
    return lbsgd(actor, config, SecantSmoothness(config.constraint_smoothness))


if __name__ == "__main__":
    run("ablation_secant_smoothness", partial(CERL, blocks=Blocks(optimizer=secant_lbsgd)))
