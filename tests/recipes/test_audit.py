"""Audits: snapshots, rollouts that depend on nothing but their index, and claims that hold."""

import csv
import json
import shutil
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box
from hypothesis import given
from hypothesis import strategies as st
from processes import said
from scipy.stats import binom, t

from blocks import EpisodeRecord, safety_summary
from recipes import audit as audit_script
from recipes import study
from recipes.agents import Auditable, Config
from recipes.audits import audit
from recipes.audits.records import Rollouts, read_audited
from recipes.audits.results import run_figures
from recipes.audits.rollouts import Auditor, Job
from recipes.audits.statistics import (
    Claim,
    claim,
    longest_stretch,
    mean_interval,
    mean_p_value,
    most_true,
    share_interval,
    share_p_value,
)
from recipes.cerl_full import CERL, CERLAgent
from recipes.reports.groups import read_groups
from recipes.reports.page import write_report
from recipes.reports.tables import group_row
from recipes.runs import Run, RunFolder
from recipes.runs import snapshots as snapshot_files
from recipes.runs.archive import archive
from recipes.runs.errors import RunError
from recipes.runs.snapshots import read_snapshot
from recipes.studies.definitions import Study
from recipes.training import train
from recipes.training.episode import run_episode

LENGTH, BUDGET = 40, 14.0
CONFIG = Config(smoke=True, steps=5 * LENGTH, action_repeat=1, episode_budget=BUDGET)
AUDIT_FILES = {"audit.json", "audit.jsonl", "audit.md", "audit.png"}


class Toy:
    """A large action costs 1; under full exploration an episode costs about the budget."""

    episode_length, action_repeat = LENGTH, 1
    observation_space = Box(-np.inf, np.inf, (3,), np.float32)
    action_space = Box(-1.0, 1.0, (2,), np.float32)

    def __init__(self, seed: int = 0) -> None:
        self.seed, self.episode_index = seed, 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        if seed is not None:
            self.seed, self.episode_index = seed, 0
        self.random = np.random.default_rng((self.seed, self.episode_index))
        self.episode_index, self.steps = self.episode_index + 1, 0
        self.position = self.random.normal(size=3).astype(np.float32)
        return self.position, {}

    def step(self, action: Any) -> Any:
        self.steps += 1
        self.position = self.position + 0.1 * self.random.normal(size=3).astype(np.float32)
        cost = self.cost(action)
        info = {"cost": cost, "inner_steps": 1}
        return self.position, float(action.sum()), False, self.steps == LENGTH, info

    def cost(self, action: Any) -> float:
        return float(np.abs(action).max() > 0.6)

    def render(self) -> Any:
        raise RuntimeError("nothing to draw")

    def close(self) -> None: ...


class Broken(Toy):
    """Its simulator fails."""

    def cost(self, action: Any) -> float:
        return float("nan") if self.steps == 7 else 0.0


@pytest.fixture(scope="module", autouse=True)
def _quick() -> Iterator[None]:
    """TensorBoard and figures take longer than these runs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("recipes.runs.folder._tensorboard", lambda *_: False)
        patch.setattr("recipes.training.loop.learning_figure", lambda *_: None)
        patch.setattr("recipes.training.loop.calibration_figure", lambda *_: None)
        patch.setattr("recipes.training.loop.record_video", lambda *_: "none: not drawn")
        yield


@pytest.fixture(autouse=True)
def _no_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the shared audit is drawn."""
    monkeypatch.setattr("recipes.audits.run_audit.audit_figure", lambda *_: None)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of four policies, the first of them in a prefill of two episodes."""
    out = tmp_path_factory.mktemp("trained") / "run"
    train(CERL(), CONFIG, environment=Toy, out=out)
    return out


@pytest.fixture(scope="module")
def audited(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("audited") / "run"
    shutil.copytree(trained, folder)
    audit_toy(folder)
    return folder


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy of the finished run."""
    return shutil.copytree(trained, tmp_path / "run")


def audit_toy(folder: Path, **options: Any) -> dict[str, Any]:
    return audit(folder, CERL(), Toy, **{"rollouts": 6, **options})


def contents(folder: Path, names: set[str] | None = None) -> dict[str, bytes]:
    """Every file but those of the audit, or those named."""
    files = {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}
    return {k: v for k, v in files.items() if (k in names if names else k not in AUDIT_FILES)}


