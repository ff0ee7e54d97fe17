"""Times model and policy updates of CERL by the number of members K, or by sizes.

python benchmarks/training_step.py
python benchmarks/training_step.py --sweep
"""

import dataclasses
import multiprocessing
import resource
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
import tyro
from measure import Spread, interleave, markdown, ratios, spread, write
from torch.profiler import ProfilerActivity, profile

from blocks import make_environment, set_threads
from blocks.environments.episodes import ConstrainedEnvironment

# isort: split
from recipes.agents import Config
from recipes.cerl_full import CERL, CERLAgent

ROWS, EPISODE_LENGTH = 2000, 500
UPDATES = 4
"""Updates in each timed run, because the critics learn beside the next update; the tables show the
time of one."""
COST_RATE = 0.03
BUDGET_SHARE = 40.0
"""Share of the budget; so large that every timed policy step is feasible, as nearly all steps of a
run are. With the preset's share, the policy may exceed the budget on random transitions and take
recovery steps, which are cheaper."""
TOP_OPERATIONS = 12
SWEEP: tuple[dict[str, int], ...] = (
    {},
    *({"batch_size": size} for size in (4, 64)),
    *({"seq_len": length} for length in (16, 64)),
    *({"deter_size": width, "hidden_size": width} for width in (64, 256)),
    *({"imagination_batch_size": size} for size in (8, 128)),
    *({"horizon": length} for length in (6, 24)),
    {"compile": True},
)
"""Settings that differ from the preset."""
MAXRSS_UNIT = 1 if sys.platform == "darwin" else 1024
"""Bytes in one unit of ``ru_maxrss``."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of the benchmark, at the sizes of the cpu preset."""

    members: tuple[int, ...] = (1, 2, 5, 10, 20)
    """Numbers of members; the others are compared with the first."""
    rounds: int = 9
    """Rounds; each runs every part once for each number of members."""
    threads: tuple[int, ...] = (1, 2)
    """Threads for independent parts of an update; torch's operations use one."""
    sweep: bool = False
    """Compare sizes instead of numbers of members, with the preset's K and the most threads."""
    smoke: bool = False
    """Use tiny sizes and one round; checks that everything works."""
    out: Path | None = None
    """File of the results; runs/benchmarks/training_step[_sweep].json by default."""

    def destination(self) -> Path:
        name = "training_step_sweep" if self.sweep else "training_step"
        return self.out or Path(f"runs/benchmarks/{name}.json")


@cache
def environment() -> ConstrainedEnvironment:
    """Make the preset's environment, only for its sizes."""
    return make_environment(Config().task, seed=0, action_repeat=Config().action_repeat)


def build(
    members: int | None,
    *,
    smoke: bool = False,
    preset: str = "cpu",
    sizes: Mapping[str, int] | None = None,
) -> CERLAgent:
    """Build an agent of a preset, with changed settings and a replay of random rows."""
    settings: dict[str, Any] = {"budget_share": BUDGET_SHARE, "margin_step": 0.0}
    settings |= sizes or {}
    if members:
        settings["members"] = members
    config = Config(preset=preset, smoke=smoke, **settings)
    agent = CERLAgent(config, environment(), CERL())
    observation, action = agent.replay.observations.shape[-1], agent.actor.action_size
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


def parts(agent: CERLAgent, updates: int = 1) -> dict[str, Callable[[], object]]:
    """Return the functions to time: ``updates`` model and policy updates, and parts of them.

    ``log_prior`` is a part of the model update. A run filters start states once for all policy
    updates of a phase (40 in the preset); here they are timed separately, and policy updates reuse
    the same ones.
    """
    agent.fit_posterior(1)
    starts = agent.start_states()
    filter_starts = agent.start_states

    def policy_update() -> None:
        agent.start_states = lambda: starts
        assert agent.improve_policy(updates)["feasible"] == 1, "a recovery step: raise BUDGET_SHARE"

    def log_prior() -> None:
        for _ in range(updates):
            (agent.model.parameter_posterior.log_prior().mean() / ROWS).backward()
            agent.model_optimizer.zero_grad()

    return {
        "model update": partial(agent.fit_posterior, updates),
        "policy update": policy_update,
        "log_prior": log_prior,
        "start states": filter_starts,
    }


def peak_memory(agent_settings: dict[str, Any]) -> float:
    """Build and update an agent; measure the growth of this process's peak memory in MiB."""
    before = peak_of_process()
    agent = build(**agent_settings)
    agent.fit_posterior(1)
    agent.improve_policy(1)
    return peak_of_process() - before


