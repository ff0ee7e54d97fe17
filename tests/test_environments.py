"""The environment block on real tasks, against the raw simulator and hand-counted costs."""

import copy
import importlib
import inspect
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from opengl import skip_without_opengl

from blocks.environments import episodes
from blocks.environments.compatibility import import_safety_gymnasium
from blocks.environments.safety_gymnasium import SafetyEnvironment, make_environment

CHEETAH = "SafetyHalfCheetahVelocity-v1"
GOAL = "SafetyPointGoal1-v0"
CIRCLE = "SafetyPointCircle1-v0"
LENGTHS = {CHEETAH: 1000, GOAL: 1000, CIRCLE: 500}

# As outside the test suite, where no type checker stands before the block's own checks.
unchecked_make_environment = inspect.unwrap(make_environment)


def raw_environment(task: str, *, seed: int, episode: int = 0, **options: Any) -> Any:
    """Safety-Gymnasium's own environment at the start of the same episode."""
    env = import_safety_gymnasium().make(task, **options)
    env.reset(seed=raw_seed(seed, episode))
    return env


def raw_seed(seed: int, episode: int) -> int:
    """The seed with which Safety-Gymnasium's own environment starts our episode."""
    return int(np.random.SeedSequence((seed, episode)).generate_state(1)[0])


def some_actions(env: SafetyEnvironment, count: int, seed: int = 0) -> np.ndarray:
    low, high = env.action_space.low, env.action_space.high
    noise = np.random.default_rng(seed).uniform(low, high, (count, *low.shape))
    # A constant push beside the noise, so that the robots get somewhere and cost occurs.
    return np.clip(0.6 * high + 0.6 * noise, low, high).astype(np.float32)


def run(env: SafetyEnvironment, steps: int, seed: int = 0) -> list[np.ndarray]:
    """Everything an agent sees in an episode's first steps, as flat arrays."""
    seen = [env.reset()[0]]
    for action in some_actions(env, steps, seed):
        observation, reward, terminated, truncated, info = env.step(action)
        seen += [observation, np.array((reward, terminated, truncated, info["cost"]))]
    return seen


def assert_same(first: list[np.ndarray], second: list[np.ndarray]) -> None:
    assert len(first) == len(second)
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("task", LENGTHS)
def test_steps_match_the_raw_environment(task: str) -> None:
    env = make_environment(task, seed=3)
    raw = raw_environment(task, seed=3)
    env.reset()
    truncated, total_cost = False, 0.0
    for count, action in enumerate(some_actions(env, LENGTHS[task]), start=1):
        observation, reward, terminated, truncated, info = env.step(action)
        expected, raw_reward, raw_cost, raw_terminated, _, _ = raw.step(action)
        np.testing.assert_array_equal(observation, np.asarray(expected, np.float32))
        assert (reward, info["cost"]) == (raw_reward, raw_cost)
        assert terminated == raw_terminated
        assert truncated == (count == LENGTHS[task])
        total_cost += info["cost"]
    assert truncated
    # Velocity costs need a faster cheetah than random actions make; see the test below.
    assert (total_cost > 0) == (task != CHEETAH)


@pytest.mark.parametrize(
    "task", [GOAL, "SafetyCarButton1-v0", "SafetyPointPush1-v0", "SafetyRacecarCircle2-v0"]
)
def test_every_reset_of_a_navigation_task_lays_it_out_as_the_raw_environment_s(task: str) -> None:
    env, raw = make_environment(task, seed=3), import_safety_gymnasium().make(task)
    starts = []
    for seed, episode in ((3, 0), (3, 1), (8, 0)):
        observation, _ = env.reset(seed=None if seed == 3 else seed)
        expected, _ = raw.reset(seed=raw_seed(seed, episode))
        np.testing.assert_array_equal(observation, np.asarray(expected, np.float32))
        np.testing.assert_array_equal(placements(env._inner), placements(raw))
        starts.append(placements(raw))
        for action in some_actions(env, 40, seed=episode):
            observation, reward, terminated, _, info = env.step(action)
            expected, raw_reward, raw_cost, raw_terminated, _, _ = raw.step(action)
            np.testing.assert_array_equal(observation, np.asarray(expected, np.float32))
            np.testing.assert_array_equal(placements(env._inner), placements(raw))
            assert (reward, info["cost"], terminated) == (raw_reward, raw_cost, raw_terminated)
    assert not any(np.array_equal(starts[0], other) for other in starts[1:])


