"""CERL with softer pessimism: the mean of the worst members (CVaR) in place of the single worst.

At ALPHA = 1 this is the mean; up to 1 / members it is the worst case. Unlike a quantile it looks at
all the members beyond its level, and each of them has a share in the gradient.

python recipes/ablation_cvar.py --seed 0
"""

from functools import partial

from blocks import cvar, of_policy
from recipes.cerl_full import CERL, Blocks
from recipes.training.loop import run

ALPHA = 0.4
"""Fraction of the members that counts: two of five."""

if __name__ == "__main__":
    aggregate = of_policy(partial(cvar, alpha=ALPHA))
    run("ablation_cvar", partial(CERL, blocks=Blocks(aggregate=aggregate)))