def peak_of_process() -> float:
    """Return this process's peak memory in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * MAXRSS_UNIT / 2**20


def peak_memories(agents: list[dict[str, Any]]) -> list[float]:
    """Measure ``peak_memory`` of each agent in a separate process."""
    environment()  # before the processes start, so its memory is not counted
    with multiprocessing.get_context("fork").Pool(1, maxtasksperchild=1) as pool:
        return pool.map(peak_memory, agents, chunksize=1)


def compare(options: Options) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Compare numbers of members and threads; return table rows and raw results."""
    # Memory first: a forked process inherits the parent's memory.
    memory = peak_memories([{"members": k, "smoke": options.smoke} for k in options.members])
    peaks = dict(zip(options.members, memory, strict=True))
    runs = {
        (threads, members, part): partial(_on, threads, run)
        for members in options.members
        for part, run in parts(build(members, smoke=options.smoke), UPDATES).items()
        for threads in options.threads
    }
    times = interleave(runs, options.rounds)
    set_threads(1)
    rows = [
        _row(times, (threads, k), options.threads[0], options.members[0], peaks[k])
        for threads in options.threads
        for k in options.members
    ]
    seconds = {
        f"{part}, K = {members}, {threads} threads": values
        for (threads, members, part), values in times.items()
    }
    return rows, {"seconds": seconds, "updates": UPDATES, "peak_memory_mib": peaks}


def _on(threads: int, run: Callable[[], object]) -> None:
    set_threads(threads)
    run()


def _row(
    times: dict[tuple[int, int, str], list[float]],
    which: tuple[int, int],
    first_threads: int,
    first_members: int,
    peak: float,
) -> dict[str, Any]:
    """Make the row of ``which`` = (threads, members); compare with the first of each."""
    threads, members = which

    def both(threads: int, members: int) -> list[float]:
        pair = times[threads, members, "model update"], times[threads, members, "policy update"]
        return [a + b for a, b in zip(*pair, strict=True)]

    def milliseconds(part: str, count: int) -> str:
        return f"{1000 * spread(times[threads, members, part]).median / count:.1f}"

    ours = both(threads, members)
    return {
        "threads": threads,
        "K": members,
        "model update, ms": milliseconds("model update", UPDATES),
        "policy update, ms": milliseconds("policy update", UPDATES),
        "start states, ms": milliseconds("start states", 1),
        f"both updates, in units of K = {first_members}": ratios(
            ours, both(threads, first_members)
        ),
        f"in units of {first_threads} thread": ratios(ours, both(first_threads, members)),
        "log_prior's share of the model update": ratios(
            times[threads, members, "log_prior"], times[threads, members, "model update"]
        ),
        "peak memory, MiB": f"{peak:.0f}",
    }


def sweep(options: Options) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Compare sizes, at the preset's K and the most threads; return table rows and raw results."""
    updates = ("model update", "policy update")
    chosen = SWEEP[:2] if options.smoke else SWEEP
    names = [", ".join(f"{k} {v}" for k, v in sizes.items()) or "the preset" for sizes in chosen]
    runs = {
        (name, part): run
        for name, sizes in zip(names, chosen, strict=True)
        for part, run in parts(build(None, smoke=options.smoke, sizes=sizes), UPDATES).items()
        if part in updates
    }
    set_threads(max(options.threads))
    times = interleave(runs, options.rounds)
    set_threads(1)
    rows = [
        {"sizes": name}
        | {f"{p}, ms": f"{1000 * spread(times[name, p]).median / UPDATES:.1f}" for p in updates}
        | {f"{p}, in units of the preset": _ratio(times, name, names[0], p) for p in updates}
        for name in names
    ]
    seconds = {f"{part}, {name}": values for (name, part), values in times.items()}
    return rows, {"seconds": seconds, "updates": UPDATES}


def _ratio(times: dict[tuple[str, str], list[float]], name: str, first: str, part: str) -> Spread:
    return ratios(times[name, part], times[first, part])


def break_down(options: Options) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Profile model and policy updates at the preset's K; return rows of the slowest operations."""
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
    torch.set_num_threads(1)
    if options.smoke:
        options = dataclasses.replace(options, rounds=1, members=options.members[:2])
    if options.sweep:
        rows, results = sweep(options)
        print(markdown(rows))
        write(options.destination(), "training_step", dataclasses.asdict(options), results)
        return
    rows, comparison = compare(options)
    print(markdown(rows), end="\n\n")
    rows, operations = break_down(options)
    print(markdown(rows))
    results = {**comparison, "operations": operations}
    write(options.destination(), "training_step", dataclasses.asdict(options), results)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
