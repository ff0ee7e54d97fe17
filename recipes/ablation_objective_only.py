"""No safety at all: the same agent after return alone, with neither constraint nor guard.

python recipes/ablation_objective_only.py --seed 0
"""

from blocks import Actor, PIDLagrangian
from recipes.agents import Config
from recipes.cerl_full import CERL
from recipes.training import run


def objective_only(actor: Actor, config: Config) -> PIDLagrangian:
    """Adam on the objective: all gains are zero, so the multiplier stays at zero."""
    return PIDLagrangian(
        actor.parameters(),
        learning_rate=config.policy.actor_learning_rate,
        proportional_gain=0.0,
        integral_gain=0.0,
        derivative_gain=0.0,
    )


if __name__ == "__main__":
    run("ablation_objective_only", CERL(optimizer=objective_only), guard_share=0.0)
