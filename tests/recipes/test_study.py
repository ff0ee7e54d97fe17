"""Studies: which runs they have, what they reject, and how they resume, retry and report."""

import contextlib
import fcntl
import io
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from processes import finish, said
from processes import launch as launch_script
from rich.console import Console

from recipes import study
from recipes.runs.errors import RunError
from recipes.studies.definitions import STUDIES, Study
from recipes.studies.folder import lock_folder
from recipes.studies.planned_run import PlannedRun, RunEnd
from recipes.studies.processes import launch as launch_run
from recipes.studies.runner import run_all
from recipes.studies.table import RunProgress, StudyTable, read_progress

RECIPES = Path(__file__).parents[2] / "recipes"
TASK, OTHER_TASK = "SafetyHalfCheetahVelocity-v1", "SafetyAntVelocity-v1"
SLOWLY = ("--set", "steps=5000", "pause=0.2")

# A fake recipe: each episode's numbers follow from the seed and the episode before. It writes and
# resumes a folder as real recipes do, but without torch, in a fraction of the time.
COUNTER = """
import argparse, json, os, signal, sys, time
from pathlib import Path

parser = argparse.ArgumentParser()
for name in ("--task", "--out", "--resume", "--threads"):
    parser.add_argument(name)
for name in ("--seed", "--steps", "--code", "--die"):
    parser.add_argument(name, type=int, default=0)
for name in ("--pause", "--guard_share"):
    parser.add_argument(name, type=float, default=0.0)
chosen = parser.parse_args()
if chosen.code:
    print("a warning", file=sys.stderr)
    sys.exit("error: steps: got 7; allowed: others" if chosen.code == 1 else chosen.code)

folder = Path(chosen.resume or chosen.out)
metrics = folder / "metrics.jsonl"
episode, value = 0, float(chosen.seed)
if chosen.resume:
    saved = json.loads(max(folder.glob("checkpoints/step-*.pt")).read_text())
    episode, value = saved["episode"], saved["value"]
    os.truncate(metrics, saved["bytes"])
else:
    (folder / "checkpoints").mkdir(parents=True)
    config = {"steps": chosen.steps, "episode_budget": 25.0}
    (folder / "config.json").write_text(json.dumps(config))

def write(file, content):
    file.with_suffix(".writing").write_text(json.dumps(content))
    file.with_suffix(".writing").replace(file)

try:
    while episode < chosen.steps // 1000:
        time.sleep(chosen.pause)
        episode, value = episode + 1, (value * 3.7 + 11.0) % 53.0
        line = {"kind": "episode", "step": 1000 * episode, "time": time.time(), "iterate": episode}
        line |= {"episode_return": -value, "episode_cost": value}
        with metrics.open("a") as stream:
            stream.write(json.dumps(line) + chr(10))
        saved = {"episode": episode, "value": value, "bytes": metrics.stat().st_size}
        write(folder / "checkpoints" / f"step-{episode:09d}.pt", saved)
        if chosen.die and episode == 2:
            signal.raise_signal(chosen.die)
except KeyboardInterrupt:
    sys.exit(130)
write(folder / "summary.json", {"value": value, "wall_seconds": time.time()})
"""


@pytest.fixture(scope="session")
def counter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    script = tmp_path_factory.mktemp("recipe") / "counter.py"
    script.write_text(COUNTER)
    return script