def placements(env: Any) -> np.ndarray:
    """Where everything of a navigation task is and how it moves, in the simulator's precision."""
    data = env.unwrapped.task.data
    return np.concatenate([data.geom_xpos.ravel(), data.geom_xmat.ravel(), data.qpos, data.qvel])


def test_velocity_cost_is_counted_by_hand() -> None:
    env = make_environment(CHEETAH, seed=1, action_repeat=2)
    env.reset()
    simulator = env._inner
    fast = simulator.data.qvel.copy()
    fast[0] = 6.0  # thrown forward, then friction slows it below the limit
    simulator.set_state(simulator.data.qpos.copy(), fast)
    twin = raw_environment(CHEETAH, seed=1).unwrapped
    twin.set_state(twin.data.qpos.copy(), fast)
    costs, expected = [], []
    action = np.zeros(env.action_space.shape, np.float32)
    for _ in range(100):
        costs.append(env.step(action)[4]["cost"])
        over = 0
        for _ in range(2):
            before = twin.data.qpos[0]
            twin.step(action)
            over += (twin.data.qpos[0] - before) / 0.05 > 3.2096
        expected.append(float(over))
    assert costs == expected
    assert set(expected) >= {0.0, 2.0}


def test_hazard_cost_is_counted_by_hand() -> None:
    env = make_environment(GOAL, seed=5)
    env.reset()
    task = env._inner.task
    costs, expected = [], []
    for action in some_actions(env, 400):
        costs.append(env.step(action)[4]["cost"])
        robot = task.data.body("agent").xpos[:2]
        hazards = [task.data.body(f"hazard{k}").xpos[:2] for k in range(8)]
        inside = any(np.linalg.norm(robot - hazard) < 0.2 for hazard in hazards)
        expected.append(float(inside))
    assert costs == expected
    assert 0 < sum(expected) < 400


def test_circle_cost_is_counted_by_hand() -> None:
    env = make_environment(CIRCLE, seed=2, action_repeat=5)
    env.reset()
    task = env._inner.task
    step, walls = env._inner.step, []

    def observed_step(action: np.ndarray) -> Any:
        result = step(action)
        walls.append(abs(task.data.body("agent").xpos[0]) > 1.125)
        return result

    env._inner.step = observed_step
    costs = [env.step(action)[4]["cost"] for action in some_actions(env, 100)]
    assert costs == np.array(walls).reshape(100, 5).sum(axis=1).tolist()
    assert 0 < sum(costs) < 500


