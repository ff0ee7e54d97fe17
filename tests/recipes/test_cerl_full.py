"""CERL and its ablations as users run them: what a run leaves, survives, refuses and counts."""

import gzip
import json
import random
import runpy
import shutil
import signal
import subprocess
import time
from collections import defaultdict
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box
from processes import finish, said
from processes import launch as launch_script
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from blocks import LBSGD, BudgetGuard, EpisodeRecord, make_environment
from recipes import cerl_full
from recipes.agents import Config
from recipes.training.episode import run_episode
from recipes.training.profiling import OTHER, PARTS
from recipes.training.schedule import Schedule

RECIPES = Path(__file__).parents[2] / "recipes"
CERL_FULL = RECIPES / "cerl_full.py"
STEPS = 5000  # long enough to be stopped three times
# The parts that each exchanges, and the settings.
ABLATIONS: dict[str, tuple[set[str], dict[str, Any]]] = {
    "ablation_mean_aggregator": ({"aggregate"}, {}),
    "ablation_per_state_max": ({"aggregate"}, {}),
    "ablation_mean_plus_std": ({"aggregate"}, {}),
    "ablation_cvar": ({"aggregate"}, {}),
    "ablation_augmented_lagrangian": ({"optimizer"}, {}),
    "ablation_pid_lagrangian": ({"optimizer"}, {}),
    "ablation_barrier_adam": ({"optimizer"}, {}),
    "ablation_fixed_margin": (set(), {"margin_step": 0.0}),
    "ablation_member_barriers": ({"aggregate"}, {}),
    "ablation_scale_before_adam": ({"optimizer"}, {}),
    "ablation_secant_smoothness": ({"optimizer"}, {}),
    "ablation_objective_only": ({"optimizer"}, {"guard_share": 0.0}),
    "ablation_single_model": (set(), {"members": 1}),
    "ablation_point_ensemble": ({"posterior"}, {}),
    "ablation_stein": ({"posterior"}, {}),
    "ablation_mean_field": ({"posterior"}, {}),
    "lambda_agent": ({"aggregate", "objective", "optimizer"}, {}),
}
# One of each kind runs to its end among the fast tests (the families have a separate test).
QUICK = {
    *("ablation_member_barriers", "ablation_scale_before_adam", "ablation_secant_smoothness"),
    *("ablation_objective_only", "ablation_single_model", "lambda_agent"),
}

# What the update lines say about the policy's steps: in every recipe, and by optimiser.
STEP_METRICS = {
    *("objective", "cost", "cost_mean", "cost_worst", "slack", "slack_error", "slope_error"),
    *("step_size", "step_length", "grad_norm", "feasible", "allowed"),
}
BRANCHES = {"branch_slack", "branch_curvature", "branch_full", "branch_recovery"}
LBSGD_METRICS = {"eta", "slope", "constraint_smoothness", *BRANCHES}
OPTIMIZER_METRICS = {  # of the recipes without LBSGD
    "ablation_barrier_adam": {"eta"},
    "ablation_scale_before_adam": {"eta"},
    "ablation_augmented_lagrangian": {"multiplier"},
    "ablation_pid_lagrangian": {"multiplier"},
    "ablation_objective_only": {"multiplier"},
    "lambda_agent": {"multiplier"},
}

# The main job on a simulator that goes wrong: `change` sees `steps` since the start.
SPOILED = """
from blocks.environments.safety_gymnasium import SafetyEnvironment
from recipes.cerl_full import CERL
from recipes.training import run

build = SafetyEnvironment._build

def spoiled(self, spec):
    inner = build(self, spec)
    sound, steps = inner.step, 0
    def step(action):
        nonlocal steps
        observation, reward, cost, *rest = sound(action)
        steps += 1
        {change}
        return observation, reward, cost, *rest
    inner.step = step
    return inner

SafetyEnvironment._build = spoiled
run("cerl_full", CERL())
"""


def start(
    run: Path, *arguments: object, script: Path = CERL_FULL, video: bool = False
) -> subprocess.Popen[str]:
    """A run of smoke sizes, or the one that `run` already holds, resumed."""
    where = ("--resume", run) if run.exists() else ("--smoke", "--steps", STEPS, "--out", run)
    return launch(script, *where, *arguments, video=video)


def launch(script: Path, *arguments: object, video: bool = False) -> subprocess.Popen[str]:
    """Start a recipe in a separate process; drawing a video is a third of a smoke run's time."""
    no_video = {} if video else {"MUJOCO_GL": "disabled"}
    return launch_script(script, *arguments, environment=no_video)