def results(folder: Path) -> dict[str, bytes]:
    """Every file of the audit but the figure."""
    return contents(folder, AUDIT_FILES - {"audit.png"})


def edit_config(folder: Path, **changes: Any) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


# ---- snapshots -------------------------------------------------------------------------------


def test_every_policy_is_kept_as_it_acted(trained: Path) -> None:
    files = sorted(file.name for file in (trained / "snapshots").iterdir())
    assert files == ["0000.pt", "0001.pt", "0002.pt", "0003.pt"]
    for file in files:
        content = torch.load(trained / "snapshots" / file, weights_only=True)
        assert set(content["policy"]) == {"normalizer", "encoder", "rssm", "actor"}
    scales = [read_snapshot(trained, iterate).exploration_scale for iterate in range(4)]
    lived = Run(trained).metrics("episode")
    assert scales == [row["exploration_scale"] for row in lived[1:]]  # of the prefill the last
    first = read_snapshot(trained, 0).policy["actor"]
    assert not first["output.weight"].any()  # the first policy: the zero action plus noise
    last = RunFolder(trained).read_checkpoint()["agent"]["actor"]
    for name, value in read_snapshot(trained, 3).policy["actor"].items():
        assert torch.equal(value, last[name])  # it did not learn after its episode


@pytest.mark.parametrize(
    ("keep", "small", "kept"),
    [("small", 10**6, True), ("small", 10, False), ("always", 10, True), ("never", 10**6, False)],
)
def test_the_setting_decides_what_is_kept(
    keep: str, small: int, kept: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshot_files, "SMALL", small)
    train(CERL(), CONFIG.replace(steps=LENGTH, snapshots=keep), Toy, tmp_path / "run")
    assert (tmp_path / "run" / "snapshots" / "0000.pt").exists() == kept


