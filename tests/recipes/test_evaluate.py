"""Taking the policy away: evaluate it, save it, extend its run, start another run from it."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box

from blocks import SequenceReplay, load_policy, make_environment
from recipes import evaluate as script
from recipes.agents import Config, LatentAgent
from recipes.agents.device_state import for_device, restore_generator
from recipes.cerl_full import CERL
from recipes.evaluations import evaluate
from recipes.evaluations.acting import acting_state
from recipes.runs import Run, RunFolder
from recipes.runs.errors import RunError
from recipes.training import train
from recipes.training.command_line import parse
from recipes.training.episode import within_bounds
from recipes.training.results import EVALUATION_SEED, real_fps
from recipes.training.warm_start import copy_rows

LENGTH = 40
# A constant learning rate: what the policy learns does not depend on the length of the run. Without
# look-ahead it keeps what it learned: an unchanged policy acts the same on any latent.
RATES = {"actor_learning_rate": 3e-4, "actor_learning_rate_end": 3e-4, "check_horizon": 0}
TOY = Config(smoke=True, steps=3 * LENGTH, action_repeat=1, episode_budget=14.0, **RATES)
REAL = Config(smoke=True, steps=3000, action_repeat=10, check_horizon=0)


class Toy:
    """A walk whose reward is the action; it does not go on from one process to another."""

    episode_length, action_repeat = LENGTH, 1
    observation_space = Box(-np.inf, np.inf, (3,), np.float32)
    action_space = Box(-1.0, 3.0, (2,), np.float32)

    def __init__(self, seed: int = 0) -> None:
        self.seed, self.episode_index = seed, 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        if seed is not None:
            self.seed, self.episode_index = seed, 0
        self.random = np.random.default_rng((self.seed, self.episode_index))
        self.episode_index, self.steps = self.episode_index + 1, 0
        return self.random.normal(size=3).astype(np.float32), {}

    def step(self, action: Any) -> Any:
        self.steps += 1
        info = {"cost": float(action.max() > 1.5), "inner_steps": 1}
        observation = self.random.normal(size=3).astype(np.float32)
        return observation, float(action.sum()), False, self.steps == LENGTH, info

    def render(self) -> Any:
        raise RuntimeError("nothing to draw")

    def close(self) -> None: ...


@pytest.fixture(scope="module", autouse=True)
def _quick() -> Iterator[None]:
    """TensorBoard, figures and videos take longer than these runs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("recipes.runs.folder._tensorboard", lambda *_: False)
        for figure in ("learning_figure", "calibration_figure", "steps_figure"):
            patch.setattr(f"recipes.training.loop.{figure}", lambda *_: None)
        patch.setattr("recipes.training.loop.record_video", lambda *_: "none: not drawn")
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the default task as users have it, of smoke sizes."""
    out = tmp_path_factory.mktemp("real") / "run"
    train(CERL(), REAL, out=out, recipe="cerl_full")
    return out


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("toy") / "run"
    train(CERL(), TOY, Toy, out)
    return out


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy of the toy's run."""
    return shutil.copytree(trained, tmp_path / "run")


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The one line that the script prints."""
    with pytest.raises(SystemExit) as stopped:
        script.main([str(argument) for argument in arguments])
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


# ---- evaluate --------------------------------------------------------------------------------


def test_it_repeats_the_runs_own_evaluation(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(finished, tmp_path / "run")
    script.main([str(folder), "--save-policy", str(tmp_path / "policy")])
    printed = capsys.readouterr().out
    for expected in ("return", "cost (budget 25)", "steps", "mean", "1,000"):
        assert expected in printed
    results = json.loads((folder / "evaluation.json").read_text())
    assert results["deterministic"]
    assert results["trained_steps"] == 3000
    assert results["returns"] == Run(finished)["final_returns"]
    assert results["costs"] == Run(finished)["final_costs"]

    # The policy that was saved acts alone to the same return.
    policy = load_policy(tmp_path / "policy")
    assert policy.about["settings"]["action_repeat"] == 10
    environment = make_environment(policy.about["task"], seed=EVALUATION_SEED, action_repeat=10)
    observation, _ = environment.reset()
    total, over = 0.0, False
    while not over:
        observation, reward, terminated, over, _ = environment.step(policy.act(observation))
        total, over = total + reward, over or terminated
    assert [total] == results["returns"]
    # And its folder can be evaluated as a run can.
    again = evaluate(tmp_path / "policy", episodes=1)
    assert {k: v for k, v in again.items() if k != "video"} == results
    assert (tmp_path / "policy" / "evaluation.json").exists()
    assert "policy violations in training" in (tmp_path / "policy" / "README.md").read_text()


def test_episodes_seed_and_guard_decide_what_is_evaluated(run: Path) -> None:
    def evaluated(**options: Any) -> dict[str, Any]:
        return evaluate(run, CERL(), Toy, **{"episodes": 3, **options})

    plain = evaluated()
    assert plain == evaluated()  # no noise
    assert len(plain["returns"]) == len(set(plain["returns"])) == 3
    assert evaluated(episodes=2)["returns"] == plain["returns"][:2]
    assert evaluated(seed=1)["returns"] != plain["returns"]
    assert plain["steps"] == [LENGTH] * 3
    assert plain["return_mean"] == pytest.approx(np.mean(plain["returns"]))
    assert not any(plain["fallback_steps"])


class Expensive(Toy):
    """Every step costs 1."""

    def step(self, action: Any) -> Any:
        observation, reward, terminated, truncated, info = super().step(action)
        return observation, reward, terminated, truncated, info | {"cost": 1.0}


def test_the_guard_is_the_runs(run: Path) -> None:
    guarded = evaluate(run, CERL(), Expensive, episodes=1, guard=True)
    free = evaluate(run, CERL(), Expensive, episodes=1)
    share = TOY.safety.guard_share * TOY.safety.episode_budget
    assert guarded["fallback_steps"] == [LENGTH - round(share + 0.5)]
    assert free["fallback_steps"] == [0]
    assert free["costs"] == [LENGTH]
    assert free["violations"] == 1


def test_an_unfinished_run_is_evaluated(run: Path) -> None:
    (run / "summary.json").unlink()
    for name in ("metrics.jsonl", "snapshots"):
        (run / name).rename(run / f"without-{name}")
    assert evaluate(run, CERL(), Toy, episodes=1)["trained_steps"] == 3 * LENGTH


class Still:
    """An agent of a user's own: it always does the same, and learns nothing."""

    def __init__(self, config: Config, environment: Any) -> None:
        self.loaded = False

    def start_episode(self) -> None: ...

    def act(self, observation: Any, scale: float) -> Any:
        return np.full(2, 0.5 if self.loaded else 0.1, np.float32)

    def remember(self, *_: Any, **__: Any) -> None: ...

    def begin(self) -> dict[str, float]:
        return {}

    def learn(self, progress: float) -> dict[str, float]:
        return {}

    def illustrate(self, folder: Path) -> None: ...

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Any) -> None:
        self.loaded = True