def refused(process: subprocess.Popen[str]) -> str:
    """The answer to bad input: one line of ours, or tyro's box about the command line."""
    _, err = finish(process, 2)
    assert "Traceback" not in err
    if err.startswith("error: "):
        (line,) = err.splitlines()
        return line
    assert err.lstrip().startswith("╭─")
    return said(err)


def spoiled(folder: Path, change: str) -> Path:
    script = folder / "spoiled.py"
    script.write_text(SPOILED.format(change=change))
    return script


def read(folder: Path, name: str) -> dict[str, Any]:
    return json.loads((folder / name).read_text())


def metrics(folder: Path, kind: str | None = None) -> list[dict[str, Any]]:
    """Every line of metrics.jsonl without its wall-clock field."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        del line["time"]
    return [line for line in lines if kind in (None, line["kind"])]


def outcome(folder: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """All that a run with the same seed must repeat."""
    summary = read(folder, "summary.json")
    del summary["wall_seconds"], summary["video"]
    return metrics(folder), summary


def recount(folder: Path) -> dict[str, float]:
    """The safety figures by hand: budget and episodes of 1000 steps, prefill included."""
    budget = read(folder, "config.json")["episode_budget"]
    costs, iterates, steps = [], defaultdict(list), 0
    for line in metrics(folder, "episode"):
        assert line["step"] - steps == 1000
        steps = line["step"]
        costs.append(line["episode_cost"])
        iterates[line["iterate"]].append(line["episode_cost"])
    return {
        "environment_steps": steps,
        "episodes": len(costs),
        "policies": len(iterates),
        "policy_violations": sum(np.mean(group) > budget for group in iterates.values()),
        "episode_violations": sum(cost > budget for cost in costs),
        "cost_rate": sum(costs) / steps,
        "cost_regret": sum(max(0.0, cost - budget) for cost in costs),
        "worst_episode_cost": max(costs),
    }


def contents(folder: Path) -> dict[Path, bytes]:
    return {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    finish(start(folder, video=True))
    return folder


# ---- what a run leaves -----------------------------------------------------------------------


def test_a_run_leaves_a_whole_folder(undisturbed: Path) -> None:
    config, summary = (read(undisturbed, f"{name}.json") for name in ("config", "summary"))
    assert Config().to_json().keys() <= config.keys()
    assert config["recipe"] == summary["recipe"] == "cerl_full"
    assert {"versions", "commit", "hardware"} <= set(config)
    assert {(s["task"], s["seed"], s["episode_budget"]) for s in (config, summary)} == {
        ("SafetyHalfCheetahVelocity-v1", 0, 25.0)
    }
    assert summary["environment_steps"] == config["steps"] == STEPS
    assert summary["wall_seconds"] > 0
    (evaluation,) = metrics(undisturbed, "evaluation")
    assert evaluation["return_mean"] == summary["final_return"] == np.mean(summary["final_returns"])
    assert evaluation["cost_mean"] == summary["final_cost"] == np.mean(summary["final_costs"])
    for period in ("early", "late"):
        for figure in ("pessimism", "disagreement_recent", "disagreement_far"):
            assert np.isfinite(summary[f"{figure}_{period}"])

    checkpoints = sorted(file.name for file in undisturbed.glob("checkpoints/*"))
    assert checkpoints == [f"step-{step:012d}.pt" for step in (STEPS - 1000, STEPS)]
    for picture in ("learning.png", "calibration.png", "steps.png"):
        assert (undisturbed / picture).read_bytes().startswith(b"\x89PNG")
    (events,) = undisturbed.glob("tensorboard/events.*")
    assert events.stat().st_size > 1000
    video = summary["video"]
    assert video.startswith("none: ") or (undisturbed / video).stat().st_size > 1000


def assert_explains_its_steps(run: Path, of_optimizer: set[str]) -> None:
    """Every update line has the optimiser's metrics, and no other optimiser's."""
    for update in metrics(run, "update"):
        assert update.keys() >= STEP_METRICS
        assert update.keys() & (LBSGD_METRICS | {"multiplier"}) == of_optimizer
        assert np.isfinite([update[name] for name in STEP_METRICS | of_optimizer]).all()
        assert update["step_length"] > 0
        constrained = update["cost"] + update["slack_error"]
        assert update["slack"] == pytest.approx(update["allowed"] - constrained, abs=1e-5)


def test_updates_say_what_decided_the_policys_steps(undisturbed: Path) -> None:
    assert_explains_its_steps(undisturbed, LBSGD_METRICS)
    for update in metrics(undisturbed, "update"):
        assert sum(update[name] for name in BRANCHES) == pytest.approx(1)
        assert update["branch_recovery"] == pytest.approx(1 - update["feasible"])


def test_tensorboard_has_every_number_of_the_updates(undisturbed: Path) -> None:
    events = EventAccumulator(str(undisturbed / "tensorboard"))
    events.Reload()
    updates = metrics(undisturbed, "update")
    for name in updates[0].keys() - {"kind", "step"}:
        shown = [(event.step, event.value) for event in events.Scalars(f"update/{name}")]
        logged = [(update["step"], update[name]) for update in updates]
        np.testing.assert_allclose(shown, logged, rtol=1e-6, err_msg=name)


def test_the_counts_are_those_of_the_episodes(undisturbed: Path) -> None:
    summary = read(undisturbed, "summary.json")
    assert {key: summary[key] for key in recount(undisturbed)} == recount(undisturbed)
    phases = [line["phase"] for line in metrics(undisturbed, "episode")]
    assert phases == ["prefill"] * 2 + ["train"] * 3


def test_costs_of_every_step_count_whoever_acted(tmp_path: Path) -> None:
    """A cost of 1 every so many steps: episodes of 0, 50 and 25 (the prefill), 10 and 40."""
    change = "cost = float(steps % (9999, 20, 40, 100, 25)[(steps - 1) // 1000] == 0)"
    script, run = spoiled(tmp_path, change), tmp_path / "run"
    settings = "--episode-budget 25 --guard-share 0.5 --prefill-scales 0.5 0.75 1.0"
    finish(start(run, *settings.split(), script=script))
    summary, episodes = read(run, "summary.json"), metrics(run, "episode")
    assert {key: summary[key] for key in recount(run)} == pytest.approx(recount(run))
    assert [line["episode_cost"] for line in episodes] == [0, 50, 25, 10, 40]
    # The prefill is one iterate, whose mean of exactly 25 keeps the budget.
    assert summary["policy_violations"] == 1
    assert summary["episode_violations"] == 2
    assert summary["cost_regret"] == (50 - 25) + (40 - 25)
    assert summary["cost_rate"] == pytest.approx(125 / 5000)
    # An episode may spend 12.5 until the guard trips: the 13th cost comes at step 260, 520 or 325.
    assert [line["fallback_steps"] for line in episodes] == [0, 740, 480, 0, 674]
    assert summary["guard_episodes"] == 3
    assert [line["exploration_scale"] for line in episodes[:3]] == [0.5, 0.75, 0.5]


def test_the_seed_decides_everything(undisturbed: Path, tmp_path: Path) -> None:
    same, other = tmp_path / "same", tmp_path / "other"
    printed, _ = finish(start(same, "--profile"))
    assert outcome(same) == outcome(undisturbed)
    assert_profiled(same, printed)
    finish(start(other, "--seed", 1, "--steps", 2000))  # the prefill alone
    ours, theirs = (metrics(run, "episode")[:2] for run in (undisturbed, other))
    for one, another in zip(ours, theirs, strict=True):
        assert one["episode_return"] != another["episode_return"]


def assert_profiled(run: Path, printed: str) -> None:
    """The shares are whole and printed, and the trace shows an iterate's parts."""
    profile = read(run, "profile.json")
    assert sum(profile["shares"].values()) == pytest.approx(1)
    assert all(0 < profile["shares"][part] < 1 for part in (*PARTS, OTHER))
    assert all(part in printed for part in (*PARTS, OTHER))
    with gzip.open(run / "trace.json.gz", "rt") as file:
        events = json.load(file)["traceEvents"]
    assert set(PARTS) <= {event["name"] for event in events}
    assert len({event["tid"] for event in events if event["name"] == "aten::bmm"}) == 2