def test_snapshots_survive_a_kill_and_a_resume(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed after a snapshot and before the checkpoint: the resumed run writes it anew."""
    out = tmp_path / "run"

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    learn = CERLAgent.learn
    calls = iter([learn, learn, killed])
    monkeypatch.setattr(CERLAgent, "learn", lambda *arguments: next(calls)(*arguments))
    with pytest.raises(KeyboardInterrupt):
        train(CERL(), CONFIG, Toy, out)
    monkeypatch.setattr(CERLAgent, "learn", learn)
    stale = out / "snapshots" / "0002.pt"
    assert stale.exists()
    stale.write_bytes(b"half written by something else")
    train(CERL(), CONFIG.replace(resume=out), Toy)
    for iterate in range(4):
        resumed, whole = (read_snapshot(folder, iterate) for folder in (out, trained))
        assert resumed.exploration_scale == whole.exploration_scale
        for part, values in whole.policy.items():
            assert all(torch.equal(resumed.policy[part][k], v) for k, v in values.items())


# ---- acting ----------------------------------------------------------------------------------


def make_agent(run: Path) -> CERLAgent:
    agent = CERL()(CONFIG, Toy())
    assert isinstance(agent, CERLAgent)
    assert isinstance(agent, Auditable)
    agent.load_policy_state(read_snapshot(run, 3).policy)
    return agent


@pytest.mark.parametrize("scale", [0.0, 0.7])
def test_acting_together_is_acting_alone(trained: Path, scale: float) -> None:
    agent = make_agent(trained)
    observations = np.random.default_rng(0).normal(size=(5, 3, 3)).astype(np.float32)
    agent.start_together([7, 8, 9])
    together = np.stack([agent.act_together(seen, scale) for seen in observations])
    for place, seed in enumerate((7, 8, 9)):
        agent.start_together([seed])
        alone = [agent.act_together(seen[place : place + 1], scale)[0] for seen in observations]
        agent.generator.manual_seed(seed)
        agent.start_episode()
        acted = [agent.act(seen[place], scale) for seen in observations]
        assert np.array_equal(alone, acted)
        np.testing.assert_allclose(together[:, place], acted, atol=1e-5)
    assert not np.allclose(together[:, 0], together[:, 1])


def test_a_rollout_is_an_episode_of_the_training_loop(run: Path) -> None:
    """The same seeds, guard and scale give the same figures as `run_episode`."""
    seen: list[int] = []

    class Recording(Toy):
        def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
            seen.append(seed or 0)
            return super().reset(seed=seed, options=options)

    agent = make_agent(run)
    start, policy_seeds = agent.start_together, []
    agent.start_together = lambda seeds: (policy_seeds.extend(seeds), start(seeds))[1]
    auditor = Auditor(Job(run, lambda *_: agent, Recording(), Config, 2))  # one at a time
    audited = auditor.audit(3)
    seen = seen[-4:]
    assert seen[:2] == seen[2:]  # with and without guard
    guard = CERL().guard(CONFIG, Toy())
    for number in range(2):
        for watched, rollouts in ((guard, audited.deployed), (None, audited.unguarded)):
            agent.generator.manual_seed(policy_seeds[number])
            record = run_episode(agent, Toy(seen[number]), 1.0, guard=watched, remember=False)
            assert record.cost == rollouts.costs[number]
            assert record.episode_return == pytest.approx(rollouts.returns[number])
            assert record.fallback_steps == rollouts.fallback_steps[number]


# ---- rollouts --------------------------------------------------------------------------------


def test_an_audit_leaves_the_run_as_it_was(trained: Path, audited: Path) -> None:
    assert contents(audited) == contents(trained)
    assert set(results(audited)) == AUDIT_FILES - {"audit.png"}
    assert (audited / "audit.png").read_bytes().startswith(b"\x89PNG")
    assert Run(trained).audit is None
    found = Run(audited).audit
    assert found is not None
    assert found["policies"] == 4
    assert found["rollouts"] == 6


def test_the_figures_are_those_of_the_rollouts(audited: Path) -> None:
    found = Run(audited).audit
    assert found is not None
    policies = read_audited(audited / "audit.jsonl")
    assert [policy.iterate for policy in policies] == [0, 1, 2, 3]
    for way in ("deployed", "unguarded"):
        rollouts = [getattr(policy, way) for policy in policies]
        records = [
            EpisodeRecord(policy.iterate, cost, 0.0, LENGTH)
            for policy, found_in in zip(policies, rollouts, strict=True)
            for cost in found_in.costs
        ]
        safety = safety_summary(records, episode_budget=BUDGET, episode_length=LENGTH)
        assert found[way]["violations"] == safety.policy_violations
        assert found[way]["episodes_over"] == safety.episode_violations / 24
        excess = [np.mean(each.costs) - BUDGET for each in rollouts]
        assert found[way]["cost_regret"] == pytest.approx(sum(max(0, each) for each in excess))
    for policy in policies:
        assert all(len(column) == 6 for column in (*policy.deployed, *policy.unguarded))
        assert len(set(policy.unguarded.costs)) > 1  # different seeds
        pairs = zip(policy.deployed.costs, policy.unguarded.costs, strict=True)
        for (with_guard, without), fallback in zip(
            pairs, policy.deployed.fallback_steps, strict=True
        ):
            assert with_guard <= without if fallback else with_guard == without
        assert not any(policy.unguarded.fallback_steps)
    assert any(policy.deployed != policy.unguarded for policy in policies)
    page = (audited / "audit.md").read_text()
    assert "# Audit of custom on SafetyHalfCheetahVelocity-v1, seed 0" in page
    assert "behind the budget guard and without it" in page
    assert "\n- As deployed, " in page
    assert "\n- Without the guard, " in page


def test_without_a_guard_both_ways_are_one(run: Path, audited: Path) -> None:
    """A copy without guard repeats the unguarded rollouts of the other exactly."""
    edit_config(run, guard_share=0.0)
    found = audit_toy(run)
    assert found["deployed"] == found["unguarded"]
    for bare, guarded in zip(
        read_audited(run / "audit.jsonl"), read_audited(audited / "audit.jsonl"), strict=True
    ):
        assert bare.deployed == bare.unguarded == guarded.unguarded
    assert "without" not in (run / "audit.md").read_text()


def test_a_guard_that_never_refuses_changes_nothing(run: Path, audited: Path) -> None:
    edit_config(run, guard_share=1.0, episode_budget=2.0 * LENGTH)
    audit_toy(run)
    for free, guarded in zip(
        read_audited(run / "audit.jsonl"), read_audited(audited / "audit.jsonl"), strict=True
    ):
        assert free.deployed.costs == free.unguarded.costs == guarded.unguarded.costs


def test_processes_do_not_change_the_results(run: Path, audited: Path) -> None:
    audit_toy(run, processes=2)
    assert results(run) == results(audited)


def test_an_interrupted_audit_goes_on(
    run: Path, audited: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, done = Auditor.audit, list[int]()

    def interrupted(self: Auditor, iterate: int, *, last: int) -> Any:
        if len(done) == last:
            raise KeyboardInterrupt
        done.append(iterate)
        return whole(self, iterate)

    monkeypatch.setattr(Auditor, "audit", lambda *args: interrupted(*args, last=2))
    with pytest.raises(KeyboardInterrupt):
        audit_toy(run)
    assert not (run / "audit.json").exists()
    with (run / "audit.jsonl").open("ab") as file:
        file.write(b'{"iterate": 2, "rollo')  # killed while writing
    monkeypatch.setattr(Auditor, "audit", lambda *args: interrupted(*args, last=9))
    audit_toy(run)
    assert done == [0, 1, 2, 3]
    assert results(run) == results(audited)
    audit_toy(run)  # nothing is left to do
    assert done == [0, 1, 2, 3]
    torch.save(torch.load(run / "snapshots" / "0002.pt"), run / "snapshots" / "0001.pt")
    audit_toy(run)  # a policy was exchanged
    assert done == [0, 1, 2, 3, 1]
    audit_toy(run, rollouts=2)
    assert done[5:] == [0, 1, 2, 3]


def test_more_rollouts_begin_with_the_same(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches have a fixed size, so a rollout does not depend on how many there are."""
    monkeypatch.setattr("recipes.audits.rollouts.TOGETHER", 2)
    audit_toy(run, rollouts=4)
    few = read_audited(run / "audit.jsonl")
    audit_toy(run, rollouts=6)
    for fewer, more in zip(few, read_audited(run / "audit.jsonl"), strict=True):
        assert more.deployed.costs[:4] == fewer.deployed.costs


# ---- bad input -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "answer"),
    [
        ({"rollouts": 1}, r"^rollouts: got 1; allowed 2 and above; take 20$"),
        ({"share": 1.0}, r"^share: got 1.0; allowed between 0 and 1; take 0.5$"),
        ({"processes": 0}, r"^processes: got 0; allowed 1 and above; take 1$"),
        ({"processes": 2, "environment": lambda seed: Toy(seed)}, "^processes: got 2, but other"),
        ({"processes": 2, "environment": Toy()}, "^processes: got 2, but .* is a single object"),
        ({"environment": Broken}, "^cost and reward: got nan .* in rollout 0 of iterate 0; allow"),
        ({"agent": lambda *_: object()}, r"^agent: got object; allowed .* recipes.agents.Audita"),
        (
            {"agent": lambda c, e: CERL()(c.replace(hidden_size=8), e)},
            r"^agent: got one that the snapshots of .* do not fit; .* audit\(run, agent=...\)$",
        ),
    ],
)
def test_a_wrong_argument_is_named(options: dict[str, Any], answer: str, run: Path) -> None:
    with pytest.raises(ValueError, match=answer):
        audit(run, **{"agent": CERL(), "environment": Toy, "rollouts": 2, **options})
    assert not (run / "audit.json").exists()


