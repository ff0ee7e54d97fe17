"""CERL that estimates the smoothness of its cost return from successive gradients."""

from blocks import LBSGD, Actor, SecantSmoothness
from recipes.agents import Config
from recipes.agents.builders import build_lbsgd
from recipes.cerl_full import CERL
from recipes.training import run


def secant_lbsgd(actor: Actor, config: Config) -> LBSGD:
    """Start the estimate at the configured constant."""
    return build_lbsgd(actor, config, SecantSmoothness(config.safety.constraint_smoothness))


if __name__ == "__main__":
    run("ablation_secant_smoothness", CERL(optimizer=secant_lbsgd))
