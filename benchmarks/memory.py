"""Memory: of each preset's agent and replay, and over a soak of thousands of small updates.

python benchmarks/memory.py
"""

import dataclasses
import multiprocessing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import torch
import tyro
from measure import markdown, write
from training_step import build, environment, peak_memory

# isort: split
from cerl_config import PRESETS, Config
from cerl_full import CERL

MIB = 2**20


@dataclass(frozen=True, kw_only=True)
class Options:
    """Memory of CERL: what each preset takes, and whether anything grows with the updates."""

    updates: int = 10_000
    """Updates of the model, and as many of the policy, in the soak; at the sizes of --smoke."""
    rows: int = 10
    """How often the soak looks."""
    threads: int = 1
    """Torch's threads."""
    smoke: bool = False
    """Few updates and tiny sizes, to see that it works."""
    out: Path = Path("runs/benchmarks/memory.json")
    """Where the results go."""


def replay_memory(preset: str) -> float:
    """MiB of the preset's whole replay."""
    config = Config(**PRESETS[preset])
    replay = CERL(config, environment()).replay
    return sum(x.numel() * x.element_size() for x in replay.stores) / MIB


def soak(options: Options) -> list[dict[str, Any]]:
    """Resident memory of this process while a small agent is updated again and again."""
    agent, process = build(None, smoke=True), psutil.Process()
    each = max(1, options.updates // options.rows)
    rows = []
    for done in range(0, options.updates + 1, each):
        if done:
            agent.learn_model(each)
            agent.learn_policy(each)
        rows.append({"updates": done, "resident MiB": round(process.memory_info().rss / MIB, 1)})
    return rows
