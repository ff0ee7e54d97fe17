"""Any Gymnasium environment as a constrained task: costs, repeats, episodes, spaces, copies."""

import copy
import inspect
import pickle
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import check_env
from gymnasium.wrappers import TimeLimit
from hypothesis import given
from hypothesis import strategies as st
from own_task import SixValues, Walk

from blocks.environments import episodes
from blocks.environments.constrained import constrained
from blocks.environments.costs import cost_names_of, costs_of
from blocks.environments.episodes import ConstrainedEnvironment
from blocks.environments.safety_gymnasium import make_environment

# As outside the test suite, where no type checker stands before the block's own checks.
unchecked_constrained = inspect.unwrap(constrained)


def walk(cost: Any = None, **options: Any) -> ConstrainedEnvironment:
    return constrained(Walk(), cost, **{"episode_length": 20} | options)


def newest(name: str) -> gymnasium.Env:
    """Gymnasium's MuJoCo task in its newest version: 4 until 0.29, 5 from 1.0 on."""
    return gymnasium.make(f"{name}-v{5 if f'{name}-v5' in gymnasium.registry else 4}")


def speed(observation: Any, action: Any, following: Any, info: dict[str, Any]) -> float:
    return abs(float(following[0] - observation[0]))


def speed_and_push(observation: Any, action: Any, following: Any, info: dict[str, Any]) -> Any:
    return [speed(observation, action, following, info), abs(float(action[0]))]


SOURCES: list[tuple[Any, tuple[str, ...]]] = [
    (None, ("cost",)),
    ("cost_push", ("cost",)),
    (speed, ("cost",)),
    ({"left": "cost_left", "push": "cost_push"}, ("left", "push")),
    ({"push": "cost_push", ("speed", "effort"): speed_and_push}, ("push", "speed", "effort")),
    ({("one", "two"): "cost_count"}, ("one", "two")),
]


@pytest.mark.parametrize(("source", "names"), SOURCES)
def test_every_source_gives_its_costs_by_name(source: Any, names: tuple[str, ...]) -> None:
    env, raw = walk(source, seed=4), Walk()
    env.reset()
    entropy = np.random.SeedSequence((4, 0)).generate_state(1)
    before, _ = raw.reset(seed=int(entropy[0]))
    assert env.cost_names == cost_names_of(env) == names
    for push in (-1.8, 0.3, 2.0, -0.5):
        following, _, _, _, report = raw.step(np.array([push], np.float32))
        info = env.step(np.array([push], np.float32))[4]
        moved, pushed = abs(following[0] - before[0]), abs(float(np.float32(push)))
        known = {
            "left": report["cost_left"],
            "push": pushed,
            "speed": moved,
            "effort": pushed,
            "one": 1,
            "two": 2,
            "cost": {None: report["cost"], "cost_push": pushed, speed: moved}.get(source)
            if names == ("cost",)
            else None,
        }
        np.testing.assert_array_equal(info["costs"], [known[name] for name in names])
        assert info["costs"].dtype == np.float64
        assert info["cost"] == sum(info["costs"])
        np.testing.assert_array_equal(costs_of(info, names), info["costs"])
        before = following


def test_six_values_carry_the_cost() -> None:
    env = constrained(SixValues(), episode_length=5, action_repeat=2)
    env.reset()
    assert env.step(np.array([-2.0]))[4]["cost"] == 14.0
    named = constrained(SixValues(), "cost_left", episode_length=5, action_repeat=2)
    named.reset()
    assert named.step(np.array([-2.0]))[4]["cost"] == 2.0


def repeat_law(repeat: int, pushes: list[float], end: float) -> None:
    """One action at repeat n reports what n actions at repeat 1 do."""
    source = {"left": "cost_left", "speed": speed}
    repeated = constrained(Walk(end), source, episode_length=13, action_repeat=repeat, seed=5)
    single = constrained(Walk(end), source, episode_length=13, seed=5)
    repeated.reset(), single.reset()
    over = False
    for push in pushes:
        if over:
            break
        action = np.array([push], np.float32)
        steps: list[Any] = []
        while len(steps) < repeat and not over:
            steps.append(single.step(action))
            over = steps[-1][2] or steps[-1][3]
        observation, reward, terminated, truncated, info = repeated.step(action)
        np.testing.assert_array_equal(observation, steps[-1][0])
        assert (terminated, truncated) == steps[-1][2:4]
        assert reward == sum(step[1] for step in steps)
        reports = [step[4] for step in steps]
        assert info["inner_steps"] == len(steps)
        for key in ("cost", "costs", "cost_left", "cost_push", "cost_count"):
            np.testing.assert_allclose(info[key], sum(report[key] for report in reports), 1e-12)
        assert info["hard"] == any(report["hard"] for report in reports)
        assert info["x"] == reports[-1]["x"]


