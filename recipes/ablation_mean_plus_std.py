"""CERL with a dial from optimism to pessimism: mean + SCALE * standard deviation over members.

At 0 this is the mean; the larger, the more pessimistic; below 0 it is optimistic about costs. No
member of five lies more than two deviations above their mean, so from SCALE = 2 on it is never
milder than the worst one. (The shape of ActSafe's bound, As et al. 2024, there for each step.)

python recipes/ablation_mean_plus_std.py --seed 0
"""

from functools import partial

from blocks import mean_plus_std, of_policy
from recipes.cerl_full import CERL, Blocks
from recipes.training.loop import run

SCALE = 1.0
"""Standard deviations above the mean."""

if __name__ == "__main__":
    aggregate = of_policy(partial(mean_plus_std, scale=SCALE))
    run("ablation_mean_plus_std", partial(CERL, blocks=Blocks(aggregate=aggregate)))
