"""CERL without pessimism: the members' mean cost return in place of the worst."""

from blocks import mean, of_policy
from recipes.cerl_full import CERL
from recipes.training import run

if __name__ == "__main__":
    run("ablation_mean_aggregator", CERL(aggregate=of_policy(mean)))
