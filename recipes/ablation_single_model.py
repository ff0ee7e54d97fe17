"""CERL with one model, K = 1: no epistemic uncertainty, so nothing to be pessimistic about.

The one member is a posterior sample as in CERL, with its own prior draw and share of the data.

python recipes/ablation_single_model.py --seed 0
"""

from recipes.cerl_full import CERL
from recipes.training import run

if __name__ == "__main__":
    run("ablation_single_model", CERL(), members=1)
