"""Tests that a run folder survives kills, damage and mistakes, and loses or doubles no line."""

import io
import json
import math
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recipes.runs import provenance
from recipes.runs.errors import RunError
from recipes.runs.folder import RunFolder

CONFIG = {"task": "Task-v0", "seed": 3, "episode_budget": 25.0, "members": 5, "layers": (8, 8)}

# Logs a line per episode and saves every third, without end; is killed and resumed twenty times.
# Forks after the slow imports, so that this takes only seconds.
KILLED_WRITER = """
import os, random, signal, sys, time, warnings
from pathlib import Path
import torch, torch.utils.tensorboard
from recipes.runs.folder import RunFolder

path = Path(sys.argv[1])
warnings.simplefilter("error")  # a kill must never damage a checkpoint
torch.set_num_threads(1)

def train():
    run = RunFolder.open(path)
    state = run.load_checkpoint()
    episode = state["episode"]
    while True:
        run.log("episode", episode, episode_cost=float(episode))
        episode += 1
        if episode % 3 == 0:
            state = {"episode": episode, "replay": torch.full((50_000,), float(episode))}
            run.save_checkpoint(state, step=episode)

run = RunFolder.create("demo", "Task-v0", 0, path)
run.write_config({"episode_budget": 25.0})
run.save_checkpoint({"episode": 0, "replay": torch.zeros(50_000)}, step=0)
run.close()
chance = random.Random(0)
for kill in range(20):
    child = os.fork()
    if not child:
        train()
    time.sleep(chance.uniform(0.02, 0.25))
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status), "the writer ended by itself"
    run = RunFolder.open(path)
    state = run.load_checkpoint()
    steps = [row["step"] for row in run.read_metrics("episode")]
    assert steps == list(range(state["episode"])), (kill, state["episode"], steps[-5:])
    assert torch.all(state["replay"] == state["episode"])
    assert len(run.checkpoints()) <= 3
print(state["episode"])
"""


@pytest.fixture
def run(tmp_path: Path) -> Iterator[RunFolder]:
    with closing(RunFolder.create("demo", "Task-v0", 3, tmp_path / "run")) as run:
        run.write_config(CONFIG)
        yield run


def python(program: str, path: Path) -> subprocess.CompletedProcess[str]:
    recipes = str(Path(sys.modules[RunFolder.__module__].__file__ or "").parent)
    return subprocess.run(
        (sys.executable, "-c", program, str(path)),
        env={"PYTHONPATH": recipes, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=250,
    )


def save_three(run: RunFolder) -> None:
    for step in (10, 20, 30):
        run.log("episode", step, episode_cost=float(step))
        run.save_checkpoint({"step": step, "weights": torch.full((1000,), float(step))}, step)
    run.log("episode", 40, episode_cost=40.0)


def test_the_folder_survives_kills_at_any_moment(tmp_path: Path) -> None:
    done = python(KILLED_WRITER, tmp_path / "run")
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout) > 0, "no writer was alive long enough to save"


def test_default_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = RunFolder.create("demo", "Task-v0", 3, None).path
    assert re.fullmatch(r"runs/demo/Task-v0/seed3-\d{8}-\d{6}", str(path))


def test_create_refuses_a_folder_with_a_run_and_takes_any_other(run: RunFolder) -> None:
    with pytest.raises(RunError, match=r"already holds a run: use --resume .* or another --out"):
        RunFolder.create("demo", "Task-v0", 0, run.path)
    notes = run.path.parent / "notes"
    notes.mkdir()
    (notes / "idea.txt").write_text("kept")
    assert RunFolder.create("demo", "Task-v0", 0, notes).path == notes
    assert (notes / "idea.txt").read_text() == "kept"


def test_unwritable_folder_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for out in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(RunError, match=r"^cannot write a run to .*: .+$") as caught:
            RunFolder.create("demo", "Task-v0", 0, out)
        assert "\n" not in str(caught.value)