@pytest.fixture(scope="session")
def uninterrupted(counter: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("uninterrupted") / "study"
    assert run_study(counter_study(folder, counter)) == 0
    return folder


def counter_study(folder: Path, counter: Path, *arguments: object) -> list[object]:
    """Arguments of a study with four runs of the fake recipe, two at a time."""
    about = ("--recipes", counter, "--seeds", 4, "--jobs", 2, "--out", folder)
    return [*about, *(arguments or SLOWLY)]


def run_study(arguments: Iterable[object]) -> int:
    """Run a study in this process, which starts sooner than a new one; return its exit code."""
    return study.main(["ablations", "--no-report", *map(str, arguments)])


def launch(*arguments: object) -> subprocess.Popen[str]:
    return launch_script(RECIPES / "study.py", "ablations", "--no-report", *arguments)


def refused(arguments: list[object], capsys: pytest.CaptureFixture[str]) -> str:
    """Run a study with bad input; return its error message."""
    with pytest.raises(SystemExit) as stopped:
        study.main([str(word) for word in arguments])
    assert stopped.value.code == 2
    return said(capsys.readouterr().err)


def outcomes(folder: Path) -> dict[str, Any]:
    """Return each run's summary and metrics, without times, by the run's folder."""
    found = {}
    for file in sorted(folder.glob("*/*/seed*/summary.json")):
        summary = json.loads(file.read_text())
        lines = (file.parent / "metrics.jsonl").read_text().splitlines()
        rows = [json.loads(line) for line in lines]
        for row in (summary, *rows):
            for name in ("time", "wall_seconds", "video"):
                row.pop(name, None)
        found[str(file.parent.relative_to(folder))] = (summary, rows)
    return found


def attempts(folder: Path) -> list[list[int]]:
    """Return the process IDs of every run's attempts."""
    logs = [file.read_text() for file in sorted(folder.glob("logs/*.out"))]
    return [[int(number) for number in re.findall(r" pid (\d+): ", log)] for log in logs]


def processes(folder: Path) -> list[int]:
    """Return the last process ID of every run."""
    return [of_run[-1] for of_run in attempts(folder)]


def alive(process: int) -> bool:
    try:
        return " Z " not in Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return False


def wait_until(
    holds: Callable[[], object], of: subprocess.Popen[str], timeout: float = 100
) -> None:
    last = time.monotonic() + timeout
    while not holds():
        assert of.poll() is None, of.communicate()
        assert time.monotonic() < last, "it took too long"
        time.sleep(0.02)


def checkpoints(folder: Path) -> set[Path]:
    return set(folder.glob("*/*/*/checkpoints/step-*.pt"))


# ---- definitions -----------------------------------------------------------------------------


def test_a_study_is_every_recipe_on_every_task_with_every_seed(tmp_path: Path) -> None:
    study = Study(
        recipes=("cerl_full", "ablation_mean_aggregator"),
        tasks=(TASK, OTHER_TASK),
        seeds=(0, 7),
        settings={"steps": "9000", "prefill_scales": "0.5,1.0"},
    )
    study.check()
    runs = study.runs(tmp_path)
    assert [run.name for run in runs[:4]] == [
        f"cerl_full/{TASK}/seed0",
        f"ablation_mean_aggregator/{TASK}/seed0",
        f"cerl_full/{OTHER_TASK}/seed0",
        f"ablation_mean_aggregator/{OTHER_TASK}/seed0",
    ]
    assert len({run.folder for run in runs}) == len(runs) == 8
    assert runs[0].folder == tmp_path / "cerl_full" / TASK / "seed0"
    assert runs[0].script == RECIPES / "cerl_full.py"
    assert {run.settings for run in runs} == {
        ("--steps", "9000", "--prefill_scales", "0.5", "1.0"),
    }


def test_the_named_studies_can_run() -> None:
    for named in STUDIES.values():
        named.check()
        named.smoke().check()
    ablations = {path.stem for path in RECIPES.glob("ablation_*.py")}
    assert set(STUDIES["ablations"].recipes) == ablations | {"cerl_full", "lambda_agent"}


def test_a_study_may_set_what_only_one_recipe_has() -> None:
    settings = {"proportional_gain": "2", "prefill_scales": "0.5,1.0"}
    Study(recipes=("ablation_pid_lagrangian",), settings=settings).check()
    with pytest.raises(ValueError, match="settings of cerl_full: cannot parse --proportional_gain"):
        Study(recipes=("cerl_full",), settings=settings).check()


# ---- rejected input --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "answer"),
    [
        ("ablation", "study: got ablation; allowed: ablations, open_questions, model_free."),
        ("ablations --recipes cerl", "recipes: got cerl; allowed: cerl_full, ablation_"),
        ("ablations --recipes no.py", "recipes: got no.py; allowed: cerl_full"),
        (
            "ablations --recipes cerl_full other/cerl_full.py",
            "recipes: got cerl_full cerl_full; allowed: each once.",
        ),
        ("ablations --tasks SafetyHalfCheetaVelocity-v1", TASK),
        (f"ablations --tasks {TASK} {TASK}", f"tasks: got {TASK} {TASK}; allowed: each once."),
        ("ablations --seeds 0", "seeds: got 0; allowed: at least 1."),
        ("ablations --set steps", "set: got steps; allowed: name=value"),
        ("ablations --set seed=3", "settings: got seed; allowed: any setting but task, seed"),
        ("ablations --set member=3", "Unrecognized options: --member"),
        ("ablations --set member=3", "error: settings of cerl_full: cannot parse --steps"),
        ("ablations --set steps=0", "steps: got 0; allowed: at least 1."),
        ("ablations --retry 3", "Unrecognized options: --retry"),
        ("ablations --jobs 0", "jobs: got 0; allowed: at least 1."),
        ("ablations --ray-address here", "ray_address: "),
    ],
)
def test_a_study_that_cannot_run_starts_nothing(
    arguments: str, answer: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*arguments.split(), "--out", tmp_path / "study"]
    assert answer in refused(words, capsys)
    assert not list(tmp_path.glob("study/*/*/seed*"))


