"""CERL with a factorised Gaussian over the weights, from which the members are drawn.

Variational inference (Bishop 2006, 10.1) in place of independent randomised members: too sure
wherever the posterior's weights are correlated.

python recipes/ablation_mean_field.py --seed 0
"""

from blocks import MeanField
from recipes.cerl_full import CERL
from recipes.training import run

if __name__ == "__main__":
    run("ablation_mean_field", CERL(posterior=MeanField))
