"""`check_environment` passes sound environments and lists all that is wrong with others."""

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete
from own_task import Walk

from blocks.environments.check import check_environment
from blocks.environments.constrained import constrained
from blocks.environments.safety_gymnasium import make_environment


class Plain:
    """A sound environment of the protocol, without Gymnasium's classes but for the spaces."""

    episode_length = 12
    action_repeat = 2

    def __init__(self) -> None:
        self.observation_space: Any = Box(-np.inf, np.inf, (2,), np.float32)
        self.action_space: Any = Box(-1, 1, (1,), np.float32)
        self.episode_index = self.seed = 0
        self.generator = np.random.default_rng(0)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict]:
        if seed is not None:
            self.seed, self.episode_index = seed, 0
        self.generator = np.random.default_rng((self.seed, self.episode_index))
        self.episode_index += 1
        self.steps = 0
        return self.observe(), {}

    def observe(self) -> np.ndarray:
        return self.generator.normal(size=2).astype(np.float32)

    def step(self, action: np.ndarray) -> Any:
        self.steps += 2
        info = {"cost": 1.0, "inner_steps": 2}
        return self.observe(), float(action[0]), False, self.steps >= 12, info


class Named(Plain):
    cost_names = ("a", "b")

    def step(self, action: np.ndarray) -> Any:
        *rest, info = super().step(action)
        return *rest, info | {"cost": 3.0, "costs": np.array((1.0, 2.0))}


def torque(observation: Any, action: np.ndarray, following: Any, info: Any) -> float:
    return float(np.abs(action).sum())


@pytest.mark.parametrize(
    "make",
    [
        Plain,
        Named,
        lambda: constrained(Walk(), {"l": "cost_left", "p": "cost_push"}, episode_length=30),
        lambda: constrained(Walk(end=2.0), episode_length=30, action_repeat=4),
        lambda: make_environment("Pendulum-v1", cost=torque, action_repeat=3),
        lambda: make_environment("CartPole-v1", cost=torque),
        lambda: make_environment("SafetyPointCircle1-v0", action_repeat=10),
        lambda: make_environment("SafetyHalfCheetahVelocity-v1", action_repeat=100),
    ],
)
def test_a_sound_environment_passes(make: Callable[[], Any]) -> None:
    assert check_environment(make()) is None


def test_the_episode_after_a_check_is_as_without_it() -> None:
    checked, fresh = make_environment("Pendulum-v1", cost=torque), make_environment("Pendulum-v1")
    check_environment(checked, seed=3, actions=5)
    np.testing.assert_array_equal(checked.reset(seed=7)[0], fresh.reset(seed=7)[0])


def faults(environment: Any) -> list[str]:
    with pytest.raises(ValueError, match=r"with \d+ faults") as raised:
        check_environment(environment)
    first, *lines = str(raised.value).splitlines()
    assert first == (f"env: got {type(environment).__name__} with {len(lines)} faults; mend each")
    return lines


class Spoiled(Plain):
    """Sound but for what ``change`` does to the results of a step."""

    def __init__(self, change: Callable[[Any], Any] = lambda values: values, **given: Any) -> None:
        super().__init__()
        self.change = change
        self.__dict__ |= given

    def step(self, action: np.ndarray) -> Any:
        values = dict(
            zip(("observation", "reward", "over", "cut", "info"), super().step(action), strict=True)
        )
        values["action"] = action
        self.change(values)
        return tuple(values.values())[:5]


def info(**changes: Any) -> Callable[[Any], None]:
    return lambda values: values["info"].update(changes)


def without(key: str) -> Callable[[Any], None]:
    return lambda values: values["info"].pop(key)


def value(**changes: Any) -> Callable[[Any], None]:
    return lambda values: values.update(changes)


def refuse_the_upper_bound(values: Any) -> None:
    if values["action"][0] == 1:
        raise ArithmeticError("too strong")


