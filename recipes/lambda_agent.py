"""LAMBDA, from CERL's blocks: optimism about returns, pessimism about costs, Augmented Lagrangian.

As et al. 2022, "Constrained Policy Optimization via Bayesian World Models": each start state takes
its return from the best of the posterior's world models and its cost return from the worst.
Differences from LAMBDA: the posterior is CERL's (`particles`; LAMBDA uses SWAG), every member has a
critic (LAMBDA's learn from the chosen members), and prefill, guard and margin are CERL's (`--preset
paper` has neither guard nor margin).
"""

from blocks import per_state, worst_case
from recipes.ablation_augmented_lagrangian import augmented_lagrangian
from recipes.cerl_full import CERL
from recipes.training import run

LAMBDA = CERL(
    objective=per_state(worst_case),  # the largest, so the best return
    aggregate=per_state(worst_case),
    optimizer=augmented_lagrangian,
)

if __name__ == "__main__":
    run("lambda_agent", LAMBDA)