@pytest.mark.parametrize(("task", "repeat"), [(CHEETAH, 3), (CIRCLE, 7)])
def test_an_action_repeat_sums_rewards_and_costs_and_stops_at_the_end(
    task: str, repeat: int
) -> None:
    env = make_environment(task, seed=4, action_repeat=repeat)
    raw = raw_environment(task, seed=4)
    env.reset()
    remaining = env.episode_length
    actions = some_actions(env, -(-remaining // repeat))
    for action in actions:
        observation, reward, _, truncated, info = env.step(action)
        inner_steps = min(repeat, remaining)
        results = [raw.step(action) for _ in range(inner_steps)]
        remaining -= inner_steps
        assert info["inner_steps"] == inner_steps
        assert reward == pytest.approx(sum(result[1] for result in results), rel=1e-12)
        assert info["cost"] == sum(result[2] for result in results)
        np.testing.assert_array_equal(observation, np.asarray(results[-1][0], np.float32))
        assert truncated == (remaining == 0)
    assert remaining == 0


@pytest.mark.parametrize("task", LENGTHS)
def test_spaces_are_float32_and_hold_what_comes(task: str) -> None:
    env = make_environment(task)
    observation, _ = env.reset()
    assert env.observation_space.contains(observation)
    assert observation.dtype == env.action_space.dtype == np.float32
    assert env.observation_space.contains(env.step(env.action_space.sample())[0])
    assert env.episode_length == LENGTHS[task]


def test_actions_are_clipped_to_the_bounds() -> None:
    runs = []
    for scale in (1.0, 50.0):
        env = make_environment(CHEETAH, seed=0)
        env.reset()
        runs.append(env.step(scale * env.action_space.high))
    np.testing.assert_array_equal(runs[0][0], runs[1][0])
    assert runs[0][1] == runs[1][1]  # the control cost, too, is that of the clipped action


@pytest.mark.parametrize("task", LENGTHS)
def test_the_seed_fixes_every_episode(task: str) -> None:
    one, same, other = (make_environment(task, seed=seed) for seed in (7, 7, 8))
    first, second = run(one, 20), run(one, 20)
    assert_same(first, run(same, 20))
    assert_same(second, run(same, 20))
    assert not np.array_equal(first[0], second[0])
    assert not np.array_equal(first[0], run(other, 1)[0])


@pytest.mark.parametrize("task", LENGTHS)
def test_a_run_resumes_at_an_episodes_boundary(task: str) -> None:
    uninterrupted = make_environment(task, seed=11, action_repeat=2)
    # Episodes of different lengths and actions: what was done before must not matter.
    run(uninterrupted, 30, seed=1)
    run(uninterrupted, 10, seed=2)
    saved = uninterrupted.episode_index
    assert saved == 2

    resumed = make_environment(task, seed=11, action_repeat=2)
    resumed.episode_index = saved
    assert_same(run(uninterrupted, 20), run(resumed, 20))
    assert uninterrupted.episode_index == resumed.episode_index == saved + 1


def test_reset_takes_an_episode_or_a_seed() -> None:
    env = make_environment(CHEETAH, seed=0)
    starts = [env.reset()[0] for _ in range(3)]
    np.testing.assert_array_equal(env.reset(options={"episode": 1})[0], starts[1])
    np.testing.assert_array_equal(env.reset()[0], starts[2])
    np.testing.assert_array_equal(env.reset(seed=0)[0], starts[0])
    assert env.episode_index == 1
    elsewhere = make_environment(CHEETAH, seed=9).reset()[0]
    np.testing.assert_array_equal(env.reset(seed=9)[0], elsewhere)
    with pytest.raises(ValueError, match=r"options: got 'epsiode'.*allowed 'episode'"):
        env.reset(options={"epsiode": 1})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"task": "SafetyPointGoal1-v1"}, r"task: got 'SafetyPointGoal1-v1'.*SafetyPointGoal1-v0"),
        ({"task": "SafetyHalfCheetah-v1"}, r"task: got .*SafetyHalfCheetahVelocity-v1"),
        ({"task": "SafetyPointGoal1Vision-v0"}, r"without 'Vision'.*SafetyPointGoal1-v0"),
        ({"task": ""}, r"task: got ''.*perhaps you mean"),
        ({"action_repeat": 0}, r"action_repeat: got 0; allowed an integer >= 1"),
        ({"action_repeat": 1.5}, r"action_repeat: got 1.5; allowed an integer"),
        ({"action_repeat": True}, r"action_repeat: got True; allowed an integer"),
        ({"seed": -1}, r"seed: got -1; allowed an integer >= 0"),
        ({"observation": "pixels"}, r"observation: got 'pixels'; allowed 'vector' or 'image'"),
        ({"image_quality": "best"}, r"image_quality: got 'best'; allowed 'exact' or 'fast'"),
    ],
)
def test_a_wrong_argument_is_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        unchecked_make_environment(**{"task": CHEETAH} | arguments)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_bad_action_is_refused_before_the_simulator_sees_it(bad: float) -> None:
    env, untouched = make_environment(CHEETAH), make_environment(CHEETAH)
    env.reset(), untouched.reset()
    action = np.zeros(6, np.float32)
    action[2] = bad
    with pytest.raises(ValueError, match=r"action: got NaN or infinity at \[2\]"):
        env.step(action)
    with pytest.raises(ValueError, match=r"action: got shape \(5,\); allowed \(6,\)"):
        env.step(np.zeros(5, np.float32))
    good = np.full(6, 0.5, np.float32)
    np.testing.assert_array_equal(env.step(good)[0], untouched.step(good)[0])