@given(
    st.integers(1, 6),
    st.lists(st.floats(-2, 2, width=32), min_size=1, max_size=14),
    st.sampled_from([1.5, 4.0, np.inf]),
)
def test_an_action_at_repeat_n_reports_what_n_single_ones_do(
    repeat: int, pushes: list[float], end: float
) -> None:
    repeat_law(repeat, pushes, end)


def test_the_law_of_repeats_fails_if_the_last_report_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    repeat_law(3, [-1.0], np.inf)
    monkeypatch.setattr(episodes, "add_report", dict.update)
    with pytest.raises(AssertionError):
        repeat_law(3, [-1.0], np.inf)


def test_a_cost_function_sees_two_observations_even_if_the_task_has_one_array() -> None:
    class OneArray(Walk):
        def reset(self, **options: Any) -> Any:
            self.array, info = super().reset(**options)
            return self.array, info

        def step(self, action: np.ndarray) -> Any:
            self.array[:], *rest = super().step(action)
            return self.array, *rest

    env = constrained(OneArray(), speed, episode_length=9, action_repeat=3)
    env.reset()
    assert env.step(np.array([2.0]))[4]["cost"] > 4


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("cost_speed", r"cost: got 'cost_speed', but info has no 'cost_speed'.*'cost_push'"),
        ({"a": "nope"}, r"cost: got 'nope'.*'cost_left'"),
        (lambda *_: float("nan"), r"^cost: got nan; allowed a finite number >= 0"),
        (lambda *_: np.inf, r"^cost: got inf"),
        (lambda *_: -0.5, r"^cost: got -0.5"),
        ({"a": lambda *_: -1}, r"^cost 'a': got -1.0"),
        (lambda *_: None, r"cost: got None for 'cost'; allowed 1 of numbers >= 0"),
        (lambda *_: [1, 2], r"cost: got \[1, 2\] for 'cost'"),
        ({("a", "b"): lambda *_: 1.0}, r"cost: got 1.0 for 'a', 'b'; allowed 2"),
        (lambda *_: "much", r"cost: got 'much'"),
    ],
)
def test_a_wrong_cost_is_named_in_one_line(source: Any, message: str) -> None:
    env = walk(source)
    env.reset()
    with pytest.raises(ValueError, match=message) as raised:
        env.step(np.zeros(1))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"cost": 5}, r"cost: got 5 for 'cost'; allowed a key of info or a function"),
        ({"cost": {}}, r"cost: got the names \(\); allowed one or more"),
        ({"cost": {"a": "cost", ("b", "a"): speed}}, r"cost: got the names \('a', 'b', 'a'\)"),
        ({"cost": {3: "cost"}}, r"cost: got the name 3; allowed a string"),
        ({"cost": {"a": None}}, r"cost: got None for 'a'"),
        ({"action_repeat": 0}, r"action_repeat: got 0; allowed an integer >= 1"),
        ({"seed": -1}, r"seed: got -1"),
        ({"episode_length": 0}, r"episode_length: got 0; allowed an integer >= 1"),
        ({"episode_length": None}, r"episode_length: got None .* without a time limit"),
        ({"env": walk()}, r"env: got Walk, which is constrained already"),
    ],
)
def test_a_wrong_argument_is_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        unchecked_constrained(**{"env": Walk(), "episode_length": 9} | arguments)


def test_costs_of_takes_environments_that_do_not_name_theirs() -> None:
    np.testing.assert_array_equal(costs_of({"cost": 2}), [2.0])
    assert cost_names_of(object()) == ("cost",)
    with pytest.raises(ValueError, match=r"info\['costs'\]: got None; allowed 2 numbers"):
        costs_of({"cost": 2.0}, ("a", "b"))
    with pytest.raises(ValueError, match=r"info\['cost'\]: got None"):
        costs_of({})


def play(env: ConstrainedEnvironment, count: int = 6) -> list[Any]:
    observation, _ = env.reset()
    seen: list[Any] = [*observation, env.np_random.random()]
    for push in np.linspace(-2, 2, count, dtype=np.float32):
        observation, reward, *_, info = env.step(np.full(env.action_space.shape, push))
        seen += [*observation, reward, info["cost"]]
    return seen


