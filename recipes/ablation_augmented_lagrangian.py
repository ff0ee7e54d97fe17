"""CERL with LAMBDA's optimiser: an Augmented Lagrangian in place of log barrier and LBSGD.

python recipes/ablation_augmented_lagrangian.py --seed 0
"""

from functools import partial

from blocks import Actor, AugmentedLagrangian
from recipes.agents.config import Config
from recipes.cerl_full import CERL, Blocks
from recipes.training.loop import run


def augmented_lagrangian(actor: Actor, config: Config) -> AugmentedLagrangian:
    return AugmentedLagrangian(actor.parameters(), learning_rate=config.actor_learning_rate)


if __name__ == "__main__":
    run(
        "ablation_augmented_lagrangian",
        partial(CERL, blocks=Blocks(optimizer=augmented_lagrangian)),
    )