def test_config_says_what_the_run_ran_on(run: RunFolder) -> None:
    config = run.read_config()
    assert config | {**CONFIG, "layers": [8, 8]} == config
    assert config["versions"]["torch"] == torch.__version__
    assert config["versions"]["numpy"] == np.__version__
    assert set(config["hardware"]) == {"cpu", "cores", "memory_gib", "threads", "gpu"}
    assert config["hardware"]["cores"] >= 1
    assert config["commit"] is None or set(config["commit"]) == {"hash", "dirty"}


def test_no_commit_outside_git(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(provenance, "__file__", str(tmp_path / "provenance.py"))
    assert provenance.git_commit() is None


def test_log_writes_valid_json_whatever_the_numbers(run: RunFolder) -> None:
    run.log("update", 7, loss=math.nan, slack=-math.inf, branch="barrier", recovered=False)
    run.log("update", 8, loss=np.float32(0.5), slack=torch.tensor(2.0), branch="inf-like")  # type: ignore[arg-type]
    run.close()
    for line in (run.path / "metrics.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=lambda constant: pytest.fail(f"{constant} is not JSON"))
    first, second = run.read_metrics("update")
    assert math.isnan(first["loss"])
    assert first["slack"] == -math.inf
    assert first["branch"] == "barrier"
    assert first["recovered"] is False
    assert second["loss"] == 0.5
    assert second["slack"] == 2.0
    assert time.time() - 60 < first["time"] <= time.time() + 1
    assert list((run.path / "tensorboard").glob("events.*"))


def test_read_metrics_leaves_out_a_half_written_last_line(run: RunFolder) -> None:
    run.log("episode", 1, episode_cost=0.0)
    with (run.path / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "episode", "st')
    with pytest.warns(UserWarning, match="half-written last line"):
        assert [row["step"] for row in run.read_metrics("episode")] == [1]
    with (run.path / "metrics.jsonl").open("a") as file:
        file.write("\n")
    with pytest.raises(RunError, match="line 2 is not JSON"):
        run.read_metrics("episode")


def test_the_newest_two_checkpoints_are_kept(run: RunFolder) -> None:
    save_three(run)
    assert [file.name for file in run.checkpoints()] == [
        "step-000000000030.pt",
        "step-000000000020.pt",
    ]


def test_load_checkpoint_rewinds_the_metrics_and_read_checkpoint_does_not(run: RunFolder) -> None:
    save_three(run)
    with (run.path / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "episode", "st')
    before = (run.path / "metrics.jsonl").read_bytes()
    run.close()
    resumed = RunFolder.open(run.path)
    assert resumed.read_checkpoint()["step"] == 30
    assert (run.path / "metrics.jsonl").read_bytes() == before
    state = resumed.load_checkpoint()
    assert torch.equal(state["weights"], torch.full((1000,), 30.0))
    assert [row["step"] for row in resumed.read_metrics("episode")] == [10, 20, 30]
    resumed.log("episode", 40, episode_cost=1.0)
    resumed.close()
    assert [row["step"] for row in resumed.read_metrics("episode")] == [10, 20, 30, 40]


@pytest.mark.parametrize("damage", ["flip", "truncate", "empty", "text"])
def test_a_damaged_newest_checkpoint_falls_back(run: RunFolder, damage: str) -> None:
    save_three(run)
    newest = run.checkpoints()[0]
    content = bytearray(newest.read_bytes())
    where = content.find(torch.full((4,), 30.0).numpy().tobytes())  # within the weights
    content[where] ^= 0xFF
    damaged = {"flip": content, "truncate": content[:-200], "empty": b"", "text": b"not a zip file"}
    newest.write_bytes(damaged[damage])
    with pytest.warns(UserWarning, match=rf"{newest.name} is damaged"):
        assert RunFolder.open(run.path).load_checkpoint()["step"] == 20
    assert [row["step"] for row in run.read_metrics("episode")] == [10, 20]
    run.save_checkpoint({"step": 25}, 25)  # the damaged one must not count as newer
    assert run.read_checkpoint()["step"] == 25


def test_no_readable_checkpoint_names_the_file(run: RunFolder) -> None:
    run.save_checkpoint({"step": 1}, 1)
    run.checkpoints()[0].write_bytes(b"")
    with pytest.raises(RunError, match=r"^no readable checkpoint: .*step-000000000001\.pt$"):
        RunFolder.open(run.path).load_checkpoint()


def test_open_says_what_is_missing(run: RunFolder, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="there is no such folder"):
        RunFolder.open(tmp_path / "nowhere")
    with pytest.raises(RunError, match=r"no config\.json"):
        RunFolder.open(tmp_path)
    with pytest.raises(RunError, match="no checkpoint yet"):
        RunFolder.open(run.path)
    run.save_checkpoint({"step": 1}, 1)
    assert RunFolder.open(run.path, "demo").recipe == "demo"
    with pytest.raises(RunError, match="demo made it, not ablation"):
        RunFolder.open(run.path, "ablation")
    (run.path / "config.json").write_text("{")
    with pytest.raises(RunError, match=r"^cannot read .*config\.json"):
        RunFolder.open(run.path)


def test_another_configuration_is_refused_by_field(run: RunFolder) -> None:
    run.check_config({**CONFIG, "out": Path("elsewhere"), "resume": run.path})
    with pytest.raises(RunError, match=r"configuration: members \(5, not 3\), seed \(3, not 4\)$"):
        run.check_config({**CONFIG, "seed": 4, "members": 3})


def test_a_checkpoint_of_another_configuration_is_refused(run: RunFolder) -> None:
    run.save_checkpoint({"step": 1}, 1)
    run.write_config({**CONFIG, "members": 3})
    with pytest.raises(RunError, match=r"another configuration: members \(3, not 5\)"):
        run.load_checkpoint()


def test_lost_metrics_are_an_error(run: RunFolder) -> None:
    save_three(run)
    (run.path / "metrics.jsonl").write_text("")
    with pytest.raises(RunError, match="lines are lost"):
        RunFolder.open(run.path).load_checkpoint()


def test_a_state_that_could_not_be_loaded_is_refused_when_saved(run: RunFolder) -> None:
    generator = np.random.default_rng(0).bit_generator.state
    state = {"rng": generator, "torch": torch.get_rng_state(), "list": [1, (2.0, None)], "b": b"x"}
    run.save_checkpoint(state, 1)
    assert run.read_checkpoint()["rng"] == generator
    with pytest.raises(TypeError, match=r"state\['replay'\]\[1\] is a ndarray"):
        run.save_checkpoint({"replay": [1, np.zeros(2)]}, 2)
    with pytest.raises(TypeError, match=r"state\['cost'\] is a float64"):
        run.save_checkpoint({"cost": np.float64(1.0)}, 2)


def test_a_failed_save_leaves_the_checkpoint_before(run: RunFolder) -> None:
    """A limit on file sizes stands for a full disk."""
    program = """
import resource, sys
from pathlib import Path
import torch
from recipes.runs.errors import RunError
from recipes.runs.folder import RunFolder
run = RunFolder.open(Path(sys.argv[1]))
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    run.save_checkpoint({"replay": torch.zeros(1_000_000)}, 2)
except RunError as error:
    print(error)
"""
    run.save_checkpoint({"step": 1}, 1)
    done = python(program, run.path)
    assert re.fullmatch(r"cannot write .*step-000000000002\.pt: .+\n", done.stdout), done.stderr
    assert run.read_checkpoint()["step"] == 1
    assert len(list((run.path / "checkpoints").iterdir())) == 1


def test_an_interrupted_save_is_an_interrupt_and_leaves_the_checkpoint_before(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Interrupted(io.BytesIO):
        def write(self, content: Any) -> int:
            if self.tell() > 1000:  # within the data: torch then raises another error
                raise KeyboardInterrupt
            return super().write(content)

    run.save_checkpoint({"step": 1}, 1)
    save = torch.save
    monkeypatch.setattr(torch, "save", lambda known, file: save(known, Interrupted()))
    with pytest.raises(KeyboardInterrupt):
        run.save_checkpoint({"replay": torch.zeros(1000)}, 2)
    assert run.read_checkpoint()["step"] == 1
    assert len(list((run.path / "checkpoints").iterdir())) == 1


def test_summary_is_json(run: RunFolder) -> None:
    run.write_summary({"policy_violations": 0, "final_return": math.nan})
    summary = json.loads((run.path / "summary.json").read_text())
    assert summary == {"policy_violations": 0, "final_return": "nan"}