@pytest.mark.parametrize(
    ("position", "message"),
    [
        (0, "^observation: got NaN"),
        (1, "^reward: got nan"),
        (2, "^cost: got nan; allowed a finite"),
    ],
)
def test_a_number_that_is_not_finite_from_the_simulator_is_named(
    position: int, message: str
) -> None:
    env = make_environment(CHEETAH)
    env.reset()
    step = env._inner.step

    def broken_step(action: np.ndarray) -> Any:
        result = list(step(action))
        result[position] = result[position] * np.nan
        return tuple(result)

    env._inner.step = broken_step
    with pytest.raises(ValueError, match=message):
        env.step(np.zeros(6, np.float32))


def cost_reports(env: SafetyEnvironment, actions: np.ndarray) -> dict[str, list[Any]]:
    """All that info says of costs and flags, by key; a list of one value an action."""
    env.reset()
    reports = [env.step(action)[4] for action in actions]
    keys = {key for report in reports for key in report}
    flags = {key for key in keys if isinstance(next(r[key] for r in reports if key in r), bool)}
    costs = {key for key in keys if key.startswith("cost")}
    return {key: [report.get(key, 0) for report in reports] for key in flags | costs}


def costs_add_up(repeated: dict[str, list[Any]], once: dict[str, list[Any]]) -> None:
    """One action at repeat n reports what n actions at repeat 1 do."""
    assert repeated.keys() == once.keys()
    for key, values in once.items():
        count = len(repeated[key])
        each = np.reshape(np.asarray(values), (count, len(values) // count, -1))
        summed = each.any(axis=1) if each.dtype == bool else each.sum(axis=1)
        np.testing.assert_allclose(np.reshape(repeated[key], (count, -1)), summed, err_msg=key)


def test_repeated_actions_report_the_sum_of_every_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    task, repeat = "SafetyPointButton1-v0", 5
    env = make_environment(task, seed=1, action_repeat=repeat)
    actions = some_actions(env, 60)
    reports = cost_reports(env, actions)
    once = cost_reports(make_environment(task, seed=1), actions.repeat(repeat, axis=0))
    costs_add_up(reports, once)
    assert {"cost_buttons", "cost_gremlins", "cost_hazards", "cost_sum"} < set(reports)
    assert sum(reports["cost"]) == sum(reports["cost_sum"]) > 0
    monkeypatch.setattr(episodes, "add_report", dict.update)  # the last inner step's wins
    env.episode_index = 0
    with pytest.raises(AssertionError, match="cost_"):
        costs_add_up(cost_reports(env, actions), once)


def test_a_task_has_several_costs_by_name() -> None:
    source = {"hazards": "cost_hazards", "vases": "cost_vases_contact"}
    env = make_environment("SafetyPointGoal2-v0", seed=0, action_repeat=4, cost=source)
    assert env.cost_names == ("hazards", "vases")
    env.reset()
    infos = [env.step(action)[4] for action in some_actions(env, 100)]
    for info in infos:
        np.testing.assert_array_equal(info["costs"], [info[key] for key in source.values()])
        assert info["cost"] == sum(info["costs"])
    assert (np.sum([info["costs"] for info in infos], axis=0) > 0).all()


def test_a_single_cost_is_a_vector_of_one() -> None:
    env = make_environment(CIRCLE, seed=2, action_repeat=5)
    assert env.cost_names == ("cost",)
    env.reset()
    infos = [env.step(action)[4] for action in some_actions(env, 100)]
    assert all(info["costs"].tolist() == [info["cost"]] for info in infos)
    assert sum(info["cost"] for info in infos) > 0


def test_a_cost_is_a_function_of_the_transition() -> None:
    def moved(observation: Any, action: Any, following: Any, info: dict[str, Any]) -> float:
        return float(abs(following - observation).sum())

    env = make_environment(CHEETAH, action_repeat=2, cost=moved)
    single = make_environment(CHEETAH, cost=moved)
    env.reset(), single.reset()
    action = np.ones(6, np.float32)
    expected = single.step(action)[4]["cost"] + single.step(action)[4]["cost"]
    assert env.step(action)[4]["cost"] == expected > 0
    with pytest.raises(ValueError, match=r"cost: got a function for image observations"):
        make_environment(CHEETAH, observation="image", cost=moved)


def test_the_smaller_of_two_lengths_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    registry = import_safety_gymnasium() and importlib.import_module("gymnasium").registry
    for registered, length in ((300, 300), (2000, 500)):
        spec = copy.deepcopy(registry[CIRCLE])
        spec.max_episode_steps = registered
        monkeypatch.setitem(registry, CIRCLE, spec)
        env = make_environment(CIRCLE, action_repeat=100)
        env.reset()
        assert env.episode_length == length
        ends = [env.step(np.zeros(2, np.float32))[3] for _ in range(length // 100)]
        assert ends == [False] * (length // 100 - 1) + [True]


@pytest.mark.parametrize("good", [0, 1, 2])
def test_a_simulation_that_explodes_ends_the_episode_before(
    good: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MuJoCo restarts it in the middle of an action, here after ``good`` of three inner steps."""
    monkeypatch.chdir(tmp_path)  # MuJoCo writes a log
    env, untouched = make_environment(CHEETAH, action_repeat=3), make_environment(CHEETAH)
    env.reset()
    last, _ = untouched.reset()
    action, reward = np.ones(6, np.float32), 0.0
    step, taken = env._inner.step, 0

    def spoiled(action: np.ndarray) -> Any:
        nonlocal taken
        if taken == good:
            env._inner.data.qvel[:] = 1e12
        taken += 1
        return step(action)

    for _ in range(good):
        last, gained, *_ = untouched.step(action)
        reward += gained
    monkeypatch.setattr(env._inner, "step", spoiled)
    observation, gained, terminated, truncated, info = env.step(action)
    np.testing.assert_array_equal(observation, last)
    assert (gained, terminated, truncated) == (reward, False, True)
    assert info["unstable"] is True
    assert info["inner_steps"] == good
    assert taken == good + 1
    with pytest.raises(RuntimeError, match="the episode is over"):
        env.step(action)
    env.reset()
    assert "unstable" not in env.step(action)[4]


def test_time_alone_does_not_show_an_explosion_in_the_first_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    times = []
    for velocity in (0.0, 1e12):
        env = make_environment(CHEETAH)
        env.reset()
        env._inner.data.qvel[:] = velocity
        assert env.step(np.zeros(6, np.float32))[3] == (velocity > 0)
        times.append(env._inner.data.time)
    assert times[0] == times[1] > 0


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda env: pickle.loads(pickle.dumps(env))])
def test_a_copy_starts_the_next_episode(copied: Any) -> None:
    env = make_environment(CIRCLE, seed=3, action_repeat=2, cost={"wall": "cost_sum"})
    run(env, 3)
    other = copied(env)
    assert (other.episode_index, other.cost_names) == (1, ("wall",))
    with pytest.raises(RuntimeError, match=r"none begun; call reset\(\)"):
        other.step(np.zeros(2, np.float32))
    assert_same(run(env, 10), run(other, 10))
    env.reset(seed=9)
    assert_same(run(copied(env), 10), run(env, 10))


def test_a_pickle_is_read_in_a_fresh_process(tmp_path: Path) -> None:
    env = make_environment(CIRCLE, seed=3)
    (tmp_path / "env.pickle").write_bytes(pickle.dumps(env))
    code = (
        "import pickle, sys; env = pickle.load(open(sys.argv[1], 'rb')); print(env.reset()[0][0])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "env.pickle"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(env.reset()[0][0])


@pytest.mark.filterwarnings("ignore:.*(infinity|normalized|having a spec):UserWarning")
@pytest.mark.parametrize("task", [CHEETAH, CIRCLE])
def test_gymnasium_s_own_check_passes(task: str) -> None:
    check_env(make_environment(task), skip_render_check=True)


def test_the_generator_depends_on_seed_and_episode_alone() -> None:
    env, other = make_environment(CHEETAH, seed=3), make_environment(CHEETAH, seed=3)
    drawn = []
    for _ in range(3):
        env.reset()
        drawn.append(env.np_random.random())
        env.np_random.random(7)
    other.reset(options={"episode": 2})
    assert other.np_random.random() == drawn[2]
    assert len(set(drawn)) == 3


def test_stepping_outside_an_episode_is_an_error() -> None:
    env = make_environment(CIRCLE, action_repeat=500)
    action = np.zeros(2, np.float32)
    with pytest.raises(RuntimeError, match="call reset"):
        env.step(action)
    env.reset()
    assert env.step(action)[3]
    with pytest.raises(RuntimeError, match="the episode is over"):
        env.step(action)
    env.reset()
    assert env.step(action)[3]


def test_a_task_that_cannot_be_built_says_why() -> None:
    env = make_environment("SafetyPointRace1-v0")  # its textures are in no release
    with pytest.raises(RuntimeError, match=r"cannot build SafetyPointRace1-v0 .*village_floor"):
        env.reset()


def test_the_block_needs_no_torch_and_prints_nothing() -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from blocks.environments.safety_gymnasium import make_environment\n"
        f"env = make_environment({CIRCLE!r}); env.reset()\n"
        "assert env.step(env.action_space.sample())[4]['inner_steps'] == 1\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


@pytest.mark.parametrize(
    ("task", "fps"),
    [("SafetyPointCircle1-v0", 50), ("SafetyCarCircle1-v0", 25), ("SafetyAntVelocity-v1", 20)],
)
def test_its_frames_per_second_are_the_simulators(task: str, fps: int) -> None:
    env = make_environment(task)
    env.reset()
    inner: Any = env._inner.task if "Circle" in task else env._inner
    before = inner.data.time
    env.step(np.zeros(env.action_space.shape or ()))
    assert env.metadata["render_fps"] == fps
    assert inner.data.time - before == pytest.approx(1 / fps)


def test_a_missing_package_is_named_with_the_command_that_installs_it() -> None:
    code = (
        "import sys; sys.modules['gymnasium'] = None; import blocks.environments.safety_gymnasium"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: Safety-Gymnasium tasks need the package 'gymnasium'")
    assert "pip install 'cerl-blocks[" in last


@pytest.fixture(scope="module")
def images() -> Iterator[SafetyEnvironment]:
    skip_without_opengl()
    env = make_environment(GOAL, seed=6, observation="image", action_repeat=2)
    env.reset()
    yield env
    env.close()


def test_images_are_the_stock_camera_s(images: SafetyEnvironment) -> None:
    from gymnasium.envs.registration import registry

    config = registry["SafetyPointGoal1Vision-v0"].kwargs["config"]
    raw = raw_environment(
        "SafetyPointGoal1Vision-v0",
        seed=6,
        config=config | {"vision_env_conf.vision_size": (64, 64)},
    )
    assert images.observation_space.shape == (64, 64, 3)
    seen = []
    for action in some_actions(images, 5):
        observation, reward, _, _, info = images.step(action)
        results = [raw.step(action) for _ in range(2)]
        np.testing.assert_array_equal(observation, results[-1][0]["vision"])
        assert reward == pytest.approx(sum(result[1] for result in results), rel=1e-12)
        assert info["cost"] == sum(result[2] for result in results)
        assert images.observation_space.contains(observation)
        seen.append(observation)
    assert observation.std() > 5
    assert not np.array_equal(seen[0], seen[-1])
    np.testing.assert_array_equal(images.render()[::4, ::4], observation)
    for viewer in list(raw.unwrapped.task._viewers.values()):
        viewer.free()


@pytest.mark.parametrize("task", [CHEETAH, CIRCLE])
@pytest.mark.usefixtures("images")  # skips where there is no OpenGL
def test_render_shows_the_scene_and_leaves_the_episode_alone(task: str) -> None:
    env, unrendered = make_environment(task, seed=1), make_environment(task, seed=1)
    env.reset(), unrendered.reset()
    frames = []
    for action in some_actions(env, 30):
        env.step(action), unrendered.step(action)
        frames.append(env.render())
    assert frames[0].shape == (256, 256, 3)
    assert frames[0].dtype == np.uint8
    assert frames[0].std() > 5
    assert not np.array_equal(frames[0], frames[-1])
    action = np.zeros(env.action_space.shape, np.float32)
    np.testing.assert_array_equal(env.step(action)[0], unrendered.step(action)[0])
    env.close()


@pytest.mark.usefixtures("images")
def test_an_environment_left_open_ends_quietly() -> None:
    code = (
        "from blocks.environments.safety_gymnasium import make_environment\n"
        f"env = make_environment({CIRCLE!r}); env.reset(); env.render()\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)  # Gymnasium's __del__
def test_drawing_without_opengl_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUJOCO_GL", "no-such-backend")
    env = make_environment(CHEETAH)
    env.reset()
    with pytest.raises(RuntimeError, match=r"no frame could be drawn.*apt-get install libegl1"):
        env.render()
