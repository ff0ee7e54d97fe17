"""One model update and one policy update of CERL, by the number of members K.

python benchmarks/training_step.py
"""

import dataclasses
import multiprocessing
import resource
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
import tyro
from measure import interleave, markdown, ratios, spread, write
from torch.profiler import ProfilerActivity, profile

from blocks import make_environment
from blocks.environments import SafetyEnvironment

# isort: split
from cerl_config import SMOKE, Config
from cerl_full import CERL

ROWS, EPISODE_LENGTH = 2000, 500
COST_RATE = 0.03
BUDGET_SHARE = 40.0
"""On random transitions the policy may exceed the preset's share of the budget, and then it takes a
recovery step, with one gradient. In a run nearly every step is feasible and takes two, of the
objective and of the constraint; with a share as large as this the timed steps do so too."""
TOP_OPERATIONS = 12
MAXRSS_UNIT = 1 if sys.platform == "darwin" else 1024
"""Bytes in one unit of ``ru_maxrss``."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """One model update and one policy update of CERL, at the sizes of the cpu preset."""

    members: tuple[int, ...] = (1, 2, 5, 10, 20)
    """Numbers of members; the first is what the others are compared with."""
    rounds: int = 7
    """Rounds in which each part of each number of members runs once."""
    threads: int = 1
    """Torch's threads."""
    smoke: bool = False
    """Tiny sizes and one round, to see that it works."""
    out: Path = Path("runs/benchmarks/training_step.json")
    """Where the results go."""


@cache
def environment() -> SafetyEnvironment:
    """The preset's task, for its sizes; no step is taken."""
    return make_environment(Config().task, seed=0, action_repeat=Config().action_repeat)


def build(members: int | None, *, smoke: bool) -> CERL:
    """The agent of the cpu preset (or of `--smoke`), its replay filled with random transitions."""
    preset = Config(**SMOKE) if smoke else Config()
    config = dataclasses.replace(
        preset, members=members or preset.members, budget_share=BUDGET_SHARE
    )
    agent = CERL(config, environment())
    observation, action = agent.replay.observations.shape[-1], agent.actor.action
    for row in range(ROWS):
        first = row % EPISODE_LENGTH == 0
        agent.replay.add(
            torch.randn(observation),
            (0.0 if first else 1.0) * torch.rand(action).mul(2).sub(1),
            reward=0.0 if first else float(torch.randn(())),
            cost=0.0 if first else float(torch.rand(()) < COST_RATE),
            is_first=first,
        )
    return agent


def parts(agent: CERL) -> dict[str, Callable[[], object]]:
    """What is timed: the two updates, and the parameter prior, a part of the first.

    The states from which a policy update may start are filtered once for all updates of a phase
    (40 in the preset), so they are timed on their own and at hand for the policy update.
    """
    agent.learn_model(1)
    starts = agent.start_states()
    filter_starts = agent.start_states

    def policy_update() -> None:
        agent.start_states = lambda: starts
        assert agent.learn_policy(1)["feasible"] == 1, "a recovery step: raise BUDGET_SHARE"

    def log_prior() -> None:
        (agent.model.parameter_posterior.log_prior().mean() / ROWS).backward()
        agent.model_optimizer.zero_grad()

    return {
        "model update": partial(agent.learn_model, 1),
        "policy update": policy_update,
        "log_prior": log_prior,
        "start states": filter_starts,
    }


def peak_memory(members: int, smoke: bool) -> float:
    """MiB by which the process grows at most while it builds an agent and updates it."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    agent = build(members, smoke=smoke)
    agent.learn_model(1)
    agent.learn_policy(1)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return (after - before) * MAXRSS_UNIT / 2**20


def peak_memories(options: Options) -> list[float]:
    """``peak_memory`` of each number of members, each in a process of its own."""
    environment()  # imported by all of them at once, and not counted
    with multiprocessing.get_context("fork").Pool(1, maxtasksperchild=1) as pool:
        return pool.map(partial(peak_memory, smoke=options.smoke), options.members, chunksize=1)


def compare(options: Options) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Rows of the table, and what they come from."""
    memory = peak_memories(options)  # first: a process inherits what its parent has allocated
    runs = {
        (members, part): run
        for members in options.members
        for part, run in parts(build(members, smoke=options.smoke)).items()
    }
    seconds = interleave(runs, options.rounds)

    def both(members: int) -> list[float]:
        pair = seconds[members, "model update"], seconds[members, "policy update"]
        return [a + b for a, b in zip(*pair, strict=True)]

    first = options.members[0]
    rows = [
        {
            "K": members,
            **{
                f"{part}, ms": f"{1000 * spread(seconds[members, part]).median:.1f}"
                for part in ("model update", "policy update", "start states")
            },
            f"both updates, in units of K = {first}": ratios(both(members), both(first)),
            "log_prior's share of the model update": ratios(
                seconds[members, "log_prior"], seconds[members, "model update"]
            ),
            "peak memory, MiB": f"{mebibytes:.0f}",
        }
        for members, mebibytes in zip(options.members, memory, strict=True)
    ]
    named = {f"{part}, K = {members}": times for (members, part), times in seconds.items()}
    return rows, {
        "seconds": named,
        "peak_memory_mib": dict(zip(options.members, memory, strict=True)),
    }


def break_down(options: Options) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The operations that take most of a model and a policy update, at the preset's K."""
    run = parts(build(None, smoke=options.smoke))
    updates = [run["model update"], run["policy update"]]
    for update in updates * 2:
        update()
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        for update in updates * options.rounds:
            update()
    events = sorted(profiler.key_averages(), key=lambda event: -event.self_cpu_time_total)
    total = sum(event.self_cpu_time_total for event in events)
    rows = [
        {
            "operation": f"`{event.key}`",
            "calls in a step": event.count // options.rounds,
            "share of the time": f"{event.self_cpu_time_total / total:.1%}",
        }
        for event in events[:TOP_OPERATIONS]
    ]
    return rows, {
        event.key: {"calls": event.count, "microseconds": event.self_cpu_time_total}
        for event in events
    }


def main(options: Options) -> None:
    torch.set_num_threads(options.threads)
    if options.smoke:
        options = dataclasses.replace(options, rounds=1, members=options.members[:2])
    rows, comparison = compare(options)
    print(markdown(rows), end="\n\n")
    rows, operations = break_down(options)
    print(markdown(rows))
    results = {**comparison, "operations": operations}
    write(options.out, "training_step", dataclasses.asdict(options), results)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
