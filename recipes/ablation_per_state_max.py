"""CERL with LAMBDA's pessimism: the worst member at each start state in place of the worst overall.

The worst member can differ between states: this is more cautious, and not the cost return of any
single member (As et al. 2022, algorithm 2).
"""

from blocks import per_state, worst_case
from recipes.cerl_full import CERL
from recipes.training import run

if __name__ == "__main__":
    run("ablation_per_state_max", CERL(aggregate=per_state(worst_case)))
