"""Measures the memory of agents on vectors and of image replays, and its growth over many updates.

python benchmarks/memory.py
"""

import dataclasses
import multiprocessing
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from measure import markdown, write
from training_step import build, environment, peak_memories, peak_of_process

from blocks import SequenceReplay

# isort: split
from recipes.agents.config import PRESETS, Config

BYTES_OF_FLOAT = 4
FLAGS = 2
"""Bytes of is_first and terminated in a row."""
IMAGE, IMAGE_ACTION = (64, 64, 3), 2
EPISODE_LENGTH = 500
BATCHES, BATCH_SIZE, SEQ_LEN = 20, 16, 32
WARM_UP_ROWS = 50
MAPS = Path("/proc/self/smaps_rollup")
SIZES = ("own memory", "peak", "file", "checkpoint")
MIB = 2**20


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of the benchmark."""

    members: tuple[int, ...] = (1, 5, 20)
    """Numbers of members."""
    updates: int = 10_000
    """Model updates of the soak, and as many policy updates; at the sizes of --smoke."""
    looks: int = 10
    """Measurements during the soak, evenly spread."""
    rows: tuple[int, ...] = (4000, 8000, 16_000)
    """Sizes of image replays in rows; observations are in memory or in a file."""
    smoke: bool = False
    """Use few updates and tiny sizes; checks that everything works."""
    out: Path = Path("runs/benchmarks/memory.json")
    """File of the results."""


def presets(options: Options) -> list[dict[str, Any]]:
    """Measure the peak memory of a model and a policy update; compute that of a full replay."""
    agents = [
        {"preset": preset, "members": members, "smoke": options.smoke}
        for preset, settings in PRESETS.items()
        if "observation" not in settings  # for images, only the replay is measured
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
    """Compute the MiB of the rows of a whole run; an empty replay has no resident pages yet."""
    config = Config(preset=preset)
    observation, action = (
        space.shape or () for space in (environment().observation_space, environment().action_space)
    )
    row = BYTES_OF_FLOAT * (sum(observation) + sum(action) + 2) + FLAGS
    return row * config.steps / config.action_repeat / MIB


def soak(options: Options) -> list[dict[str, Any]]:
    """Update a small agent many times; return this process's peak memory at regular intervals."""
    agent, between = build(None, smoke=True), max(1, options.updates // options.looks)
    looks = []
    for done in range(between, options.updates + 1, between):
        agent.fit_posterior(between)
        agent.improve_policy(between)
        looks.append({"updates": done, "peak, MiB": round(peak_of_process(), 1)})
    return looks


def image_replays(options: Options) -> list[dict[str, Any]]:
    """Measure the memory of full replays of 64x64x3 images, each in a separate process."""
    options.out.parent.mkdir(parents=True, exist_ok=True)
    cases = [(rows, spilled) for spilled in (False, True) for rows in options.rows]
    with (
        tempfile.TemporaryDirectory(dir=options.out.parent) as folder,  # same disk as the results
        multiprocessing.get_context("fork").Pool(1, maxtasksperchild=1) as pool,
    ):
        measured = pool.starmap(partial(image_replay, Path(folder)), cases, chunksize=1)
    return [
        {"rows": rows, "observations": "in a file" if spilled else "in memory", **sizes}
        for (rows, spilled), sizes in zip(cases, measured, strict=True)
    ]


def image_replay(folder: Path, rows: int, spilled: bool) -> dict[str, int | None]:
    """Measure this process's growth by filling a replay, sampling from it and saving its state.

    "own memory" is the anonymous memory when the replay is full; "peak" also includes batches, the
    state and the pages of the file.
    """
    stores = [folder / f"{rows}_{name}" if spilled else None for name in ("warm_up", "rows")]
    filled(WARM_UP_ROWS, stores[0]).sample(1, 2)  # torch's set-up is not counted
    anonymous, peak = anonymous_memory(), peak_of_process()
    replay = filled(rows, stores[1])
    grown = None if anonymous is None else (anonymous_memory() or 0) - anonymous
    for _ in range(BATCHES):
        replay.sample(BATCH_SIZE, SEQ_LEN)
    checkpoint = folder / "checkpoint.pt"
    torch.save(replay.state_dict(), checkpoint)
    return {
        "own memory": grown,
        "peak": round((peak_of_process() - peak) * MIB),
        "file": sum(file.stat().st_size for file in stores[1].iterdir()) if stores[1] else 0,
        "checkpoint": checkpoint.stat().st_size,
    }


def filled(rows: int, folder: Path | None) -> SequenceReplay:
    """Fill a replay with random images."""
    replay = SequenceReplay(
        rows,
        observation_shape=IMAGE,
        observation_dtype=torch.uint8,
        action_size=IMAGE_ACTION,
        folder=folder,
    )
    random = np.random.default_rng(0)
    for row in range(rows):
        replay.add(
            random.integers(0, 256, IMAGE, np.uint8),
            random.uniform(-1, 1, IMAGE_ACTION),
            reward=1.0,
            cost=0.0,
            is_first=row % EPISODE_LENGTH == 0,
        )
    return replay


def anonymous_memory() -> int | None:
    """Read the bytes of this process that no file backs; None on systems other than Linux."""
    if not MAPS.exists():
        return None
    return int(MAPS.read_text().split("Anonymous:")[1].split()[0]) * 1024


def in_mib(measured: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Make the rows of the table of image replays."""
    return [
        {"rows": sizes["rows"], "observations": sizes["observations"]}
        | {f"{name}, MiB": f"{sizes[name] / MIB:.1f}" for name in SIZES if sizes[name] is not None}
        for sizes in measured
    ]


def slopes(measured: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Fit bytes per row by least squares, and extrapolate to a million rows."""
    table = []
    for place in ("in memory", "in a file"):
        group = [sizes for sizes in measured if sizes["observations"] == place]
        for name in [name for name in SIZES if group[0][name] is not None]:
            rows, grown = [sizes["rows"] for sizes in group], [sizes[name] for sizes in group]
            slope = float(np.polyfit(rows, grown, 1)[0])
            table.append(
                {
                    "observations": place,
                    "what": name,
                    "bytes a row": round(slope),
                    "a million rows, GB": f"{slope / 1000:.2f}",
                }
            )
    return table


def main(options: Options) -> None:
    torch.set_num_threads(1)
    if options.smoke:
        options = dataclasses.replace(
            options, updates=20, looks=2, members=options.members[:1], rows=(200, 400)
        )
    replays = image_replays(options)
    print(markdown(in_mib(replays)), end="\n\n")
    by_row = slopes(replays)
    print(markdown(by_row), end="\n\n")
    by_preset = presets(options)  # before the soak: a forked process inherits the parent's memory
    print(markdown(by_preset), end="\n\n")
    looks = soak(options)
    print(markdown(looks))
    results = {
        "presets": by_preset,
        "image_replays": replays,
        "image_replays_by_row": by_row,
        "soak": looks,
    }
    write(options.out, "memory", dataclasses.asdict(options), results)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
