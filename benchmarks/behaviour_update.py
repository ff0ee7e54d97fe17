"""Times CERL's policy update and full training step against TorchRL's Dreamer and its products.

    python benchmarks/behaviour_update.py
    python benchmarks/behaviour_update.py --compiled

Times two parts, at the sizes of the cpu preset:

- *behaviour update*: imagine from 32 states, lambda-returns, the policy's step, the critics' step;
- *full step*: a model update on 16 sequences of 32 steps, then a behaviour update.

The contestants compute different things. In a behaviour update, CERL imagines under each of K
members, computes cost returns and returns, has a critic with a slow copy for both and every member,
differentiates objective and constraint separately, limits the policy's step and computes the
entropy. TorchRL's Dreamer has one model, one return, one critic without a slow copy and one
gradient. In a model update, CERL also fits K transitions and cost heads under a prior, balances the
two sides of the KL, resets at the start of an episode, samples its batch from the replay and fits
the normaliser. TorchRL gets the same prepared batch each time, but draws a sample from each prior.
So a factor between the two is the price of CERL's additional work, plus or minus the quality of
either implementation. *Its products alone* measures this quality: it repeats only the matrix
products that a contestant computed.

TorchRL (``pip install -e '.[bench]'``) is left out where it is not installed.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import tyro
from measure import interleave, markdown, ratios, spread, write
from products import Product, products_of, replay
from training_step import build, parts

BEHAVIOUR, FULL = "behaviour update", "full step"
TORCHRL, TORCHRL_COMPILED = "TorchRL Dreamer", "TorchRL Dreamer, compiled"

Runs = dict[str, Callable[[], object]]
"""Functions to time, by ``BEHAVIOUR`` and ``FULL``."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of the benchmark."""

    members: tuple[int, ...] = (1, 5)
    """Numbers of CERL's members."""
    rounds: int = 9
    """Rounds; each runs every part of every contestant once."""
    torch_threads: int = 1
    """Torch's threads within an operation."""
    compiled: bool = False
    """Time TorchRL's compiled RSSM step and actor loss, too; needs minutes and a C++ compiler."""
    smoke: bool = False
    """Use tiny sizes and one round; checks that everything works."""
    out: Path = Path("runs/benchmarks/behaviour_update.json")
    """File of the results."""


def ours(members: int, *, smoke: bool) -> Runs:
    """Build CERL's updates; start states are filtered before, as once in each phase of a run."""
    timed = parts(build(members, smoke=smoke))
    model_update, policy_update = timed["model update"], timed["policy update"]

    def full_step() -> None:
        model_update()
        policy_update()

    return {BEHAVIOUR: policy_update, FULL: full_step}


def torchrl(*, smoke: bool, compiled: bool) -> Runs:
    """Build TorchRL's updates, at the sizes of our agent."""
    from torchrl_dreamer import Dreamer

    agent = build(1, smoke=smoke)
    observation, action = agent.replay.observations.shape[-1], agent.actor.action_size
    dreamer = Dreamer(agent.config, observation, action, compiled=compiled)
    return {BEHAVIOUR: dreamer.behaviour_update, FULL: dreamer.full_step}


def contestants(options: Options) -> dict[str, Runs]:
    """Build all contestants, by name."""
    found = {f"CERL, K = {k}": ours(k, smoke=options.smoke) for k in options.members}
    if find_spec("torchrl"):
        found[TORCHRL] = torchrl(smoke=options.smoke, compiled=False)
        if options.compiled:
            found[TORCHRL_COMPILED] = torchrl(smoke=options.smoke, compiled=True)
    return found


def recorded(found: dict[str, Runs]) -> dict[tuple[str, str], list[Product]]:
    """Record each contestant's products; compiled, TorchRL's are the same and are not recorded."""
    return {
        (part, name): products_of(found[TORCHRL if name == TORCHRL_COMPILED else name][part])
        for part in (BEHAVIOUR, FULL)
        for name in found
    }


def compare(options: Options) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Compare all contestants; return table rows and raw results."""
    torch.manual_seed(0)
    found = contestants(options)
    products = recorded(found)
    runs = {}
    for part, name in products:
        runs[part, name, "all"] = found[name][part]
        runs[part, name, "products"] = replay(products[part, name])
    seconds = interleave(runs, options.rounds)

    def row(part: str, name: str) -> dict[str, Any]:
        whole, alone = seconds[part, name, "all"], seconds[part, name, "products"]
        multiply_adds = sum(product.multiply_adds for product in products[part, name])
        return {
            "part": part,
            "what": name,
            "time in ms": f"{1000 * spread(whole).median:.1f}",
            "its products alone, ms": f"{1000 * spread(alone).median:.1f}",
            "million multiply-adds": f"{multiply_adds / 1e6:.0f}",
            "in units of its products": ratios(whole, alone),
            **{
                f"in units of CERL, K = {k}": ratios(whole, seconds[part, f"CERL, K = {k}", "all"])
                for k in options.members
            },
        }

    rows = [row(*key) for key in products]
    results = {
        f"{part}: {name}": {
            "seconds": seconds[part, name, "all"],
            "seconds_of_products": seconds[part, name, "products"],
            "products": len(products[part, name]),
            "multiply_adds": sum(product.multiply_adds for product in products[part, name]),
        }
        for part, name in products
    }
    return rows, results


def main(options: Options) -> None:
    torch.set_num_threads(options.torch_threads)
    if options.smoke:
        options = dataclasses.replace(options, rounds=1)
    rows, results = compare(options)
    print(markdown(rows))
    if not find_spec("torchrl"):
        print("\nTorchRL is not installed: pip install -e '.[bench]'")
    write(options.out, "behaviour_update", dataclasses.asdict(options), results)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
