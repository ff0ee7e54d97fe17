"""CERL with the log barrier but without LBSGD: plain Adam on the barrier, no step-size rule.

Learning rates, eta and the recovery from outside the feasible set are CERL's.

python recipes/ablation_barrier_adam.py --seed 0
"""

from functools import partial

from blocks import Actor, BarrierAdam
from blocks.optimizers.barrier_adam import Scale, unscaled
from recipes.agents.config import Config
from recipes.cerl_full import CERL, Blocks
from recipes.training.loop import run


def barrier_adam(actor: Actor, config: Config, scale: Scale = unscaled) -> BarrierAdam:
    return BarrierAdam(
        actor.parameters(),
        eta=config.eta,
        eta_decay=config.eta_decay,
        eta_min=config.eta_min,
        scale=scale,
        learning_rate=config.actor_learning_rate,
        recovery_learning_rate=config.actor_learning_rate,
    )


if __name__ == "__main__":
    run("ablation_barrier_adam", partial(CERL, blocks=Blocks(optimizer=barrier_adam)))
