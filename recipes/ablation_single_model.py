"""CERL with one model, K = 1: no epistemic uncertainty, so no pessimism.

The member is a posterior sample as in CERL, with a prior draw; it weighs all data alike.
"""

from recipes.cerl_full import CERL
from recipes.training import run

if __name__ == "__main__":
    run("ablation_single_model", CERL(), members=1)
