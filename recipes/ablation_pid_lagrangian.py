"""CERL with a PID-controlled Lagrange multiplier in place of log barrier and LBSGD.

Stooke, Achiam and Abbeel 2020. The gains fit an objective and costs of order one, as they are here
(returns in units of their range, costs in budgets), and were not tuned.

python recipes/ablation_pid_lagrangian.py --seed 0
"""

from functools import partial

from blocks import Actor, PIDLagrangian
from recipes.agents.config import Config
from recipes.cerl_full import CERL, Blocks
from recipes.training.loop import run


def pid_lagrangian(actor: Actor, config: Config) -> PIDLagrangian:
    return PIDLagrangian(
        actor.parameters(),
        learning_rate=config.actor_learning_rate,
        proportional_gain=1.0,
        integral_gain=0.02,
        derivative_gain=0.1,
    )


if __name__ == "__main__":
    run("ablation_pid_lagrangian", partial(CERL, blocks=Blocks(optimizer=pid_lagrangian)))
