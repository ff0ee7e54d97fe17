"""CERL without a posterior: a plain deep ensemble, whose members differ in their initial weights.

They have no prior and share the data (Lakshminarayanan et al. 2017), so they agree where there are
data.
"""

from blocks import Point
from recipes.cerl_full import CERL
from recipes.training import run

if __name__ == "__main__":
    run("ablation_point_ensemble", CERL(posterior=Point))