def damage(run: Path, what: str) -> None:
    file = run / "snapshots" / "0002.pt"
    if what == "flipped":
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 0xFF
        file.write_bytes(content)
    elif what == "cut":
        file.write_bytes(file.read_bytes()[:1000])
    elif what == "lost":
        file.unlink()
    elif what == "none":
        shutil.rmtree(run / "snapshots")
    elif what == "unfinished":
        (run / "summary.json").unlink()
    else:
        (run / "audit.jsonl").write_text("{}\n")


@pytest.mark.parametrize(
    ("what", "answer"),
    [
        ("flipped", r"^snapshot: got .*0002.pt, which cannot be read .*; allowed an undamaged "),
        ("cut", r"^snapshot: got .*0002.pt, which cannot be read \(BadZipFile\); allowed an und"),
        ("lost", r"^snapshots: got 3 for 4 policies of .*, none for iterate 2; allowed one for "),
        ("none", r"^snapshots: got 0 for 4 policies of .*; train again with --snapshots always"),
        ("unfinished", r"^run: got .*/run, which has no summary.json; allowed a finished run; "),
        ("audit", r"audit.jsonl, line 1 is damaged; delete the file to audit anew$"),
    ],
)
def test_a_damaged_run_is_named(what: str, answer: str, run: Path) -> None:
    damage(run, what)
    with pytest.raises(RunError, match=answer):
        audit_toy(run)


