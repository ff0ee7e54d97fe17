"""CERL without a posterior: a plain deep ensemble, members that differ in where they began.

Neither prior nor data of their own (Lakshminarayanan et al. 2017): they agree where there are data.

python recipes/ablation_point_ensemble.py --seed 0
"""

from blocks import Point
from recipes.cerl_full import CERL
from recipes.training import run

if __name__ == "__main__":
    run("ablation_point_ensemble", CERL(posterior=Point))
