"""CERL with the log barrier but without LBSGD: plain Adam on the barrier, no step-size rule.

Learning rates, eta and the recovery step are CERL's.
"""

from blocks import Actor, BarrierAdam
from blocks.optimizers.barrier_adam import Scale, unscaled
from recipes.agents import Config
from recipes.cerl_full import CERL
from recipes.training import run


def barrier_adam(actor: Actor, config: Config, scale: Scale = unscaled) -> BarrierAdam:
    """Use CERL's eta and learning rates; ``scale`` multiplies the gradient before Adam."""
    c, rate = config.safety, config.policy.actor_learning_rate
    return BarrierAdam(
        actor.parameters(),
        eta=c.eta,
        eta_decay=c.eta_decay,
        eta_min=c.eta_min,
        scale=scale,
        learning_rate=rate,
        recovery_learning_rate=rate,
    )


if __name__ == "__main__":
    run("ablation_barrier_adam", CERL(optimizer=barrier_adam))
