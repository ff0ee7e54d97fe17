"""Tests the figures by reading their files back: expected elements have their colours."""

import math
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import imageio.v2 as imageio
import imageio_ffmpeg
import matplotlib.colors
import numpy as np
import pytest

from recipes.plotting import figures
from recipes.plotting.figures import calibration_figure, learning_figure, write_video
from recipes.runs.errors import RunError
from recipes.runs.folder import RunFolder


@pytest.fixture
def run(tmp_path: Path) -> Iterator[RunFolder]:
    with closing(RunFolder.create("demo", "Task-v0", 3, tmp_path / "run")) as run:
        run.write_config({"task": "Task-v0", "seed": 3, "episode_budget": 25.0})
        yield run


def log_episodes(run: RunFolder, costs: list[float], prefill: int = 2) -> None:
    for episode, cost in enumerate(costs):
        step, phase = 1000 * (episode + 1), "prefill" if episode < prefill else "train"
        run.log(
            "episode",
            step,
            episode=episode,
            iterate=max(0, episode - prefill),
            phase=phase,
            episode_return=10.0 * episode,
            episode_cost=cost,
            fallback_steps=0,
        )


def log_iterates(run: RunFolder, realised: list[float]) -> None:
    for iterate, cost in enumerate(realised):
        run.log(
            "iterate",
            1000 * (iterate + 1),
            iterate=iterate,
            predicted_cost_mean=5.0,
            predicted_cost_worst=9.0,
            realised_cost=cost,
            budget=25.0,
        )


def pixels(file: Path, color: str) -> int:
    """Count the pixels of this colour."""
    image = np.asarray(imageio.imread(file))[..., :3]
    wanted = np.round(255 * np.array(matplotlib.colors.to_rgb(color)))
    return int((np.abs(image - wanted).max(-1) <= 1).sum())


def test_learning_figure_shows_budget_prefill_evaluations_and_violations(run: RunFolder) -> None:
    log_episodes(run, [0.0, 0.0, 5.0, 9.0], prefill=0)
    path = learning_figure(run)
    assert path == run.path / "learning.png"
    assert imageio.imread(path).shape[:2] == (832, 1040)
    shaded = "#eaebed"  # the prefill's grey over white
    plain = {color: pixels(path, color) for color in (figures.RED, figures.GREEN, shaded)}
    assert plain[figures.RED] > 100, "the budget is drawn"
    assert plain[figures.GREEN] == 0
    assert plain[shaded] < 100
    log_episodes(run, [0.0, 0.0, 40.0], prefill=2)
    run.log("evaluation", 3000, return_mean=20.0, cost_mean=3.0)
    learning_figure(run)
    assert pixels(path, figures.RED) > plain[figures.RED], "the violation is ringed"
    assert pixels(path, figures.GREEN) > 100, "the evaluation is drawn"
    assert pixels(path, shaded) > 1000, "the prefill is shaded"


def test_calibration_figure_shows_both_predictions(run: RunFolder) -> None:
    log_iterates(run, [3.0, 8.0, 20.0])
    path = calibration_figure(run.path)  # a path instead of a RunFolder
    assert path == run.path / "calibration.png"
    assert pixels(path, figures.BLUE) > 100
    assert pixels(path, figures.ORANGE) > 100
    before = pixels(path, figures.RED)
    log_iterates(run, [60.0])
    calibration_figure(run)
    assert pixels(path, figures.RED) > before


@pytest.mark.parametrize("cost", [0.0, 1000.0, math.nan, math.inf])
def test_figures_are_drawn_for_any_cost(run: RunFolder, cost: float) -> None:
    log_episodes(run, [0.0, cost])
    log_iterates(run, [cost])
    assert learning_figure(run).stat().st_size > 10_000
    assert calibration_figure(run).stat().st_size > 10_000


def test_nothing_to_draw_is_one_clear_line(run: RunFolder) -> None:
    with pytest.raises(RunError, match="has no episode lines to draw"):
        learning_figure(run)
    with pytest.raises(RunError, match="has no iterate lines to draw"):
        calibration_figure(run)


def test_running_mean_is_over_the_last_episodes() -> None:
    np.testing.assert_allclose(figures.running_mean(np.arange(5.0), 3), [0, 0.5, 1, 2, 3])


FRAMES = [np.full((64, 64, 3), 25 * shade, dtype=np.uint8) for shade in range(10)]


def test_video_is_an_mp4_with_every_frame(tmp_path: Path) -> None:
    path, reason = write_video(iter(FRAMES), tmp_path / "policy.mp4", fps=10)
    assert (path, reason) == (tmp_path / "policy.mp4", "")
    to_raw = ("-f", "rawvideo", "-pix_fmt", "rgb24", "-")
    read = subprocess.run(
        (imageio_ffmpeg.get_ffmpeg_exe(), "-i", str(path), *to_raw), capture_output=True, check=True
    )
    brightness = np.frombuffer(read.stdout, np.uint8).reshape(-1, 64 * 64 * 3).mean(1)
    np.testing.assert_allclose(brightness, [frame.mean() for frame in FRAMES], atol=4)


def test_video_falls_back_to_a_gif_and_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(tmp_path / "no-ffmpeg"))
    path, reason = write_video(FRAMES, tmp_path / "policy.mp4", fps=10)
    assert path == tmp_path / "policy.gif"
    assert reason.startswith("no mp4 encoder")
    assert len(imageio.mimread(tmp_path / "policy.gif")) == len(FRAMES)
    assert not (tmp_path / "policy.mp4").exists()


def test_no_video_without_frames_folder_or_imageio(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert write_video([], tmp_path / "policy.mp4") == (None, "no frames were rendered")
    path, reason = write_video(FRAMES, tmp_path / "nowhere" / "policy.mp4")
    assert path is None
    assert "no gif" in reason
    monkeypatch.setitem(sys.modules, "imageio.v2", None)
    assert write_video(FRAMES, tmp_path / "a.mp4") == (None, "imageio is not installed")
