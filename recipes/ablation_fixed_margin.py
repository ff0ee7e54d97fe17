"""CERL with a margin that does not learn: predicted cost stays 0.6 of a budget below the budget."""

from recipes.cerl_full import CERL
from recipes.training import run

if __name__ == "__main__":
    run("ablation_fixed_margin", CERL(), margin_step=0.0)
