"""Tests the figures by reading their files back: expected elements have their colours."""

import math
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import imageio.v2 as imageio
import imageio_ffmpeg
import matplotlib.colors
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import StepPatch

from recipes.agents import diagnostics
from recipes.plotting import figures
from recipes.plotting.figures import (
    calibration_figure,
    learning_figure,
    steps_figure,
    write_video,
)
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


def log_updates(run: RunFolder, phases: int, **metrics: float | list[float]) -> None:
    """Log a phase of updates after each episode from the second on; a list has a value for each."""
    for phase in range(phases):
        values = {k: v[phase] if isinstance(v, list) else v for k, v in metrics.items()}
        run.log("update", 1000 * (phase + 2), **values)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures as they are saved."""
    saved: list[Figure] = []
    save = figures.save_figure

    def keep(figure: Figure, folder: RunFolder, name: str) -> Path:
        saved.append(figure)
        return save(figure, folder, name)

    monkeypatch.setattr(figures, "save_figure", keep)
    return saved


def panels(figure: Figure) -> dict[str, Axes]:
    return {axes.get_title(loc="left"): axes for axes in figure.axes}


def points(line: Line2D) -> list[list[float]]:
    return np.column_stack([line.get_xdata(), line.get_ydata()]).tolist()


def lines(axes: Axes) -> dict[str, list[list[float]]]:
    """The points of each line, by its label."""
    return {str(line.get_label()): points(line) for line in axes.get_lines()}


def shares(axes: Axes) -> dict[str, list[tuple[float, float]]]:
    """Lower and upper edge of each area, phase by phase, by its label."""
    edges: dict[str, list[tuple[float, float]]] = {}
    for area in axes.patches:
        assert isinstance(area, StepPatch)
        above, _, below = area.get_data()
        edges[str(area.get_label())] = list(zip(np.asarray(below), above, strict=True))
    return edges


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


LBSGD_STEPS: dict[str, Any] = {
    "cost": [0.9, 0.5],
    "cost_mean": [0.4, 0.3],
    "cost_worst": [0.9, 0.6],
    "slack_error": 0.1,
    "allowed": [0.4, 0.45],
    "step_length": [0.04, 0.001],
    "grad_norm": [0.2, 0.3],
    "slope": [0.0, -0.5],
    "eta": [0.1, 0.09],
    "branch_recovery": [1.0, 0.25],
    "branch_slack": [0.0, 0.5],
    "branch_curvature": 0.0,
    "branch_full": [0.0, 0.25],
}


def test_steps_figure_shows_the_metrics_of_the_updates(run: RunFolder, drawn: list[Figure]) -> None:
    log_episodes(run, [0.0, 0.0, 50.0, 5.0])  # of a budget of 25
    log_updates(run, 2, **LBSGD_STEPS)
    assert steps_figure(run.path) == run.path / "steps.png"
    by_title = panels(drawn[0])
    costs, branches, length, gradient, slope, eta = by_title.values()
    shown = lines(costs)
    assert shown["predicted, worst member"] == [[2000, 0.9], [3000, 0.6]]
    assert shown["predicted, mean of members"] == [[2000, 0.4], [3000, 0.3]]
    assert shown["constrained, with its error bound"] == [[2000, 1.0], [3000, 0.6]]
    assert shown["allowed"] == [[2000, 0.4], [3000, 0.45]]
    assert shown["realised, next episode"] == [[2000, 2.0], [3000, 0.2]]
    assert shown["budget"] == [[0, 1], [1, 1]]  # across the whole panel
    assert shares(branches) == {
        "recovery: predicted infeasible": [(0, 1), (0.75, 1)],
        "limited by the slack": [(0, 0), (0.25, 0.75)],
        "full step: not limited": [(0, 0), (0, 0.25)],
    }
    names = ("step_length", "grad_norm", "slope", "eta")
    for name, axes in zip(names, (length, gradient, slope, eta), strict=True):
        first, second = LBSGD_STEPS[name]
        assert points(axes.get_lines()[0]) == [[2000, first], [3000, second]]
        assert axes.get_title(loc="left").startswith(name)
    assert [axes.get_yscale() for axes in (length, gradient)] == ["log", "linear"]  # 40x and 1.5x
    assert {axes.get_xlim() for axes in by_title.values()} == {(0, 4000)}


def test_an_infeasible_run_shows_only_recovery(run: RunFolder, drawn: list[Figure]) -> None:
    log_episodes(run, [0.0, 0.0, 3.0])
    log_updates(run, 1, branch_recovery=1.0, branch_slack=0.0, branch_full=0.0)
    path = steps_figure(run)
    (axes,) = drawn[0].axes
    assert shares(axes) == {"recovery: predicted infeasible": [(0, 1)]}
    assert path is not None
    assert pixels(path, figures.RED) > 10_000, "also a single phase has an area"


def test_steps_figure_has_no_panels_for_what_an_optimiser_lacks(
    run: RunFolder, drawn: list[Figure]
) -> None:
    log_episodes(run, [0.0, 0.0, 3.0])
    log_updates(run, 1, cost_mean=0.2, step_length=0.1, multiplier=3.0, objective=5.0)
    steps_figure(run)
    costs, length, multiplier = panels(drawn[0])
    assert costs == "cost, in budgets"
    assert length.startswith("step_length")
    assert multiplier.startswith("multiplier")
    assert set(lines(drawn[0].axes[0])) == {
        "predicted, mean of members",
        "realised, next episode",
        "budget",
    }


def test_a_metric_that_only_some_updates_have_is_left_out(
    run: RunFolder, drawn: list[Figure]
) -> None:
    log_episodes(run, [0.0, 0.0])
    run.log("update", 2000, eta=0.1, multiplier=1.0)
    run.log("update", 3000, eta=0.1)
    steps_figure(run)
    (title,) = panels(drawn[0])
    assert title.startswith("eta")


def test_nothing_about_steps_is_no_figure(run: RunFolder) -> None:
    assert steps_figure(run) is None
    log_episodes(run, [0.0, 0.0])
    run.log("update", 2000, rows=5, note="other agents log other things")
    assert steps_figure(run) is None
    assert not (run.path / "steps.png").exists()


def test_a_negative_allowance_is_in_the_picture(run: RunFolder, drawn: list[Figure]) -> None:
    log_episodes(run, [0.0, 0.0, 3.0])
    log_updates(run, 1, cost=0.5, allowed=-0.8)
    steps_figure(run)
    assert drawn[0].axes[0].get_ylim()[0] < -0.8


def test_every_branch_has_a_colour() -> None:
    assert set(figures.BRANCHES) == {f"branch_{name}" for name in diagnostics.BRANCHES}


@pytest.mark.parametrize("cost", [0.0, 1000.0, math.nan, math.inf])
def test_figures_are_drawn_for_any_cost(run: RunFolder, cost: float) -> None:
    log_episodes(run, [0.0, cost])
    log_iterates(run, [cost])
    log_updates(run, 2, **dict.fromkeys(LBSGD_STEPS, cost))
    for path in (learning_figure(run), calibration_figure(run), steps_figure(run)):
        assert path is not None
        assert path.stat().st_size > 10_000


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
