"""CERL with a Stein posterior: particles that share the data and repel each other.

Stein variational gradient descent (Liu and Wang 2016) in place of independent randomised members.
"""

from blocks import Stein
from recipes.cerl_full import CERL
from recipes.training import run

if __name__ == "__main__":
    run("ablation_stein", CERL(posterior=Stein))
