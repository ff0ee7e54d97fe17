"""The code of docs/your_own_task.md runs as printed, and its messages are the real ones."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box
from gymnasium.spaces.utils import flatten_space

from blocks import (
    Episode,
    check_environment,
    constrained,
    discounted_budget,
    make_environment,
    save_episode,
)
from recipes.agents import Config
from recipes.cerl_full import CERL
from recipes.evaluations import evaluate
from recipes.training import train

PAGE = (Path(__file__).parent.parent / "docs" / "your_own_task.md").read_text()
SCRIPT, FULL_THROTTLE, SAFE = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
MESSAGES = dict(
    re.findall(r"^\| (.+?) \| `([^|]+)` \|$", PAGE.split("## What goes wrong")[1], re.M)
)


def run(code: str, names: dict[str, Any]) -> None:
    exec(compile(code, "your_own_task.md", "exec"), names)


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """What the script leaves behind; its folder is the working directory."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("own_task"))
        left: dict[str, Any] = {}
        run(SCRIPT, left)
        yield left


def test_the_script_trains_evaluates_and_saves(names: dict[str, Any]) -> None:
    assert names["run"]["environment_steps"] == 600
    assert names["run"]["task"] == "Cart"
    assert Path("runs/cart/summary.json").is_file()
    assert {file.name for file in Path("cart_policy").iterdir()} == {
        "policy.safetensors",
        "policy.json",
        "README.md",
    }
    policy, env = names["policy"], names["env"]
    assert env.action_space.contains(policy.act(env.observation_space.sample()))


def test_it_has_about_thirty_lines() -> None:
    lines = [line for line in SCRIPT.splitlines() if line.strip()]
    assert len(lines) <= 35


def test_the_worked_example_is_the_table(names: dict[str, Any]) -> None:
    run(FULL_THROTTLE, names)
    rows = re.findall(r"^\| (\d) \| (\d+) \| (\d+) \| (\d+) \| (True|False) \|$", PAGE, re.M)
    assert len(rows) == 2
    for repeat, *numbers, terminated in rows:
        expected = (*map(int, numbers), terminated == "True")
        assert names["full_throttle"](int(repeat)) == expected


def test_a_safe_policy_and_a_dataset_start_the_run(names: dict[str, Any]) -> None:
    own = dict(names) | {"config": names["config"].replace(steps=300)}
    run(SAFE, own)
    assert own["run"]["environment_steps"] == 300
    assert own["run"].metrics()[0]["exploration_scale"] == 0.0


def stepped(cart: Any, cost: Any, **report: float) -> None:
    class Reporting(cart):
        def step(self, action: Any) -> Any:
            *rest, info = super().step(action)
            return *rest, info | report

    env = constrained(Reporting(), cost, episode_length=100)
    env.reset()
    env.step(np.zeros(1, np.float32))


def changed(cart: Any, name: str, value: Any) -> Any:
    return type("Cart", (cart,), {name: value})()


def unseeded(self: Any, **_: Any) -> Any:
    self.speed, self._np_random = 0.0, np.random.default_rng()
    return np.full(1, self.np_random.normal(), np.float32), {}


def check(cart: Any, name: str, value: Any) -> None:
    env = constrained(changed(cart, name, value), lambda *_: 0.0, episode_length=100)
    check_environment(env)


def train_with_data(names: dict[str, Any], out: Path) -> None:
    save_episode(Path("data"), Episode(np.zeros((3, 2)), np.zeros((2, 1)), np.ones(2), np.zeros(2)))
    config = names["config"].replace(dataset=Path("data"))
    train(CERL(), config, environment=names["env"], out=out)


NARROW = Box(-1, 1, (1,), np.float32)
WIDE = Box(-np.inf, np.inf, (1,), np.float32)
LARGE = Box(0, 255, (84, 84, 3), np.uint8)
MISTAKES: dict[str, Callable[[Any, dict[str, Any], Path], Any]] = {
    "no time limit": lambda cart, names, out: constrained(cart(), names["too_fast"]),
    "no cost": lambda cart, names, out: stepped(cart, None),
    "a misspelled key": lambda cart, names, out: stepped(cart, "cost_fst", cost_fast=1.0),
    "a cost that is NaN": lambda cart, names, out: stepped(cart, lambda *_: np.nan),
    "a negative cost among several": lambda cart, names, out: stepped(
        cart, {"fast": lambda *_: -1.0, "push": lambda *_: 0.0}
    ),
    "a cost function without `return`": lambda cart, names, out: stepped(cart, lambda *_: None),
    "randomness that no seed controls": lambda cart, names, out: check(cart, "reset", unseeded),
    "bounds of observations that are too narrow": lambda cart, names, out: check(
        cart, "observation_space", NARROW
    ),
    "infinite bounds of actions": lambda cart, names, out: check(cart, "action_space", WIDE),
    "images of 84x84": lambda cart, names, out: check(cart, "observation_space", LARGE),
    '`observation="image"` where there is no camera': lambda cart, names, out: make_environment(
        "Pendulum-v1", observation="image"
    ),
    "a misspelled id": lambda cart, names, out: make_environment("Pendulm-v1"),
    "trained in the bare environment": lambda cart, names, out: train(
        CERL(), names["config"], environment=cart(), out=out
    ),
    "a prefill policy in other units": lambda cart, names, out: train(
        CERL(prefill=lambda env: lambda observation: np.full(1, 2, np.float32)),
        names["config"],
        environment=names["env"],
        out=out,
    ),
    "episodes of another task": lambda cart, names, out: train_with_data(names, out),
    "the folder of another run": lambda cart, names, out: train(
        CERL(), names["config"], environment=names["env"], out="runs/cart"
    ),
    "evaluated without agent and environment": lambda cart, names, out: evaluate("runs/cart"),
    "loaded a run in place of a policy": lambda cart, names, out: names["load_policy"]("runs/cart"),
    "gave a policy another observation": lambda cart, names, out: names["policy"].act(
        np.zeros(3, np.float32)
    ),
}


def test_each_message_has_its_mistake() -> None:
    assert MESSAGES.keys() == MISTAKES.keys()


@pytest.mark.parametrize("what", MISTAKES)
def test_a_mistake_gives_the_message(what: str, names: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=re.escape(MESSAGES[what])):
        MISTAKES[what](names["Cart"], names, tmp_path / "run")


def test_the_faults_of_the_bare_environment_are_the_listed_ones(names: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="with 5 faults") as raised:
        check_environment(names["Cart"]())
    assert f"```\n{raised.value}\n```" in PAGE


def test_a_dictionary_becomes_the_vector_of_gymnasium_s_flatten(names: dict[str, Any]) -> None:
    space = gymnasium.spaces.Dict(speed=WIDE, gear=gymnasium.spaces.Discrete(3))
    env = constrained(changed(names["Cart"], "observation_space", space), episode_length=9)
    assert env.observation_space.shape == flatten_space(space).shape == (4,)


@pytest.mark.parametrize("action_repeat", [1, 2])
def test_the_discounted_budget_of_the_example(action_repeat: int) -> None:
    discount = Config().policy.cost_discount
    assert discounted_budget(10, 100, discount, action_repeat) == pytest.approx(10 * action_repeat)
    assert discounted_budget(10, 100, 0.98, 2) == pytest.approx(10)
