"""CERL on images of the robot's camera, as users run it: it survives a kill to the same numbers."""

import json
import signal
import time
from pathlib import Path
from typing import Any

import imageio.v3 as imageio
import pytest
import torch
from opengl import skip_without_opengl
from processes import finish, launch, said

CERL_FULL = Path(__file__).parents[2] / "recipes" / "cerl_full.py"
TASK = "SafetyPointCircle1-v0"
SETTINGS = ("--smoke", "--task", TASK, "--observation", "image", "--steps", 2000)


def outcome(run: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """All that a run with the same seed must repeat."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    summary = json.loads((run / "summary.json").read_text())
    for record in (*lines, summary):
        record.pop("time", None), record.pop("wall_seconds", None)
    return lines, summary


def test_a_killed_run_goes_on_to_the_same_numbers(tmp_path: Path) -> None:
    skip_without_opengl()
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    finish(launch(CERL_FULL, *SETTINGS, "--out", undisturbed))
    process = launch(CERL_FULL, *SETTINGS, "--out", killed)
    last = time.monotonic() + 100
    while not list(killed.glob("checkpoints/step-*1500.pt")) and time.monotonic() < last:
        time.sleep(0.01)
    process.kill()
    finish(process, -signal.SIGKILL)
    assert not (killed / "summary.json").exists()
    finish(launch(CERL_FULL, "--resume", killed))
    assert outcome(killed) == outcome(undisturbed)
    lines, summary = outcome(undisturbed)
    (*_, update) = (line for line in lines if line["kind"] == "update")
    assert 0 < update["model_observation"] < 64 * 64 * 3 / 2
    assert summary["environment_steps"] == 2000
    assert (undisturbed / "policy.mp4").exists()
    strip = imageio.imread(undisturbed / "filmstrip.png")  # three rows of images, doubled, framed
    assert strip.shape == (3 * 130, 10 * 130, 3)
    assert strip[:130, :].std() > 5


def test_the_pixels_preset_learns_from_images_of_the_half_cheetah(tmp_path: Path) -> None:
    skip_without_opengl()
    run = tmp_path / "run"
    finish(launch(CERL_FULL, "--preset", "pixels", "--smoke", "--steps", 3000, "--out", run))
    lines, summary = outcome(run)
    assert summary["task"] == "SafetyHalfCheetahVelocity-v1"
    assert summary["environment_steps"] == 3000
    assert sum(line["kind"] == "iterate" for line in lines) == 1  # after two episodes of prefill
    frames = imageio.imread(run / "filmstrip.png")[:130]
    assert frames.std() > 20
    assert json.loads((run / "config.json").read_text())["action_repeat"] == 4


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there_is_refused(tmp_path: Path) -> None:
    process = launch(CERL_FULL, *SETTINGS, "--device", "cuda", "--out", tmp_path / "run")
    _, err = finish(process, 2)
    assert err.startswith("error: device: got cuda, but torch finds no CUDA device here")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "refusal"),
    [
        (("--image-depth", 0), "image_depth: got 0; allowed: at least 1."),
        (("--image-quality", "best"), "invalid choice 'best'"),
    ],
)
def test_refuses_in_one_box(tmp_path: Path, arguments: tuple[Any, ...], refusal: str) -> None:
    process = launch(CERL_FULL, *SETTINGS, *arguments, "--out", tmp_path / "run")
    _, err = finish(process, 2)
    assert refusal in said(err)
    assert err.count("╭") == 1
    assert "Traceback" not in err
    assert not (tmp_path / "run").exists()
