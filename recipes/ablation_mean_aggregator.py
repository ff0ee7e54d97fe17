"""CERL without pessimism: the members' mean cost return in place of the worst.

python recipes/ablation_mean_aggregator.py --seed 0
"""

from functools import partial

from cerl_full import CERL, Blocks
from training import run

from blocks import mean, of_policy

if __name__ == "__main__":
    run("ablation_mean_aggregator", partial(CERL, blocks=Blocks(aggregate=of_policy(mean))))
