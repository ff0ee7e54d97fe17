"""LAMBDA, from CERL's blocks: optimism about returns, pessimism about costs, Augmented Lagrangian.

As et al. 2022, "Constrained Policy Optimization via Bayesian World Models": of the posterior's
world models each start state has the best for its return and the worst for its cost return, and a
multiplier with a penalty weighs one against the other. Not LAMBDA's: the posterior is CERL's
(`particles`; theirs is SWAG), every member has a critic (theirs learn from the chosen members), and
prefill, guard and margin are CERL's (`--preset paper` has neither guard nor margin).

python recipes/lambda_agent.py --seed 0
"""

from blocks import per_state, worst_case
from recipes.ablation_augmented_lagrangian import augmented_lagrangian
from recipes.cerl_full import CERL
from recipes.training import run

LAMBDA = CERL(
    objective=per_state(worst_case),  # the largest: of a return the best
    aggregate=per_state(worst_case),
    optimizer=augmented_lagrangian,
)

if __name__ == "__main__":
    run("lambda_agent", LAMBDA)