# ---- what a run survives ---------------------------------------------------------------------


def test_stopped_and_resumed_equals_undisturbed(undisturbed: Path, tmp_path: Path) -> None:
    """The simulator breaks, the machine dies, the user interrupts: each time it goes on."""
    run = tmp_path / "run"
    break_simulator(run)
    kill(run, within=pace(undisturbed))
    interrupt(run)
    assert not (run / "summary.json").exists()
    finish(start(run, "--threads", 1, "--profile"))
    assert outcome(run) == outcome(undisturbed)


def break_simulator(run: Path) -> None:
    """A NaN in the middle of the second episode: one clear line, which names what is kept."""
    script = spoiled(run.parent, "if steps == 1500: observation[3] = float('nan')")
    line = refused(start(run, script=script))
    assert line.startswith("error: observation: got NaN or infinity at [3]")
    assert f"{run}/checkpoints/step-000000001000.pt is kept" in line
    assert line.endswith(f"--resume {run}")


def kill(run: Path, within: float) -> None:
    """At any moment of the episode (or the learning) that follows a checkpoint."""
    process = start(run)
    wait_for_checkpoint(process, run)
    saved, moment = set(run.glob("checkpoints/step-*.pt")), time.monotonic()
    moment += random.uniform(0.0, within)
    while time.monotonic() < moment and set(run.glob("checkpoints/step-*.pt")) <= saved:
        time.sleep(0.01)
    process.kill()
    finish(process, -signal.SIGKILL)


