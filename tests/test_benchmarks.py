"""Tests that the benchmarks run at tiny sizes, as users run them; does not test any duration."""

import importlib
import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from opengl import skip_without_opengl

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def smoke(name: str, out: Path, *arguments: str) -> tuple[str, dict[str, Any]]:
    """Run a benchmark; return what it prints, and its JSON file."""
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
    assert len(content["results"]["seconds"]) == 2 * 2 * 4
    operations = content["results"]["operations"]
    longest = max(operations, key=lambda name: operations[name]["microseconds"])
    assert f"| `{longest}` |" in printed
    assert operations["aten::mm"]["calls"] > 0


def test_image_environment_compares_the_same_pictures_with_the_stock_environment_s(
    tmp_path: Path,
) -> None:
    skip_without_opengl()
    task = "SafetyPointCircle1-v0"
    printed, content = smoke("image_environment", tmp_path / "images.json", "--tasks", task)
    names = ("stock", "ours", "ours, fast")
    for repeat in (1, 2):
        assert all(f"| {task} | {repeat} | {name} |" in printed for name in names)
    compared, processes = content["results"]["compared"], content["results"]["processes"]
    assert [result["action_repeat"] for result in compared] == [1, 2]
    for result in compared:
        assert set(result["seconds"]) == {
            f"{n}, {part}" for n in names for part in ("reset", "steps")
        }
    assert set(processes["seconds"]) == {"1", "2", "4"}


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


def test_behaviour_update_compares_cerl_with_torchrl_and_each_with_its_products(
    tmp_path: Path,
) -> None:
    printed, content = smoke("behaviour_update", tmp_path / "update.json", "--members", "1", "3")
    contestants = ["CERL, K = 1", "CERL, K = 3"]
    if find_spec("torchrl"):
        contestants.append("TorchRL Dreamer")
    else:
        assert "TorchRL is not installed" in printed
    parts = ("behaviour update", "full step")
    results = content["results"]
    assert set(results) == {f"{part}: {name}" for part in parts for name in contestants}
    assert all(f"| {part} | {name} |" in printed for part in parts for name in contestants)
    for name in contestants:
        behaviour, full = (results[f"{part}: {name}"] for part in parts)
        assert 0 < behaviour["products"] < full["products"]
        assert 0 < behaviour["multiply_adds"] < full["multiply_adds"]


def test_replayed_products_keep_layouts_and_shared_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    from products import products_of, replay  # pyright: ignore[reportMissingImports]

    x, weight = torch.randn(2, 3), torch.randn(3, 4, requires_grad=True)
    products = products_of(lambda: (x @ weight).sum().backward())
    forward, backward = products
    assert forward.multiply_adds == backward.multiply_adds == 2 * 3 * 4
    assert [operand.size for operand in forward.operands] == [(2, 3), (3, 4)]
    transposed = backward.operands[0]
    assert (transposed.size, transposed.stride) == ((3, 2), (1, 3))
    assert transposed.address == forward.operands[0].address
    repeated = products_of(replay(products))
    assert [
        [(operand.size, operand.stride, operand.offset) for operand in product.operands]
        for product in repeated
    ] == [
        [(operand.size, operand.stride, operand.offset) for operand in product.operands]
        for product in products
    ]
    assert repeated[0].operands[0].address == repeated[1].operands[0].address


def test_training_step_sweeps_over_sizes(tmp_path: Path) -> None:
    printed, content = smoke("training_step", tmp_path / "sweep.json", "--sweep")
    assert "| the preset |" in printed
    assert "| batch_size 4 |" in printed
    assert len(content["results"]["seconds"]) == 2 * 2


def test_memory_measures_presets_image_replays_and_a_soak(tmp_path: Path) -> None:
    printed, content = smoke("memory", tmp_path / "memory.json")
    assert [row["preset"] for row in content["results"]["presets"]] == ["cpu", "paper"]
    assert all(row["full replay, MiB"] > 0 for row in content["results"]["presets"])
    assert [row["updates"] for row in content["results"]["soak"]] == [10, 20]
    assert "| paper |" in printed
    replays = content["results"]["image_replays"]
    assert [row["rows"] for row in replays] == [200, 400, 200, 400]
    assert [row["file"] // 12_288 for row in replays] == [0, 0, 200, 400]
    assert all(row["checkpoint"] // row["rows"] < 100 for row in replays[2:])
    by_row = {
        (row["observations"], row["what"]): row["bytes a row"]
        for row in content["results"]["image_replays_by_row"]
    }
    assert by_row["in a file", "file"] == 12_288
    assert by_row["in a file", "checkpoint"] < 100 < 12_288 < by_row["in memory", "checkpoint"]
    assert "| in a file | file | 12288 | 12.29 |" in printed
    assert not [file for file in tmp_path.iterdir() if file.is_dir()]  # the stores are gone


def test_objects_that_change_no_byte_are_not_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    needed = importlib.import_module("image_environment_limit").needed
    model = SimpleNamespace(ngeom=4, geom_rgba=np.full((4, 4), 0.5))

    def draw() -> np.ndarray:
        """The first object hides the second, the third is out of the picture."""
        first, second, _, fourth = model.geom_rgba[:, 3]
        return np.array([first or second, fourth])

    np.testing.assert_array_equal(needed(model, draw), [0, 0.5, 0, 0.5])
    np.testing.assert_array_equal(model.geom_rgba, np.full((4, 4), 0.5))  # as it was


def test_image_environment_limit_compares_drawings_of_the_same_picture(tmp_path: Path) -> None:
    skip_without_opengl()
    printed, content = smoke("image_environment_limit", tmp_path / "limit.json")
    (result,) = content["results"]
    assert set(result["seconds"]) == {"stock", "ours", "needed"}
    assert "| SafetyPointGoal1-v0 |" in printed