def test_an_episode_depends_on_seed_and_number_alone() -> None:
    env = walk(seed=3)
    played = [play(env) for _ in range(3)]
    other = walk(seed=3)
    other.episode_index = 2
    assert play(other) == played[2]
    assert other.episode_index == 3
    other.reset(options={"episode": 0})
    other.step(np.ones(1))
    assert play(other) == played[1]
    other.reset(seed=3)
    assert play(other) == played[1]
    assert played[0] != played[1] != play(walk(seed=4))
    with pytest.raises(ValueError, match=r"options: got 'x'; allowed 'episode'"):
        env.reset(options={"x": 1})


def test_its_generator_is_not_the_task_s() -> None:
    """Equal streams would make draws from the one follow draws from the other."""
    env = walk()
    env.reset()
    assert env.np_random.random() != env._inner.np_random.random()


def test_the_smaller_limit_counts() -> None:
    limited = TimeLimit(Walk(), 7)
    assert constrained(limited).episode_length == 7
    assert constrained(limited, episode_length=9).episode_length == 7
    assert constrained(limited, episode_length=3).episode_length == 3
    assert constrained(gymnasium.make("Pendulum-v1")).episode_length == 200
    registered = Walk()
    registered.spec = EnvSpec("Walk-v0", entry_point="own_task:Walk", max_episode_steps=8)
    assert constrained(registered).episode_length == 8
    assert constrained(TimeLimit(registered, 7)).episode_length == 7
    for length, given_length in ((7, None), (3, 3)):
        env = constrained(TimeLimit(Walk(), 7), episode_length=given_length, action_repeat=2)
        env.reset()
        steps = [env.step(np.zeros(1)) for _ in range((length + 1) // 2)]
        assert [step[3] for step in steps] == [False] * (len(steps) - 1) + [True]
        assert [step[4]["inner_steps"] for step in steps] == [2] * (length // 2) + [1]
        with pytest.raises(RuntimeError, match="Walk: the episode is over"):
            env.step(np.zeros(1))


class Shown(Walk):
    """The walk with an observation of any space: a sample."""

    def __init__(self, space: spaces.Space, wrong: Any = None) -> None:
        super().__init__()
        self.observation_space = space
        self.wrong = wrong
        space.seed(0)

    def reset(self, **options: Any) -> Any:
        return self.observation_space.sample(), super().reset(**options)[1]

    def step(self, action: np.ndarray) -> Any:
        sample = self.observation_space.sample() if self.wrong is None else self.wrong
        return sample, *super().step(action)[1:]


UNIT = spaces.Box(-1.0, 1.0, (2,), np.float64)


@pytest.mark.parametrize(
    ("space", "size"),
    [
        (UNIT, 2),
        (spaces.Box(-1.0, 1.0, (2, 3, 2), np.float32), 12),
        (spaces.Box(0, 255, (128,), np.uint8), 128),
        (spaces.Discrete(4), 4),
        (spaces.Dict({"a": UNIT, "b": spaces.Discrete(3), "c": spaces.Dict({"d": UNIT})}), 7),
        (spaces.Tuple((UNIT, spaces.MultiBinary(3))), 5),
    ],
)
def test_observations_of_every_fixed_size_become_vectors(space: Any, size: int) -> None:
    env = constrained(Shown(space), episode_length=5)
    assert env.observation_space.shape == (size,)
    for observation in (env.reset()[0], env.step(np.zeros(1))[0]):
        assert observation.dtype == np.float32
        assert env.observation_space.contains(observation)
    flat = spaces.flatten(space, env._inner.observation_space.sample())
    assert flat.shape == (size,)


def test_a_dictionary_comes_in_the_order_of_gymnasium_s_own_wrapper() -> None:
    space = spaces.Dict({"z": UNIT, "a": spaces.Discrete(3)})
    ours = constrained(Shown(space), episode_length=5)
    theirs = gymnasium.wrappers.FlattenObservation(Shown(space))
    np.testing.assert_array_equal(ours.observation_space.low, theirs.observation_space.low)
    space.seed(1)
    first = ours.reset()[0]
    space.seed(1)
    np.testing.assert_array_equal(first, theirs.reset()[0].astype(np.float32))


def test_images_of_the_right_size_pass_through() -> None:
    space = spaces.Box(0, 255, (64, 64, 3), np.uint8)
    env = constrained(Shown(space), episode_length=5)
    observation, _ = env.reset()
    assert observation.shape == env.observation_space.shape == (64, 64, 3)
    assert observation.dtype == env.observation_space.dtype == np.uint8


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (spaces.Box(0, 255, (84, 84, 3), np.uint8), r"images of shape \(84, 84, 3\).*Resize"),
        (spaces.Box(0, 255, (84, 84), np.uint8), r"images of shape \(84, 84\); allowed \(64, 64"),
        (spaces.Sequence(UNIT), r"observation_space: got Sequence.*allowed a space of fixed size"),
    ],
)
def test_other_observations_say_what_works(space: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message) as raised:
        constrained(Shown(space), episode_length=5)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (np.array((np.nan, 0.0)), r"observation: got NaN or infinity at \[0\]"),
        (np.zeros(3), r"observation: got shape \(3,\) after flattening; allowed \(2,\)"),
    ],
)
def test_a_wrong_observation_is_named(wrong: Any, message: str) -> None:
    env = constrained(Shown(UNIT, wrong), episode_length=5)
    env.reset()
    with pytest.raises(ValueError, match=message):
        env.step(np.zeros(1))


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (spaces.MultiDiscrete([2, 3]), r"got MultiDiscrete.*; allowed a Box of floats or Discrete"),
        (spaces.MultiBinary(3), r"action_space: got MultiBinary\(3\); allowed a Box of floats"),
        (spaces.Box(0, 3, (2,), np.int64), r"allowed a Box of floats"),
        (spaces.Box(-np.inf, np.inf, (1,)), r"action_space: got the bounds \[-inf\].*finite"),
        (spaces.Box(1.0, 1.0, (1,)), r"low < high"),
    ],
)
def test_other_actions_say_what_works(space: Any, message: str) -> None:
    env = Walk()
    env.action_space = space
    with pytest.raises(ValueError, match=message) as raised:
        constrained(env, episode_length=5)
    assert "\n" not in str(raised.value)


