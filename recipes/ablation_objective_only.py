"""CERL's agent without safety: it maximises the return, with neither constraint nor guard."""

from blocks import Actor, PIDLagrangian
from recipes.agents import Config
from recipes.cerl_full import CERL
from recipes.training import run


def objective_only(actor: Actor, config: Config) -> PIDLagrangian:
    """Ascend the objective with Adam: with zero gains the multiplier stays at zero."""
    return PIDLagrangian(
        actor.parameters(),
        learning_rate=config.policy.actor_learning_rate,
        proportional_gain=0.0,
        integral_gain=0.0,
        derivative_gain=0.0,
    )


if __name__ == "__main__":
    run("ablation_objective_only", CERL(optimizer=objective_only), guard_share=0.0)
