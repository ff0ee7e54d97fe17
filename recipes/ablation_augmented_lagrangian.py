"""CERL with LAMBDA's optimiser: an Augmented Lagrangian in place of log barrier and LBSGD."""

from blocks import Actor, AugmentedLagrangian
from recipes.agents import Config
from recipes.cerl_full import CERL
from recipes.training import run


def augmented_lagrangian(actor: Actor, config: Config) -> AugmentedLagrangian:
    """Use the policy's learning rate."""
    return AugmentedLagrangian(actor.parameters(), learning_rate=config.policy.actor_learning_rate)


if __name__ == "__main__":
    run("ablation_augmented_lagrangian", CERL(optimizer=augmented_lagrangian))