def test_the_script_answers_in_one_line(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, answer in (
        ([run], "error: recipe: got custom, which made "),
        ([run, "--rollouts", 1], "error: rollouts: got 1; allowed 2 and above; take 20"),
        ([run / "none"], "which has no summary.json; allowed a finished run; finish it with"),
    ):
        with pytest.raises(SystemExit) as stopped:
            audit_script.main([str(word) for word in arguments])
        assert stopped.value.code == 2
        assert answer in said(capsys.readouterr().err)


# ---- with the other scripts ------------------------------------------------------------------


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of the recipe on a real task."""
    out = tmp_path_factory.mktemp("real") / "run"
    train(CERL(), Config(smoke=True, steps=3000, action_repeat=20), out=out, recipe="cerl_full")
    return out


def test_a_study_audits_its_runs(
    real: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The script in the study's process; runs without snapshots fail, and the others are done."""
    recipe = tmp_path / "copies.py"  # instead of training
    recipe.write_text(
        "import shutil, sys\n"
        "out, seed = sys.argv[-1], sys.argv[sys.argv.index('--seed') + 1]\n"
        f"shutil.copytree({str(real)!r}, out)\n"
        "if seed == '1': shutil.rmtree(out + '/snapshots')\n"
    )
    words = ["ablations", "--no-report", "--recipes", str(recipe), "--seeds", "2"]
    words += ["--jobs", "2", "--out", str(tmp_path / "study")]
    assert study.main(words) == 0
    done, failed = (
        tmp_path / "study" / "copies" / Config().task / f"seed{seed}" for seed in (0, 1)
    )
    assert Run(done).audit is None
    assert study.main([*words, "--audit", "2"]) == 1  # the same study goes on with the audits
    shown = said(capsys.readouterr().err)
    assert "seed1 after 1 attempt: error: snapshots: got 0 for 2 policies of" in shown
    found = Run(done).audit
    assert found is not None
    assert found["rollouts"] == 2
    assert found["recipe"] == "cerl_full"
    assert Run(failed).audit is None
    runs = {
        audit: Study(recipes=(str(recipe),), seeds=(0, 1)).runs(tmp_path / "study", audit)
        for audit in (0, 2, 3)
    }
    states = {audit: [run.is_done() for run in planned] for audit, planned in runs.items()}
    assert states == {0: [True, True], 2: [True, False], 3: [False, False]}
    log = next((tmp_path / "study" / "logs").glob("*seed0.out")).read_text()
    assert log.count("audit.py --rollouts 2 --processes 1") == 1


def test_reports_show_audits_beside_what_was_lived(audited: Path, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    for seed, name in enumerate(("audited", "alone")):
        shutil.copytree(audited, runs / name)
        for file in ("config.json", "summary.json"):
            content = json.loads((runs / name / file).read_text())
            (runs / name / file).write_text(json.dumps(content | {"seed": seed}))
    for file in AUDIT_FILES:
        (runs / "alone" / file).unlink()
    found = Run(audited).audit
    assert found is not None
    bounds = found["deployed"]["claim_expected_cost"]
    groups, _ = read_groups([runs])
    ((group,),) = groups.values()
    cell = group_row(group, audited=True)["audited violations per run"]
    shown = [float(found["deployed"]["violations"]), *map(float, bounds.values())]
    words = [f"{value:.1f}" if value >= 1 else f"{value:.2g}" for value in shown]
    assert cell == (f"{words[0]} of 4.0", f"{words[1]} to {words[2]}, 1 of 2 runs")
    page = write_report(groups, {}, tmp_path / "report")
    assert "audited violations per run</th>" in page.read_text()
    assert "| not audited |" in (tmp_path / "report" / "report.md").read_text()
    with (tmp_path / "report" / "runs.csv").open() as stream:
        rows = {row["seed"]: row for row in csv.DictReader(stream)}
    assert float(rows["0"]["audited_at_most"]) == bounds["at_most"]
    assert rows["1"]["audited_at_most"] == "not audited"
    shutil.rmtree(runs / "audited")
    write_report(read_groups([runs])[0], {}, tmp_path / "report")
    assert "<th scope" in page.read_text()
    assert "audited violations per run</th>" not in page.read_text()  # nothing to show


def test_an_archive_keeps_the_audit(audited: Path, tmp_path: Path) -> None:
    archive(audited.parent, tmp_path / "kept")
    assert Run(tmp_path / "kept" / "run").audit == Run(audited).audit


# ---- statistics ------------------------------------------------------------------------------


def test_intervals_of_known_cases() -> None:
    low, high = mean_interval([1.0, 2.0, 3.0]) or (0, 0)
    half = t.ppf(0.975, 2) * 1 / np.sqrt(3)
    assert (low, high) == pytest.approx((2 - half, 2 + half))
    assert mean_interval([7.0, 7.0, 7.0]) is None
    assert share_interval(0, 20) == pytest.approx((0, 1 - 0.025 ** (1 / 20)))
    assert share_interval(20, 20).upper == 1


def test_p_values_of_known_cases() -> None:
    sample = [-3.0, -2.0, -1.0]
    assert mean_p_value(sample, "less") == pytest.approx(max(0.125, t.cdf(-np.sqrt(12), 2)))
    assert mean_p_value(sample, "greater") == pytest.approx(t.sf(-np.sqrt(12), 2))
    assert mean_p_value([-1.0] * 5, "less") == 1 / 32  # equal costs: a sign test
    assert mean_p_value([-1.0] * 5, "greater") == 1
    assert mean_p_value([0.0] * 5, "less") == mean_p_value([0.0] * 5, "greater") == 1
    assert share_p_value(2, 10, 0.5, "less") == pytest.approx(binom.cdf(2, 10, 0.5))
    assert share_p_value(2, 10, 0.5, "greater") == pytest.approx(binom.sf(1, 10, 0.5))


@given(st.lists(st.floats(-100, 100).map(lambda x: round(x, 3)), min_size=6, max_size=12))
def test_a_test_at_the_tail_agrees_with_the_interval(sample: list[float]) -> None:
    interval = mean_interval(sample)
    if interval and min(map(abs, interval)) > 1e-6:
        assert (interval.upper < 0) == (mean_p_value(sample, "less") <= 0.025)
        assert (interval.lower > 0) == (mean_p_value(sample, "greater") <= 0.025)


def closed_testing(p_values: list[float], alpha: float) -> int:
    """The bound by its definition: the largest set that no set around it lets reject."""
    everything = range(len(p_values))
    sets = [set(c) for size in everything for c in combinations(everything, size + 1)]

    def simes(chosen: set[int]) -> bool:
        ordered = sorted(p_values[i] for i in chosen)
        return any(len(ordered) * p <= (i + 1) * alpha for i, p in enumerate(ordered))

    accepted = [chosen for chosen in sets if not simes(chosen)]
    return max((len(s) for s in sets if any(s <= around for around in accepted)), default=0)


@given(st.lists(st.floats(0, 1) | st.floats(0, 0.05), min_size=1, max_size=6))
def test_the_bound_is_that_of_closed_testing(p_values: list[float]) -> None:
    assert most_true(p_values, 0.05) == closed_testing(p_values, 0.05)


@given(st.lists(st.floats(0, 1), max_size=30), st.floats(0, 1), st.randoms())
def test_the_bound_grows_with_p_values_and_ignores_their_order(
    p_values: list[float], added: float, random: Any
) -> None:
    bound = most_true(p_values, 0.05)
    assert bound <= most_true([min(1.0, p + added) for p in p_values], 0.05)
    assert bound <= most_true([*p_values, added], 0.05) <= bound + 1 + len(p_values)
    shuffled = random.sample(p_values, len(p_values))
    assert most_true(shuffled, 0.05) == bound
    bonferroni = sum(p > 0.05 / len(p_values) for p in p_values)
    assert bound <= bonferroni


def test_claims_of_known_cases() -> None:
    assert claim([1e-9] * 50, [1.0] * 50) == Claim(0, 0)
    assert claim([1.0] * 50, [1e-9] * 50) == Claim(50, 50)
    assert claim([0.5] * 50, [0.5] * 50) == Claim(0, 50)
    assert claim([1e-9] * 40 + [1.0] * 10, [1.0] * 40 + [1e-9] * 10) == Claim(10, 10)


def test_claims_hold_as_often_as_they_say() -> None:
    """Policies just over and just within the budget, where a count of single tests fails."""
    random, policies, rollouts, repeats = np.random.default_rng(0), 12, 10, 100
    held = naive = 0
    for _ in range(repeats):
        samples = random.normal(size=(policies, rollouts))  # expected excess 0, call it over
        samples[6:] -= 3.0
        below = [mean_p_value(list(sample), "less") for sample in samples]
        above = [mean_p_value(list(sample), "greater") for sample in samples]
        bounds = claim(below, above)
        held += bounds.at_least <= 6 <= bounds.at_most
        naive += sum(p > 0.025 for p in below) >= 6
        assert bounds.at_most <= 8  # and they are of use
    assert held / repeats >= 0.95 - 2 * np.sqrt(0.05 * 0.95 / repeats)
    assert naive / repeats < 0.93


def test_claims_about_episodes_hold_whatever_the_costs() -> None:
    """Costs of zero or very many, for which a t-test is wrong: the binomial test is exact."""
    random, rollouts, repeats = np.random.default_rng(1), 12, 200
    held = 0
    for _ in range(repeats):
        counts = random.binomial(rollouts, [0.5] * 5 + [0.05] * 5)
        below = [share_p_value(int(count), rollouts, 0.5, "less") for count in counts]
        above = [share_p_value(int(count), rollouts, 0.5, "greater") for count in counts]
        held += claim(below, above).at_most >= 5
    assert held / repeats >= 0.975 - 2 * np.sqrt(0.025 * 0.975 / repeats)


@given(st.lists(st.booleans(), max_size=20))
def test_the_longest_stretch_is_that_of_the_text(flags: list[bool]) -> None:
    text = "".join("x" if flag else " " for flag in flags)
    assert longest_stretch(flags) == max(map(len, text.split()), default=0)


def rolled(*costs: float, steps: int = 1000) -> Rollouts:
    count = len(costs)
    budgets = [25.0 * steps / 1000] * count
    return Rollouts(list(costs), budgets, [1.0] * count, [steps] * count, [0] * count)


def test_figures_of_a_known_run() -> None:
    policies = [
        rolled(*[30.0, 31.0, 29.0] * 4),  # surely over
        rolled(*[10.0, 60.0, 20.0] * 4),  # over on average, a third of the episodes
        rolled(*[10.0, 11.0, 12.0] * 4),  # surely below
        rolled(*[0.0] * 12),  # equal costs
        rolled(*[14.0, 15.0, 16.0] * 4, steps=500),  # over its share of 12.5
    ]
    found = run_figures(policies, [0, 3000, 4000, 5000, 6000], share=0.5)
    assert found["violations"] == 3
    assert found["longest_stretch"] == 2
    assert found["cost_regret"] == pytest.approx(5 + 5 + 2.5)
    assert found["surely_above"] == 2
    assert found["surely_below"] == 2
    assert found["equal_costs"] == 1
    assert found["first_safe_step"] == 4000
    assert found["claim_expected_cost"] == {"at_least": 2, "at_most": 3}
    assert found["claim_episodes"] == {"at_least": 2, "at_most": 3}
    assert found["episodes_over"] == pytest.approx((1 + 1 / 3 + 0 + 0 + 1) / 5)


def test_estimates_of_short_episodes_are_against_their_share() -> None:
    estimates = rolled(2.0, 3.0, 4.0, steps=100).estimates()
    assert estimates["mean_cost"] == 3
    assert np.mean(estimates["interval"]) == pytest.approx(3)
    assert estimates["over_budget"] == 2 / 3  # over 2.5
    assert estimates["over_budget_interval"] == share_interval(2, 3)
