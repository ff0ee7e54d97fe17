"""CERL with members drawn from a factorised Gaussian over the weights.

Variational inference (Bishop 2006, 10.1) in place of independent randomised members; overconfident
where the posterior's weights are correlated.
"""

from blocks import MeanField
from recipes.cerl_full import CERL
from recipes.training import run

if __name__ == "__main__":
    run("ablation_mean_field", CERL(posterior=MeanField))