@pytest.mark.parametrize(
    ("environment", "fault"),
    [
        (Spoiled(without("cost")), "- info['cost']: got nothing at action 1; allowed a finite"),
        (Spoiled(info(cost=-1.0)), "- info['cost']: got -1.0 at action 1"),
        (Spoiled(info(cost=np.nan)), "- info['cost']: got nan at action 1"),
        (Spoiled(info(cost="1")), "- info['cost']: got '1' at action 1"),
        (Spoiled(info(), cost_names=("a", "b")), "- info['costs']: got None at action 1"),
        (Spoiled(info(costs=[2.0])), "- info['costs']: got [2.0] at action 1"),
        (Spoiled(info(costs=[2.0, -1.0]), cost_names=("a", "b")), "- info['costs']: got [2.0, -1"),
        (Spoiled(cost_names=("a", "a")), "- cost_names: got ('a', 'a'); allowed one or more"),
        (Spoiled(without("inner_steps")), "- info['inner_steps']: got nothing at action 1"),
        (Spoiled(info(inner_steps=3)), "- info['inner_steps']: got 3 at action 1; allowed"),
        (Spoiled(info(inner_steps=0)), "- info['inner_steps']: got 0 at action 1; allowed"),
        (Spoiled(value(reward=np.inf)), "- reward: got inf at action 1"),
        (Spoiled(value(over=None)), "- terminated: got None at action 1; allowed True or False"),
        (Spoiled(value(cut=False)), "- truncated: got False after 12 environment steps"),
        (Spoiled(value(info=[])), "- info: got [] at action 1; allowed a dictionary"),
        (
            Spoiled(value(observation=np.full(2, np.nan, np.float32))),
            "- observation: got NaN or infinity at action 1",
        ),
        (Spoiled(value(observation=np.zeros(2))), "- observation: got float64 of shape (2,)"),
        (Spoiled(value(observation=np.zeros(3, np.float32))), "- observation: got float32 of"),
        (Spoiled(value(observation=[0.0, 0.0])), "- observation: got list at action 1"),
        (
            Spoiled(observation_space=Box(0, 1, (2,), np.float32)),
            "- observation: got one outside of observation_space at reset()",
        ),
        (Spoiled(observation_space=Box(-9, 9, (2,), np.float64)), "- observation_space: got Box"),
        (Spoiled(observation_space=Box(0, 9, (84, 84, 3), np.uint8)), "- observation_space: got"),
        (Spoiled(action_space=Discrete(2)), "- action_space: got Discrete(2); allowed a box"),
        (Spoiled(discrete=True), "- discrete: got True with the action_space Box(-1.0, 1.0"),
        (Spoiled(discrete="yes"), "- discrete: got 'yes'"),
        (Spoiled(action_space=Box(-np.inf, 1, (1,))), "- action_space: got Box"),
        (Spoiled(episode_length=None), "- episode_length: got None; allowed an integer >= 1"),
        (Spoiled(action_repeat=1.5), "- action_repeat: got 1.5; allowed an integer >= 1"),
        (Spoiled(refuse_the_upper_bound), "- step: raised ArithmeticError at action 2: too strong"),
        (Spoiled(reset=lambda **_: 1 / 0), "- reset: raised ZeroDivisionError"),
        (Spoiled(reset=lambda **_: np.zeros(2)), "- reset: gave "),
    ],
)
def test_a_fault_is_named(environment: Any, fault: str) -> None:
    assert any(line.startswith(fault) for line in faults(environment))


def test_chance_that_the_seed_does_not_fix_is_found() -> None:
    chance = np.random.default_rng(0)
    reward = Spoiled(lambda values: values.update(reward=chance.normal()))
    assert faults(reward) == [
        "- determinism: the episode differs from action 1 on when reset(seed=0) starts it again; "
        "draw all randomness from a generator that reset(seed=...) seeds"
    ]
    start = Spoiled()
    start.observe = lambda: chance.normal(size=2).astype(np.float32)
    assert any("differs from reset() on" in line for line in faults(start))


def test_an_index_that_stands_still_is_found() -> None:
    class Still(Plain):
        def reset(self, **options: Any) -> Any:
            result = super().reset(**options)
            self.episode_index = 0
            return result

    assert faults(Still()) == ["- episode_index: got 0 after 0 and reset(); allowed 1"]


def test_everything_wrong_is_listed_at_once() -> None:
    wrong = Spoiled(
        lambda values: values.update(reward=float("nan"), cut=0, info={"cost": -1}),
        episode_length=0,
        cost_names=(),
        observation_space=Box(-9, 9, (2,), np.float64),
    )
    subjects = [line.split(":")[0] for line in faults(wrong)]
    assert subjects == [
        "- episode_length",
        "- cost_names",
        "- observation_space",
        "- observation",
        "- reward",
        "- truncated",
        "- info['cost']",
        "- info['inner_steps']",
    ]


def test_a_raw_gymnasium_environment_is_told_of_constrained() -> None:
    lines = faults(gymnasium.make("Pendulum-v1").unwrapped)
    assert {line.split(":")[0] for line in lines} >= {
        "- episode_length",
        "- action_repeat",
        "- episode_index",
        "- info['cost']",
        "- info['inner_steps']",
    }
    assert any("constrained() makes one" in line for line in faults(Spoiled(observation_space=0)))
