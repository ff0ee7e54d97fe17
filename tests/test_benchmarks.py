"""The benchmarks run as users run them, at tiny sizes; how long anything takes is not tested."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def smoke(name: str, out: Path, *arguments: str) -> tuple[str, dict[str, Any]]:
    """What the benchmark prints, and its JSON file."""
    result = subprocess.run(
        [sys.executable, BENCHMARKS / f"{name}.py", "--smoke", "--out", out, *arguments],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert result.returncode == 0, result.stderr
    return result.stdout, json.loads(out.read_text())


def test_rssm_observe_compares_itself_with_its_products_and_with_torchrl(tmp_path: Path) -> None:
    printed, content = smoke("rssm_observe", tmp_path / "results" / "rssm.json")
    (result,) = content["results"]
    contestants = {"RSSM.observe", "its products alone"}
    if find_spec("torchrl"):
        contestants.add("TorchRL RSSMRollout")
    else:
        assert "TorchRL is not installed" in printed
    assert set(result["seconds"]) == contestants
    assert all(f"| {name} |" in printed for name in contestants)
    assert all(len(seconds) == 1 for seconds in result["seconds"].values())
    assert content["versions"]["torch"]
    assert content["hardware"]["threads"] == 1


def test_training_step_compares_numbers_of_members_and_names_operations(tmp_path: Path) -> None:
    printed, content = smoke("training_step", tmp_path / "step.json", "--members", "1", "3")
    assert "| 3 |" in printed
    assert content["settings"]["members"] == [1, 3]
    assert set(content["results"]["peak_memory_mib"]) == {"1", "3"}
    assert len(content["results"]["seconds"]) == 2 * 4
    assert "| `aten::mm` |" in printed
    assert content["results"]["operations"]["aten::mm"]["calls"] > 0


def test_environment_steps_compares_the_same_episodes_with_the_stock_environment_s(
    tmp_path: Path,
) -> None:
    task = "SafetyPointCircle1-v0"
    printed, content = smoke("environment_steps", tmp_path / "steps.json", "--tasks", task)
    assert all(f"| {task} | {name} |" in printed for name in ("stock", "ours"))
    (result,) = content["results"]
    assert result["task"] == task
    assert len(result["episode_lengths"]) == 1
    assert set(result["seconds"]) == {
        f"{name}, {part}" for name in ("stock", "ours") for part in ("reset", "steps")
    }
    assert all(len(seconds) == 1 for seconds in result["seconds"].values())