class Steps(Walk):
    """The walk with three actions, numbered from -1: left, stay, right."""

    def __init__(self) -> None:
        super().__init__()
        self.action_space = spaces.Discrete(3, start=-1)

    def step(self, action: Any) -> Any:
        assert self.action_space.contains(action)
        self.taken = action
        return super().step(np.full(1, float(action)))


@pytest.mark.filterwarnings("ignore:.*infinity:UserWarning")
def test_the_largest_entry_chooses_a_discrete_action() -> None:
    costs = []

    def cost(_: Any, action: Any, following: Any, info: Any) -> float:
        costs.append(action)
        return float(action == 1)

    env = constrained(Steps(), cost, episode_length=99, action_repeat=2)
    assert env.discrete
    assert not walk().discrete
    np.testing.assert_array_equal(env.action_space.high, np.ones(3))
    np.testing.assert_array_equal(env.action_space.low, np.zeros(3))
    env.reset()
    for action, taken in (
        ([0.0, 0, 1], 1),
        ([0, 1, 0], 0),
        ([1, 0, 0], -1),
        ([0.2, 0.9, 0.3], 0),
        ([0.5, 0.5, 0.5], -1),  # the middle of the box: the first action
        ([-5, 0, 0], -1),  # clipped to three equal entries
    ):
        info = env.step(np.array(action, np.float32))[4]
        assert env._inner.taken == taken == costs[-1]
        assert info["cost"] == 2 * (taken == 1)
    with pytest.raises(ValueError, match=r"action: got shape \(\); allowed \(3,\)"):
        env.step(np.array(1))
    copied = pickle.loads(pickle.dumps(constrained(Steps(), "cost", episode_length=9)))
    assert copied.discrete
    check_env(constrained(Steps(), "cost", episode_length=9), skip_render_check=True)


def test_a_cost_is_given_the_action_as_the_task_takes_it() -> None:
    class Matrix(Walk):
        action_space = spaces.Box(-2.0, 2.0, (2, 1), np.float64)

        def step(self, action: np.ndarray) -> Any:
            assert action[1, 0] == 1
            action *= 0.1  # in place, as some tasks do
            return super().step(action[0])

    unchanged = lambda _, action, *__: float(action.tolist() == [[0.5], [1.0]])  # noqa: E731
    env = constrained(Matrix(), unchanged, episode_length=5, action_repeat=2)
    env.reset()
    assert env.step(np.array([0.5, 1.0]))[4]["cost"] == 2.0


