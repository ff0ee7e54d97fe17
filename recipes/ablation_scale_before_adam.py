"""CERL with LBSGD's step size applied before Adam, as in public code, in place of after it.

Adam divides the gradient by its scale, which cancels the step size (see `BarrierAdam`). As in that
code, objective and cost return share one smoothness constant.
"""

from functools import partial

from blocks import Actor, BarrierAdam, lbsgd_step_size
from recipes.ablation_barrier_adam import barrier_adam
from recipes.agents import Config
from recipes.cerl_full import CERL
from recipes.training import run


def scale_before_adam(actor: Actor, config: Config) -> BarrierAdam:
    """Scale the gradient by LBSGD's step size before Adam."""
    smoothness = config.safety.constraint_smoothness
    rule = partial(
        lbsgd_step_size, objective_smoothness=smoothness, constraint_smoothness=smoothness
    )
    return barrier_adam(actor, config, rule)


if __name__ == "__main__":
    run("ablation_scale_before_adam", CERL(optimizer=scale_before_adam))
