"""What an agent of each preset takes, and whether anything grows over thousands of updates.

python benchmarks/memory.py
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from measure import markdown, write
from training_step import build, environment, peak_memories, peak_of_process

# isort: split
from cerl_config import PRESETS, Config

BYTES_OF_FLOAT = 4
FLAGS = 2
"""Bytes of a row's is_first and terminated."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Memory of CERL: of each preset, by members, and over a soak of small updates."""

    members: tuple[int, ...] = (1, 5, 20)
    """Numbers of members."""
    updates: int = 10_000
    """Updates of the model, and as many of the policy, in the soak; at the sizes of --smoke."""
    looks: int = 10
    """How often the soak looks, evenly spread."""
    smoke: bool = False
    """Few updates and tiny sizes, to see that it works."""
    out: Path = Path("runs/benchmarks/memory.json")
    """Where the results go."""


def presets(options: Options) -> list[dict[str, Any]]:
    """Peak memory of a model and a policy update, and of the replay once it is full."""
    agents = [
        {"preset": preset, "members": members, "smoke": options.smoke}
        for preset in PRESETS
        for members in options.members
    ]
    peaks = peak_memories(agents)
    return [
        {
            "preset": agent["preset"],
            "K": agent["members"],
            "agent and updates, MiB": round(peak),
            "full replay, MiB": round(full_replay(agent["preset"])),
        }
        for agent, peak in zip(agents, peaks, strict=True)
    ]


def full_replay(preset: str) -> float:
    """MiB of the rows of a whole run; the pages of an empty replay are not yet taken."""
    config = Config(**PRESETS[preset])
    observation, action = (
        space.shape or () for space in (environment().observation_space, environment().action_space)
    )
    row = BYTES_OF_FLOAT * (sum(observation) + sum(action) + 2) + FLAGS
    return row * config.steps / config.action_repeat / 2**20


def soak(options: Options) -> list[dict[str, Any]]:
    """Memory that this process has had at most, as a small agent is updated again and again."""
    agent, between = build(None, smoke=True), max(1, options.updates // options.looks)
    looks = []
    for done in range(between, options.updates + 1, between):
        agent.learn_model(between)
        agent.learn_policy(between)
        looks.append({"updates": done, "peak, MiB": round(peak_of_process(), 1)})
    return looks


def main(options: Options) -> None:
    torch.set_num_threads(1)
    if options.smoke:
        options = dataclasses.replace(options, updates=20, looks=2, members=options.members[:1])
    by_preset = presets(options)  # before the soak: a process inherits what its parent holds
    print(markdown(by_preset), end="\n\n")
    looks = soak(options)
    print(markdown(looks))
    results = {"presets": by_preset, "soak": looks}
    write(options.out, "memory", dataclasses.asdict(options), results)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