def interrupt(run: Path) -> None:
    """Ctrl-C."""
    process = start(run)
    wait_for_checkpoint(process, run)
    process.send_signal(signal.SIGINT)
    _, err = finish(process, 130)
    (line,) = err.strip().splitlines()
    assert line.startswith("stopped; ")
    assert line.endswith(f"go on with: python recipes/cerl_full.py --resume {run}")


def wait_for_checkpoint(process: subprocess.Popen[str], run: Path) -> None:
    """Until there is a checkpoint that was not there before."""
    before = set(run.glob("checkpoints/step-*.pt"))
    while process.poll() is None:
        if set(run.glob("checkpoints/step-*.pt")) - before:
            return
        time.sleep(0.01)
    pytest.fail(f"ended by itself: {process.communicate()[1]}")


def pace(run: Path) -> float:
    """Seconds for an episode and the learning after it."""
    times = [json.loads(line)["time"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    return (times[-1] - times[0]) / (STEPS / 1000)


# ---- what a run refuses ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "answer"),
    [
        ("--task SafetyHalfCheetaVelocity-v1", "perhaps you mean SafetyHalfCheetahVelocity-v1"),
        ("--episode-budget 0", "episode_budget: got 0.0; allowed: above 0"),
        ("--members 0", "members: got 0; allowed: at least 1"),
        ("--reward-unit 0", "reward_unit: got 0.0; allowed: above 0"),
        ("--start-replay-share 1", "start_replay_share: got 1.0; allowed: from 0 to 0.75"),
        ("--horizon 32 --seq-len 32", "horizon: got 32; allowed: below seq_len=32"),
        ("--preset gpu", "invalid choice 'gpu'"),
        ("--member 3", "Unrecognized options: --member"),
    ],
)
def test_bad_settings_leave_no_folder(arguments: str, answer: str, tmp_path: Path) -> None:
    assert answer in refused(start(tmp_path / "run", *arguments.split()))
    assert not list(tmp_path.iterdir())


def test_a_run_is_neither_overwritten_nor_continued_with_other_settings(undisturbed: Path) -> None:
    before = contents(undisturbed)
    again = refused(launch(CERL_FULL, "--smoke", "--out", undisturbed))
    assert f"{undisturbed} already holds a run: use --resume" in again
    other = refused(start(undisturbed, "--members", 3))
    assert other.endswith("was made with another configuration: members (2, not 3)")
    assert contents(undisturbed) == before


def test_damaged_checkpoints_are_named(undisturbed: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(undisturbed, run)
    checkpoints = sorted(run.glob("checkpoints/*.pt"))
    for file in checkpoints:
        file.write_bytes(file.read_bytes()[:-100])
    before = contents(run)
    line = refused(start(run))
    assert "no readable checkpoint" in line
    assert all(str(file) in line for file in checkpoints)
    assert contents(run) == before


def test_an_unwritable_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    run = tmp_path / "file" / "run"
    assert f"cannot write a run to {run}: Not a directory" in refused(start(run))


# ---- ablations -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in ABLATIONS],
)
def test_an_ablation_runs_with_one_setting_exchanged_at_most(
    name: str, undisturbed: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    finish(start(run, script=RECIPES / f"{name}.py"))
    summary = read(run, "summary.json")
    assert summary["recipe"] == name
    assert summary["video"].startswith("none: ")
    ours, theirs = read(undisturbed, "config.json"), read(run, "config.json")
    differing = {key: theirs[key] for key in ours if theirs[key] != ours[key]}
    differing.pop("commit", None)
    assert differing == {"recipe": name, "out": str(run)} | ABLATIONS[name][1]
    assert_explains_its_steps(run, OPTIMIZER_METRICS.get(name, LBSGD_METRICS))
    assert (run / "steps.png").exists()


def asked(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> tuple[str, Any, type[Config], dict[str, Any]]:
    """What a recipe's script hands to `run`."""
    calls: list[tuple[str, Any, type[Config], dict[str, Any]]] = []

    def record(name: str, agent: Any, config: type[Config] = Config, **defaults: Any) -> None:
        calls.append((name, agent, config, defaults))

    monkeypatch.setattr("recipes.training.run", record)
    runpy.run_path(str(RECIPES / f"{name}.py"), run_name="__main__")
    return calls[0]


def test_every_ablation_is_known_and_exchanges_one_thing() -> None:
    assert {*(file.stem for file in RECIPES.glob("ablation_*.py")), "lambda_agent"} == set(
        ABLATIONS
    )
    for name, (exchanged, settings) in ABLATIONS.items():
        assert len(exchanged) <= 1 or name == "lambda_agent"
        assert len(settings) <= 1
        assert exchanged or settings


@pytest.mark.parametrize("name", ABLATIONS)
def test_an_ablation_exchanges_what_it_says_and_nothing_else(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    exchanged, settings = ABLATIONS[name]
    recipe, make_agent, kind, defaults = asked(name, monkeypatch)
    assert (recipe, defaults) == (name, settings)
    config = kind(smoke=True, **settings)
    environment = make_environment(config.task, action_repeat=config.action_repeat)
    ours: Any = cerl_full.CERL()(config, environment)
    theirs = make_agent(config, environment)
    assert type(ours) is type(theirs) is cerl_full.CERLAgent
    assert {
        field.name
        for field in fields(cerl_full.CERL)
        if getattr(ours.parts, field.name) != getattr(theirs.parts, field.name)
    } == exchanged
    # And so in the agents as built: the same modules from the same weights.
    for part in cerl_full.CERLAgent.STATEFUL:
        one, another = getattr(ours, part), getattr(theirs, part)
        if part == "optimizer" and "optimizer" in exchanged:  # another class, or block within
            assert not same(one.state_dict(), another.state_dict())
            continue
        assert type(one) is type(another)
        if "posterior" in exchanged and part == "model":
            assert type(one.parameter_posterior._offsets) is not type(
                another.parameter_posterior._offsets
            )
            assert same(without_offsets(one), without_offsets(another))
        elif "posterior" in exchanged and part == "model_optimizer":  # of other weights, perhaps
            for group, other in zip(one.param_groups, another.param_groups, strict=True):
                assert same({**group, "params": None}, {**other, "params": None})
        else:
            assert same(one.state_dict(), another.state_dict()), part


def without_offsets(model: torch.nn.Module) -> dict[str, Any]:
    """A world model's state without what represents its parameter posterior."""
    mine = "parameter_posterior._offsets."
    return {k: v for k, v in model.state_dict().items() if not k.startswith(mine)}


def test_the_optimiser_is_given_what_the_blocks_make_of_the_members_returns() -> None:
    """In budgets, of every member, imagined step and start state."""
    seen: list[torch.Tensor] = []

    class Recorder(LBSGD):
        def step(self, objective: Any, cost_return: Any, budget: Any, **options: Any) -> Any:
            seen.extend((objective.detach(), cost_return.detach()))
            return super().step(objective, cost_return, budget, **options)

    def keep(returns: torch.Tensor) -> torch.Tensor:
        seen.append(returns.detach())
        return returns.max()

    def recorder(actor: Any, config: Config) -> Recorder:
        options: dict[str, float] = {"objective_smoothness": 0.0, "constraint_smoothness": 0.0}
        return Recorder(actor.parameters(), eta=0.1, **options)

    config = Config(smoke=True, members=3, entropy=0.0)
    environment = make_environment(config.task, action_repeat=config.action_repeat)
    parts = cerl_full.CERL(aggregate=keep, objective=keep, optimizer=recorder)
    agent = cerl_full.CERLAgent(config, environment, parts)
    run_episode(agent, environment, 0.5)
    agent.improve_policy(1)
    returns, cost_returns, objective, cost = seen
    assert returns.shape == cost_returns.shape == (3, config.policy.horizon, 8)
    assert float(objective) == pytest.approx(
        float(returns.max()) / max(1.0, float(agent.return_scale))
    )
    assert float(cost) == pytest.approx(float(cost_returns.max()))


def test_cost_heads_and_noise_levels_have_learning_rates_of_their_own() -> None:
    """Adam's first step is as long as its rate, wherever the gradient is not tiny."""
    rates = {
        "model_learning_rate": 1e-3,
        "cost_learning_rate": 1e-2,
        "noise_learning_rate": 1e-1,
    }
    config = Config(smoke=True, **rates)
    environment = make_environment(config.task, action_repeat=50)
    agent = cerl_full.CERLAgent(config, environment, cerl_full.CERL())
    run_episode(agent, environment, 0.5)
    before = {name: weight.detach().clone() for name, weight in agent.model.named_parameters()}
    agent.fit_posterior(1)
    steps: dict[str, float] = defaultdict(float)
    for name, weight in agent.model.named_parameters():
        kind = "noise" if name.endswith("log_std") else "cost" if "cost" in name else "model"
        step = float((weight.detach() - before[name]).abs().max())
        steps[kind] = max(steps[kind], step)
    for kind, step in steps.items():
        assert step == pytest.approx(rates[f"{kind}_learning_rate"], rel=1e-2), kind
    assert len(steps) == 3


def same(one: Any, another: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, another)
    if isinstance(one, dict):
        return one.keys() == another.keys() and all(same(one[k], another[k]) for k in one)
    if isinstance(one, list | tuple):
        return len(one) == len(another) and all(map(same, one, another))
    return one == another


# ---- the loop --------------------------------------------------------------------------------


class CostlyEnvironment:
    """Fifty actions of two steps; every step costs 1."""

    action_space = Box(-1, 1, (2,))

    def __init__(self) -> None:
        self.actions: list[np.ndarray] = []

    def reset(self) -> tuple[np.ndarray, dict[str, Any]]:
        return np.zeros(3, np.float32), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.actions.append(action)
        over = len(self.actions) == 50
        return np.zeros(3, np.float32), 1.0, False, over, {"cost": 2.0, "inner_steps": 2}


class RecordingAgent:
    """Always acts with ones; keeps what it is told to remember."""

    def __init__(self) -> None:
        self.remembered: list[tuple[np.ndarray, float]] = []

    def start_episode(self) -> None: ...

    def act(self, observation: np.ndarray, scale: float) -> np.ndarray:
        return np.ones(2, np.float32)

    def remember(
        self, observation: np.ndarray, action: np.ndarray, *, reward: float, cost: float, **_: bool
    ) -> None:
        self.remembered.append((action, cost))


@pytest.mark.parametrize(("share", "trusted"), [(0.4, 5), (0.5, 7), (None, 50)])
def test_the_base_policy_takes_over_once_the_share_is_spent(
    share: float | None, trusted: int
) -> None:
    guard = BudgetGuard(episode_budget=25.0, share=share) if share else None
    agent: Any = RecordingAgent()
    environment: Any = CostlyEnvironment()
    episode = run_episode(agent, environment, 1.0, guard=guard)
    assert [action.tolist() for action in environment.actions] == (
        [[1.0, 1.0]] * trusted + [[0.0, 0.0]] * (50 - trusted)
    )
    assert (episode.episode_return, episode.cost, episode.steps) == (50.0, 100.0, 100)
    assert episode.fallback_steps == 2 * (50 - trusted)
    assert [cost for _, cost in agent.remembered] == [0.0] + [2.0] * trusted


def test_an_evaluation_is_not_remembered() -> None:
    agent: Any = RecordingAgent()
    environment: Any = CostlyEnvironment()
    assert run_episode(agent, environment, 0.0, remember=False).cost == 100.0
    assert not agent.remembered


@pytest.mark.parametrize(
    ("costs", "scale"),
    [
        ([], 0.25),
        ([0.0], 0.5),
        ([0.0, 0.0], 1.0),
        ([3.0], 0.25),
        ([0.0, 0.0, 3.0], 0.5),
        ([0.0, 0.0, 3.0, 0.0], 0.5),
        ([0.0, 3.0, 0.0, 0.0], 0.25),
    ],
)
def test_exploration_climbs_only_while_nothing_has_cost(costs: list[float], scale: float) -> None:
    """After a cost it stays at the last rung that had none."""
    schedule = Schedule((0.25, 0.5, 1.0, 1.5, 2.0), episode_length=1000)
    records = [EpisodeRecord(0, cost, 0.0, 1000) for cost in costs]
    assert schedule.scale(records) == scale