def test_actions_of_any_shape_are_clipped_and_arrive_as_the_task_wants_them() -> None:
    class Matrix(Walk):
        action_space = spaces.Box(-2.0, 2.0, (2, 3), np.float64)

        def step(self, action: np.ndarray) -> Any:
            assert self.action_space.contains(action)
            np.testing.assert_array_equal(action, [[-2, -1, 0], [1, 2, 2]])
            return super().step(action[0])

    env = constrained(Matrix(), episode_length=5)
    env.reset()
    assert env.action_space.shape == (6,)
    env.step(np.array([-9.0, -1, 0, 1, 2, 9]))
    with pytest.raises(ValueError, match=r"action: got shape \(2, 3\); allowed \(6,\)"):
        env.step(np.zeros((2, 3)))
    with pytest.raises(ValueError, match=r"action: got NaN or infinity at \[1\]"):
        env.step(np.array([0.0, np.nan, 0, 0, 0, 0]))


def test_it_draws_the_task_or_says_how() -> None:
    env = constrained(Walk(render_mode="rgb_array"), episode_length=5)
    env.reset()
    env.step(np.zeros(1))
    assert env.render_mode == "rgb_array"
    np.testing.assert_array_equal(env.render(), np.ones((8, 8, 3), np.uint8))
    with pytest.raises(RuntimeError, match=r"make the environment with render_mode='rgb_array'"):
        walk().render()


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda env: pickle.loads(pickle.dumps(env))])
def test_a_copy_starts_the_next_episode(copied: Any) -> None:
    for make in (lambda: walk(speed, seed=2), lambda: constrained(newest("Ant"), speed)):
        env = make()
        env.reset()
        env.step(np.zeros(env.action_space.shape))
        other = copied(env)
        assert other.episode_index == 1
        assert other._inner is not env._inner
        with pytest.raises(RuntimeError, match=r"none begun; call reset\(\)"):
            other.step(np.zeros(env.action_space.shape))
        expected = play(env)
        assert play(other) == expected
        env.reset(seed=9)
        assert play(copied(env)) == play(env)


@pytest.mark.filterwarnings("ignore:.*(infinity|normalized|having a spec):UserWarning")
@pytest.mark.parametrize("repeat", [1, 3])
def test_gymnasium_s_own_check_passes(repeat: int) -> None:
    check_env(walk(action_repeat=repeat))
    pendulum = gymnasium.make("Pendulum-v1")
    check_env(constrained(pendulum, speed, action_repeat=repeat), skip_render_check=True)


def test_a_simulation_that_explodes_ends_the_episode_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # MuJoCo writes a log
    env = constrained(newest("HalfCheetah"), lambda *_: 1.0)
    env.reset()
    last = env.step(np.ones(6))[0]
    env._inner.unwrapped.data.qvel[:] = 1e12
    observation, reward, terminated, truncated, info = env.step(np.ones(6))
    np.testing.assert_array_equal(observation, last)
    assert (reward, terminated, truncated) == (0.0, False, True)
    assert (info["cost"], info["inner_steps"], info["unstable"]) == (0.0, 0, True)
    env.reset()
    assert "unstable" not in env.step(np.ones(6))[4]


def test_any_registered_task_is_made_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    env = make_environment("Pendulum-v1", cost=speed, action_repeat=4, seed=6)
    env.reset()
    info = env.step(np.ones(1))[4]
    assert (env.task, env.episode_length, env.cost_names) == ("Pendulum-v1", 200, ("cost",))
    assert info["inner_steps"] == 4
    assert info["cost"] > 0
    without = make_environment("Pendulum-v1")
    without.reset()
    with pytest.raises(ValueError, match=r"cost: got None, but info has no 'cost'.*cost="):
        without.step(np.ones(1))
    module = Path(__file__).with_name("own_task.py").stem
    monkeypatch.setitem(
        gymnasium.registry,
        "Walk-v0",
        EnvSpec("Walk-v0", entry_point=f"{module}:Walk", max_episode_steps=11),
    )
    own = make_environment(f"{module}:Walk-v0")
    assert (own.task, own.episode_length, own.render_mode) == ("Walk-v0", 11, "rgb_array")
    own.reset()
    assert own.step(np.full(1, -2.0))[4]["cost"] == 1.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"task": "Pendulm-v1"}, r"task: got 'Pendulm-v1'.*perhaps you mean Pendulum-v1"),
        ({"task": "SafetyPointGaol1-v0"}, r"perhaps you mean SafetyPointGoal1-v0"),
        ({"task": "Pendulum-v1", "observation": "image"}, r"Pendulum-v1 has 'vector' only"),
    ],
)
def test_a_task_that_cannot_be_made_says_why(arguments: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_environment(**arguments)