def test_another_agent_is_evaluated_and_not_called_deterministic(tmp_path: Path) -> None:
    train(Still, TOY, Toy, tmp_path / "run")
    results = evaluate(tmp_path / "run", Still, Toy, episodes=1)
    assert results["deterministic"] is False
    expected = within_bounds(np.full(2, 0.5, np.float32), Toy.action_space).sum() * LENGTH
    assert results["returns"] == [pytest.approx(expected)]
    with pytest.raises(ValueError, match=r"save_to: got .* no LatentAgent"):
        evaluate(tmp_path / "run", Still, Toy, episodes=1, save_to=tmp_path / "policy")


def test_wrong_input_is_one_line(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "neither config.json nor policy.json" in refused(capsys, tmp_path)
    assert "episodes: got 0" in refused(capsys, finished, "--episodes", 0)
    other = ("--task", "SafetyAntVelocity-v1")
    assert "task: got SafetyAntVelocity-v1, which the policy" in refused(capsys, finished, *other)
    started = shutil.copytree(finished, tmp_path / "started")
    for file in (started / "checkpoints").iterdir():
        file.unlink()
    assert "which holds no checkpoint" in refused(capsys, started)
    foreign = shutil.copytree(finished, tmp_path / "foreign")
    config = json.loads((foreign / "config.json").read_text())
    (foreign / "config.json").write_text(json.dumps(config | {"recipe": "custom"}))
    assert "recipe: got custom" in refused(capsys, foreign)


def test_a_wrong_policy_is_one_line(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "policy"
    evaluate(finished, episodes=1, save_to=folder)
    other = ("--task", "SafetyAntVelocity-v1")
    assert "task: got SafetyAntVelocity-v1, which the policy" in refused(capsys, folder, *other)
    file = folder / "policy.json"
    sound = json.loads(file.read_text())
    file.write_text(json.dumps(sound | {"settings": {}}))
    assert "a policy without the settings action_repeat" in refused(capsys, folder)
    file.write_text(json.dumps(sound | {"format": 7}))
    assert "format: got 7" in refused(capsys, folder)
    file.write_text("{")
    assert "which is damaged" in refused(capsys, folder)


def test_a_video_has_the_tasks_speed(
    run: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    written: dict[str, Any] = {}

    def write(frames: list[Any], path: Path, fps: float) -> tuple[Path, str]:
        written.update(frames=len(frames), name=path.name, fps=fps)
        return path, ""

    class Drawn(Toy):
        metadata = {"render_fps": 50}  # noqa: RUF012

        def render(self) -> Any:
            return np.zeros((8, 8, 3), np.uint8)

    monkeypatch.setattr("recipes.training.results.write_video", write)
    results = evaluate(run, CERL(), Drawn, episodes=1, video=True)
    assert results["video"] == "evaluation.mp4"
    assert written == {"frames": LENGTH, "name": "evaluation.mp4", "fps": 50}
    assert evaluate(run, CERL(), Toy, episodes=1, video=True)["video"] == "none: nothing to draw"
    assert real_fps(make_environment(action_repeat=4)) == 5  # a step of 0.05 s


class Pictures(Toy):
    """The same from images."""

    observation_space = Box(0, 255, (64, 64, 3), np.uint8)

    def reset(self, **options: Any) -> Any:
        _, info = super().reset(**options)
        return self.draw(), info

    def step(self, action: Any) -> Any:
        return self.draw(), *super().step(action)[1:]

    def draw(self) -> Any:
        return self.random.integers(0, 256, (64, 64, 3), np.uint8)


@pytest.mark.parametrize(("observation", "task"), [("vector", Toy), ("image", Pictures)])
def test_a_saved_policy_acts_as_the_agent_in_its_evaluation(
    observation: str, task: type[Toy], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recipes.agents.latent_agent.filmstrip", lambda *_: None)
    config = TOY.replace(observation=observation)
    out = tmp_path / "run"
    train(CERL(), config, task, out)
    evaluate(out, CERL(), task, episodes=1, save_to=tmp_path / "policy")
    policy = load_policy(tmp_path / "policy")
    agent = CERL()(config.replace(steps=1), task())
    assert isinstance(agent, LatentAgent)
    agent.load_policy_state(acting_state(RunFolder(out).read_checkpoint()["agent"]))
    environment = task(seed=5)
    observed, _ = environment.reset()
    agent.start_episode()
    for _ in range(10):
        action = within_bounds(agent.act(observed, 0.0), task.action_space)
        assert np.array_equal(policy.act(observed), action)
        observed, *_ = environment.step(action)
    assert policy.observation_shape == task.observation_space.shape


# ---- extend ----------------------------------------------------------------------------------


def numbers(run: Path) -> list[dict[str, Any]]:
    """Every line of the metrics but the time."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "time"} for line in lines]


LONG = TOY.replace(steps=5 * LENGTH)


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that had all steps from the start."""
    out = tmp_path_factory.mktemp("planned") / "run"
    train(CERL(), LONG, Toy, out)
    return out


def test_an_extended_run_is_the_one_that_was_planned_so(run: Path, planned: Path) -> None:
    train(CERL(), LONG.replace(extend=run), Toy)
    assert numbers(run) == numbers(planned)
    ours, theirs = (RunFolder(folder).read_checkpoint()["agent"] for folder in (run, planned))
    assert all(torch.equal(ours["actor"][k], v) for k, v in theirs["actor"].items())
    stored = RunFolder(run).read_config()
    assert stored["steps"] == 5 * LENGTH
    assert stored["extended"] == [3 * LENGTH]
    assert json.loads((run / f"summary-{3 * LENGTH}.json").read_text())["environment_steps"] == 120
    assert Run(run)["environment_steps"] == 5 * LENGTH
    assert Config.of_run(RunFolder(run)) == LONG  # the run is read as any other


def test_a_falling_learning_rate_makes_the_difference(tmp_path: Path) -> None:
    """The control of the test above."""
    falling = LONG.replace(actor_learning_rate_end=1e-5)
    train(CERL(), falling.replace(steps=4 * LENGTH), Toy, tmp_path / "extended")
    train(CERL(), falling.replace(extend=tmp_path / "extended"), Toy)
    train(CERL(), falling, Toy, tmp_path / "planned")
    assert numbers(tmp_path / "extended") != numbers(tmp_path / "planned")


def test_an_extension_survives_a_kill(
    run: Path, planned: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed before the first new checkpoint: the old one belongs to the shorter plan."""

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("recipes.training.loop.Training.save", killed)
        with pytest.raises(KeyboardInterrupt):
            train(CERL(), LONG.replace(extend=run), Toy)
    assert not (run / "summary.json").exists()
    train(CERL(), LONG.replace(resume=run), Toy)
    assert numbers(run) == numbers(planned)


def test_an_extension_has_more_steps_and_no_other_settings(run: Path) -> None:
    with pytest.raises(RunError, match=r"steps: got 120 to extend .* allowed more than its 120"):
        train(CERL(), TOY.replace(extend=run), Toy)
    with pytest.raises(RunError, match=r"another configuration: horizon \(5, not 4\)"):
        train(CERL(), LONG.replace(extend=run, horizon=4), Toy)
    with pytest.raises(ValueError, match=r"extend: got .* without resume"):
        TOY.replace(extend=run, resume=run)
    assert (run / "summary.json").exists()


# ---- start from another run ------------------------------------------------------------------


def first_state(out: Path, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> dict[str, Any]:
    """The agent's state before the first episode of a run."""
    states: list[dict[str, Any]] = []

    def stop(training: Any) -> None:
        states.append(training.agent.state_dict())
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("recipes.training.loop.Training.iterate", stop)
        with pytest.raises(KeyboardInterrupt):
            train(CERL(), TOY.replace(seed=1, **settings), Toy, out)
    return states[0]


@pytest.mark.parametrize(
    "start_with", [("model",), ("replay",), ("model", "policy"), ("model", "policy", "replay")]
)
def test_a_run_starts_with_what_it_asks_for_and_no_more(
    start_with: tuple[str, ...], trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    new = first_state(tmp_path / "new", monkeypatch)
    warm = {"start_from": trained, "start_with": start_with}
    started = first_state(tmp_path / "started", monkeypatch, **warm)
    old = RunFolder(trained).read_checkpoint()["agent"]
    for part, name in (("model", "model"), ("policy", "actor")):
        source = old if part in start_with else new
        assert all(torch.equal(started[name][k], v) for k, v in source[name].items())
    rows = started["replay"]["rows"]
    if "replay" not in start_with:
        assert len(rows["reward"]) == 0
    else:
        assert len(rows["reward"]) > 2 * LENGTH
        assert started["iterate_row"] == len(rows["reward"])
        assert all(torch.equal(rows[k], v) for k, v in old["replay"]["rows"].items())
        assert started["replay"]["episode_starts"] == old["replay"]["episode_starts"]
    # Its random numbers are its own.
    assert torch.equal(started["generator"], new["generator"])
    assert started["replay"]["generator"] == new["replay"]["generator"]


def test_a_started_run_ends_and_resumes_without_the_other(run: Path, tmp_path: Path) -> None:
    config = TOY.replace(seed=1, start_from=run, start_with=("model", "policy", "replay"))
    train(CERL(), config, Toy, tmp_path / "started")
    shutil.rmtree(run)
    stored = Config.of_run(RunFolder(tmp_path / "started"))
    assert stored == config
    train(CERL(), stored.replace(resume=tmp_path / "started"), Toy)
    assert Run(tmp_path / "started")["environment_steps"] == 3 * LENGTH


def test_a_run_that_does_not_fit_is_one_line_and_leaves_no_folder(
    run: Path, tmp_path: Path
) -> None:
    out = tmp_path / "new"
    with pytest.raises(RunError, match=r"start_from: got .* another members .2, not 3."):
        train(CERL(), TOY.replace(start_from=run, members=3), Toy, out)
    with pytest.raises(RunError, match=r"start_from: got .* holds no checkpoint"):
        train(CERL(), TOY.replace(start_from=tmp_path), Toy, out)
    with pytest.raises(ValueError, match="start_from: got an agent of class Still"):
        train(Still, TOY.replace(start_from=run), Toy, tmp_path / "still")
    with pytest.raises(ValueError, match=r"start_with: got .*; allowed: model, policy with"):
        TOY.replace(start_with=("policy",))
    assert not out.exists()


def test_rows_are_copied_from_the_first_whole_episode(tmp_path: Path) -> None:
    """A ring that has overwritten the beginning of an episode."""
    ring, target = (
        SequenceReplay(capacity, observation_shape=(1,), action_size=1) for capacity in (5, 50)
    )
    for row in range(9):
        first = row % 3 == 0
        ring.add([float(row)], [0.5], reward=0.0, cost=0.0, is_first=first, terminated=row == 5)
    copy_rows(ring, target)
    copied = target.gather(torch.tensor([0]), len(target))
    assert copied.observation.flatten().tolist() == [6.0, 7.0, 8.0]
    assert copied.is_first.flatten().tolist() == [True, False, False]


# ---- the command line ------------------------------------------------------------------------


def test_whole_numbers_may_have_an_exponent(capsys: pytest.CaptureFixture[str]) -> None:
    assert parse("cerl_full", ["--steps", "1e6"]).steps == 1_000_000
    assert parse("cerl_full", ["--steps", "2000", "--members", "1e1"]).posterior.members == 10
    assert Config(steps=1e4).steps == 10_000
    assert isinstance(Config(steps=1e4).steps, int)
    with pytest.raises(ValueError, match=r"steps: got 1.5; allowed: whole numbers"):
        Config(steps=1.5)
    for word in ("1.5", "1e-3", "many"):
        with pytest.raises(SystemExit):
            parse("cerl_full", ["--steps", word])
        assert "--steps" in capsys.readouterr().err


def test_a_configuration_comes_from_a_file(run: Path, tmp_path: Path) -> None:
    file = str(run / "config.json")
    assert parse("cerl_full", ["--config", file]) == TOY
    assert parse("cerl_full", ["--config", file, "--seed", "4"]) == TOY.replace(seed=4)
    short = tmp_path / "short.json"
    short.write_text('{"preset": "paper", "members": 3, "steps": 2e4}')
    expected = Config(preset="paper", members=3, steps=20_000)
    assert parse("cerl_full", ["--config", str(short)]) == expected
    smoke = parse("cerl_full", ["--config", str(short), "--smoke"])
    assert smoke == Config(preset="paper", smoke=True)  # its sizes replace those of the file


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"stepz": 1}', "stepz: there is no such setting"),
        ("[1]", "does not hold settings"),
        ('{"steps": "many"}', "steps: got many"),
        ("{", "cannot read"),
    ],
)
def test_a_wrong_file_is_named(content: str, said: str, tmp_path: Path) -> None:
    file = tmp_path / "settings.json"
    file.write_text(content)
    with pytest.raises(ValueError, match=said) as error:
        parse("cerl_full", ["--config", str(file)])
    assert str(file) in str(error.value)


def test_a_file_is_for_new_runs(run: Path) -> None:
    with pytest.raises(ValueError, match=r"config: got .*; allowed with a new run"):
        parse("custom", ["--resume", str(run), "--config", str(run / "config.json")])


def test_an_extension_takes_the_settings_of_its_run(run: Path) -> None:
    settings = parse("custom", ["--extend", str(run), "--steps", "1e3"])
    assert settings == TOY.replace(extend=run, steps=1000)


# ---- between devices -------------------------------------------------------------------------


def test_a_generators_state_is_restored_exactly_on_its_kind_of_device() -> None:
    source, target = torch.Generator().manual_seed(3), torch.Generator()
    torch.randn(5, generator=source)
    restore_generator(target, source.get_state())
    assert torch.equal(torch.randn(9, generator=source), torch.randn(9, generator=target))


def test_a_state_from_a_gpu_becomes_a_seed() -> None:
    """CUDA's states have 16 bytes: seed and offset."""

    def drawn(*numbers: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(5)
        torch.randn(3, generator=generator)
        state = torch.tensor(numbers, dtype=torch.int64).view(torch.uint8)
        assert len(state) == 16
        with pytest.warns(UserWarning, match="another kind of device than cpu"):
            restore_generator(generator, state)
        return torch.randn(9, generator=generator)

    assert torch.equal(drawn(3, 8), drawn(3, 8))
    assert not torch.equal(drawn(3, 8), drawn(3, 12))
    assert not torch.equal(drawn(3, 8), drawn(4, 8))


def test_a_checkpoint_from_a_gpu_goes_on_on_a_cpu(trained: Path) -> None:
    state = RunFolder(trained).read_checkpoint()["agent"]
    state["generator"] = torch.tensor([3, 8]).view(torch.uint8)
    state["model_optimizer"]["param_groups"][0]["capturable"] = True
    agent = CERL()(TOY, Toy())
    with pytest.warns(UserWarning, match="another kind of device than cpu"):
        agent.load_state_dict(state)
    assert isinstance(agent, LatentAgent)
    assert not agent.model_optimizer.param_groups[0]["capturable"]
    assert np.isfinite(list(agent.learn(0.5).values())).all()


@pytest.mark.gpu
def test_a_real_state_from_a_gpu_becomes_a_seed() -> None:
    state = torch.Generator("cuda").manual_seed(1).get_state()
    with pytest.warns(UserWarning, match="another kind of device than cpu"):
        restore_generator(torch.Generator(), state)


def test_fused_optimisers_are_capturable_on_a_gpu_only() -> None:
    weight = torch.nn.Parameter(torch.ones(2))
    fused = torch.optim.Adam([weight], fused=True)
    weight.grad = torch.ones(2)
    fused.step()
    state = {"optimizer": fused.state_dict(), "plain": [torch.optim.Adam([weight]).state_dict()]}
    cuda, cpu = (for_device(state, torch.device(name)) for name in ("cuda", "cpu"))
    assert cuda["optimizer"]["param_groups"][0]["capturable"]
    assert not for_device(cuda, torch.device("cpu"))["optimizer"]["param_groups"][0]["capturable"]
    assert not cuda["plain"][0]["param_groups"][0]["capturable"]
    assert cpu["optimizer"]["param_groups"] == state["optimizer"]["param_groups"]
    assert not state["optimizer"]["param_groups"][0]["capturable"]  # a copy