def test_a_folder_holds_one_study(
    uninterrupted: Path, counter: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A different study is refused, with the differences; so is a folder with other files."""
    before = outcomes(uninterrupted)
    about = ["ablations", "--recipes", counter, "--out", uninterrupted]
    line = refused([*about, "--seeds", 3, "--set", "steps=5000", "pause=0.2"], capsys)
    assert "holds a study with another definition: seeds ([0, 1, 2, 3], not [0, 1, 2])" in line
    assert "settings (" not in line
    line = refused([*about, "--seeds", 4, "--set", "steps=6000", "pause=0.2"], capsys)
    assert "settings ({'steps': '5000', " in line
    assert ", not {'steps': '6000', " in line
    assert "; use another --out" in line
    line = refused([*about[:-1], counter.parent], capsys)
    assert f"{counter.parent} holds counter.py but no study: use another --out" in line
    assert outcomes(uninterrupted) == before


def test_two_studies_do_not_share_a_folder(tmp_path: Path) -> None:
    study = Study(recipes=("cerl_full",))
    with (
        lock_folder(tmp_path, study),
        pytest.raises(RunError, match=rf"another study is running there, process {os.getpid()} on"),
        lock_folder(tmp_path, study),
    ):
        pass
    left_over = tmp_path / "study.lock"  # as after a kill
    left_over.write_text("process 4194305 on elsewhere since 2024-01-01 00:00:00\n")
    with lock_folder(tmp_path, study):
        assert f"process {os.getpid()} on" in left_over.read_text()


def test_an_unwritable_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(RunError, match=r"cannot write a study to .*: Not a directory"),
        lock_folder(tmp_path / "file" / "study", Study(recipes=("cerl_full",))),
    ):
        pass


# ---- retries ---------------------------------------------------------------------------------


class ScriptedExecutor:
    """Ends each run with given exit codes, one for each attempt; None is a lost node."""

    def __init__(self, codes: dict[int, list[int | None]]) -> None:
        self.codes = codes
        self.submitted: list[PlannedRun] = []
        self.interrupted = False

    def submit(self, run: PlannedRun) -> None:
        self.submitted.append(run)

    def ended(self) -> list[RunEnd]:
        events = [RunEnd(run, self.codes[run.seed].pop(0)) for run in self.submitted]
        self.submitted = []
        for event in events:
            if event.code == 0:
                event.run.folder.mkdir(parents=True)
                (event.run.folder / "summary.json").touch()
        return events

    def interrupt(self) -> None:
        self.interrupted = True


def run_scripted(
    folder: Path, *codes: list[int | None], show: Callable[[], None] = lambda: None
) -> tuple[list[PlannedRun], ScriptedExecutor]:
    runs = Study(recipes=("cerl_full",), seeds=tuple(range(len(codes)))).runs(folder)
    executor = ScriptedExecutor(dict(enumerate(codes)))
    with contextlib.suppress(KeyboardInterrupt):
        run_all(runs, executor, retries=2, show=show)
    return runs, executor


def test_killed_runs_are_retried_and_failed_ones_are_not(tmp_path: Path) -> None:
    codes: list[list[int | None]] = [[0], [-9, None, 0], [2], [143, -9, -11], [None, 1]]
    runs, _ = run_scripted(tmp_path, *codes)
    assert [(run.state, run.attempts, run.reason) for run in runs] == [
        ("done", 1, ""),
        ("done", 3, ""),
        ("failed", 1, "exit code 2"),
        ("failed", 3, "killed by signal 11 (Segmentation fault)"),
        ("failed", 2, "exit code 1"),
    ]


def test_an_interrupt_reaches_the_runs(tmp_path: Path) -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    _, executor = run_scripted(tmp_path, [0], [-9, 0], show=stop)
    assert executor.interrupted


# ---- interruptions ---------------------------------------------------------------------------


def test_a_killed_study_resumes_to_the_same_numbers(
    uninterrupted: Path, counter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """When the study's process is killed, its runs end; the same command resumes them."""
    folder = tmp_path / "study"
    process = launch(*counter_study(folder, counter))
    wait_until(lambda: len(checkpoints(folder)) >= 3, process)
    process.kill()
    finish(process, -signal.SIGKILL)
    last = time.monotonic() + 10
    while any(map(alive, processes(folder))) and time.monotonic() < last:
        time.sleep(0.02)
    assert not any(map(alive, processes(folder)))
    assert len(outcomes(folder)) < 4
    assert run_study(counter_study(folder, counter)) == 0
    assert len(outcomes(folder)) == 4
    assert outcomes(folder) == outcomes(uninterrupted)
    capsys.readouterr()
    assert run_study(counter_study(folder, counter)) == 0  # nothing is left to do
    printed = capsys.readouterr().out
    assert "running" not in printed
    assert f"python -m recipes.report {folder} --out {folder}/report" in printed


def test_a_killed_run_is_retried(
    uninterrupted: Path, counter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each run kills itself after its second episode."""
    folder = tmp_path / "study"
    settings = ("--set", "steps=5000", f"die={int(signal.SIGKILL)}")
    assert run_study(counter_study(folder, counter, *settings)) == 0
    assert capsys.readouterr().out.count("waiting: killed by signal 9 (Killed)") == 4
    assert [len(of_run) for of_run in attempts(folder)] == [2] * 4
    assert outcomes(folder) == outcomes(uninterrupted)


def test_an_interrupted_study_prints_how_to_resume(
    uninterrupted: Path, counter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "study"
    process = launch(*counter_study(folder, counter))
    wait_until(lambda: checkpoints(folder), process)
    second = refused(["ablations", *counter_study(folder, counter)], capsys)
    assert f"{folder}: another study is running there, process {process.pid} on" in second
    process.send_signal(signal.SIGINT)
    _, err = finish(process, 130)
    assert err.strip().startswith("stopped; resume with: python -m recipes.study ablations")
    assert not any(map(alive, processes(folder)))
    assert run_study(counter_study(folder, counter)) == 0
    assert outcomes(folder) == outcomes(uninterrupted)


def test_a_failed_run_is_reported_with_its_last_error(
    counter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "study"
    assert run_study(counter_study(folder, counter, "--set", "code=1")) == 1
    printed, err = capsys.readouterr()
    lines = err.splitlines()
    assert len(lines) == 4
    why = "after 1 attempt: error: steps: got 7; allowed: others; see "
    assert lines[0].startswith(f"failed: counter/{TASK}/seed0 {why}")
    assert f"the study is in {folder}" in printed
    assert printed.count(" failed: error: steps: got 7; allowed: others") == 4


def test_two_processes_never_write_one_run(counter: Path, tmp_path: Path) -> None:
    """If a node only seemed lost, the next attempt waits until the first process has ended."""
    run = Study(recipes=(str(counter),), settings={"steps": "1000"}).runs(tmp_path)[0]
    run.log.parent.mkdir(parents=True)
    with Path(f"{run.log}.err").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        process = launch_run(run)
        time.sleep(1)
        assert process.poll() is None
        assert not run.folder.exists()
    assert process.wait(60) == 0
    assert run.has_summary()


def test_killed_and_resumed_runs_of_a_real_recipe_equal_uninterrupted_ones(tmp_path: Path) -> None:
    """First a run's process is killed, then the study's."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    about = ("--recipes", "cerl_full", "--seeds", 2, "--smoke", "--jobs", 2, "--out")
    assert run_study([*about, whole]) == 0
    process = launch(*about, killed)
    wait_until(lambda: checkpoints(killed), process)
    first = checkpoints(killed).pop().parents[1]
    os.kill(process_of(first, killed), signal.SIGKILL)
    wait_until(lambda: any(len(of_run) == 2 for of_run in attempts(killed)), process)
    before = checkpoints(killed)
    wait_until(lambda: checkpoints(killed) - before, process)
    process.kill()
    finish(process, -signal.SIGKILL)
    assert run_study([*about, killed]) == 0
    assert len(outcomes(killed)) == 2
    assert outcomes(killed) == outcomes(whole)


def process_of(run: Path, folder: Path) -> int:
    log = folder / "logs" / f"{'-'.join(run.relative_to(folder).parts)}.out"
    return int(re.findall(r" pid (\d+): ", log.read_text())[-1])


# ---- the table -------------------------------------------------------------------------------


def test_progress_is_read_from_the_folder(uninterrupted: Path, tmp_path: Path) -> None:
    assert read_progress(tmp_path) == RunProgress()
    progress = read_progress(uninterrupted / "counter" / TASK / "seed0")
    costs = [11.0]
    while len(costs) < 5:
        costs.append((costs[-1] * 3.7 + 11.0) % 53.0)
    assert (progress.completed, progress.total) == (5000, 5000)
    assert progress.results == (
        f"5,000/5,000 steps, return {-costs[-1]:.1f}, cost {costs[-1]:.1f}/25, "
        f"violations {sum(cost > 25.0 for cost in costs)}"
    )


def view(runs: list[PlannedRun], terminal: bool) -> str:
    """Return what a table prints while the second run starts, the third fails, the last ends."""
    console = Console(file=io.StringIO(), force_terminal=terminal, width=160)
    with StudyTable(runs, console) as table:
        table.show()
        runs[1].state, runs[3].state = "running", "done"
        runs[2].state, runs[2].reason = "failed", "exit code 2"
        table._next_refresh = 0.0
        table.show()
    assert isinstance(console.file, io.StringIO)
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", console.file.getvalue())


def test_a_terminal_shows_changes_the_study_and_running_runs(uninterrupted: Path) -> None:
    runs = Study(recipes=("counter.py",), seeds=(0, 1, 2, 3)).runs(uninterrupted)
    shown = view(runs, terminal=True)
    assert f"counter/{TASK}/seed2 failed: exit code 2" in shown
    assert f"counter/{TASK}/seed3 done: 5,000/5,000 steps, return " in shown
    study, run = shown.splitlines()[-2:]
    assert study.startswith("1 of 4 runs done, 1 failed, 1 running, 1 waiting ")
    assert run.startswith(f"counter/{TASK}/seed1 ")
    assert "0:00:00 5,000/5,000 steps, return " in run


def test_elsewhere_plain_lines_are_printed(uninterrupted: Path) -> None:
    runs = Study(recipes=("counter.py",), seeds=(0, 1, 2, 3)).runs(uninterrupted)
    first, *changes, last = view(runs, terminal=False).splitlines()
    assert first.startswith("0 of 4 runs done, 4 waiting ")
    assert [line.split()[1] for line in changes] == ["running:", "failed:", "done:"]
    assert last.startswith("1 of 4 runs done, 1 failed, 1 running, 1 waiting ")


# ---- a Ray cluster ---------------------------------------------------------------------------


@pytest.fixture
def cluster() -> Iterator[Any]:
    """A head node without room for a run, and two nodes with room for two each."""
    pytest.importorskip("ray", reason="Ray is not installed: pip install -e '.[ray]'")
    from ray.cluster_utils import Cluster

    small = {"object_store_memory": 80 * 2**20}
    # Background processes of a script ignore SIGINT; their runs must still be cancelled.
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        cluster: Any = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **small})
        for _ in range(2):
            cluster.add_node(num_cpus=2, **small)
    finally:
        signal.signal(signal.SIGINT, handler)
    yield cluster
    cluster.shutdown()


def test_a_study_survives_an_interrupt_and_the_loss_of_a_node(
    cluster: Any, uninterrupted: Path, counter: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "study"
    slower = ("--set", "steps=5000", "pause=0.6")
    about = counter_study(folder, counter, *slower, "--ray-address", cluster.address)
    process = launch(*about)
    wait_until(lambda: checkpoints(folder), process)
    process.send_signal(signal.SIGINT)
    finish(process, 130)
    assert not outcomes(folder)
    assert not any(map(alive, processes(folder)))
    before = sum(map(len, attempts(folder)))
    process = launch(*about)
    # All four have a process, two on each node.
    wait_until(lambda: sum(map(len, attempts(folder))) == before + 4, process)
    cluster.remove_node(next(iter(cluster.worker_nodes)), allow_graceful=False)
    printed, _ = finish(process)
    assert "waiting: its node or worker was lost" in printed
    assert sum(map(len, attempts(folder))) > before + 4
    assert outcomes(folder) == outcomes(uninterrupted)
