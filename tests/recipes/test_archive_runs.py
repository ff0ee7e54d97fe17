"""An archived study reads like the study; every run in it is complete and is there once."""

import subprocess
import sys
from pathlib import Path

import pytest
from test_report import write_run

from recipes.reports.data import read_runs
from recipes.runs import archive as archive_runs
from recipes.runs import folder as run_folder
from recipes.runs.archive import archive
from recipes.runs.errors import RunError
from recipes.runs.folder import RunFolder

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def no_tensorboard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_folder, "_tensorboard", lambda *_: False)


def test_archived_runs_read_as_the_runs_themselves(tmp_path: Path) -> None:
    study, kept = tmp_path / "study", tmp_path / "kept"
    for seed in (0, 1):
        run = RunFolder(write_run(study / f"cerl_full/Task/seed{seed}", seed=seed))
        run.log("iterate", 12_000, realised_cost=float("nan"))
        run.log("update", 12_000, model_loss=1.0)
        run.close()
    copied, unfinished = archive(study, kept)
    assert [str(path) for path in copied] == ["cerl_full/Task/seed0", "cerl_full/Task/seed1"]
    assert not unfinished
    for ours, theirs in zip(read_runs([kept])[0], read_runs([study])[0], strict=True):
        assert ours.figures == theirs.figures
        assert ours.settings == theirs.settings
        assert ours.curve is not None
        assert theirs.curve is not None
        assert (ours.curve.costs == theirs.curve.costs).all()
        assert (ours.curve.steps == theirs.curve.steps).all()
        kinds = {kind: RunFolder(ours.path).read_metrics(kind) for kind in ("iterate", "update")}
        assert len(kinds["iterate"]) == 1
        assert not kinds["update"]
    assert not list(kept.rglob("checkpoints"))


def test_only_finished_runs_are_archived_and_each_once(tmp_path: Path) -> None:
    study, kept = tmp_path / "study", tmp_path / "kept"
    write_run(study / "a/Task/seed0")
    write_run(study / "a/Task/seed1", seed=1, finished=False)
    assert archive(study, kept) == ([Path("a/Task/seed0")], [Path("a/Task/seed1")])
    before = (kept / "a/Task/seed0/metrics.jsonl").stat().st_mtime_ns
    assert archive(study, kept) == ([], [Path("a/Task/seed1")])
    assert (kept / "a/Task/seed0/metrics.jsonl").stat().st_mtime_ns == before
    assert not (kept / "a/Task/seed1").exists()


def test_an_archive_that_was_interrupted_is_completed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, kept = tmp_path / "study", tmp_path / "kept"
    write_run(study / "seed0")

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(archive_runs, "write_atomically", killed)
        with pytest.raises(KeyboardInterrupt):
            archive(study, kept)
    assert archive(study, kept)[0] == [Path("seed0")]
    assert len(read_runs([kept])[0]) == 1


def test_a_source_without_runs_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="holds no run"):
        archive(tmp_path, tmp_path / "kept")
    script = ROOT / "recipes/runs/archive.py"
    words = [sys.executable, str(script), str(tmp_path / "none"), str(tmp_path / "kept")]
    ended = subprocess.run(words, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert ended.stderr.startswith("error: there is no run folder")
