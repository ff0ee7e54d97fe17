"""CERL where actions are discrete: trained, evaluated, saved and loaded."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete

from blocks import Actor, CategoricalActor, Environment, constrained, load_policy, save_policy
from recipes.agents import Config, LatentAgent, zero_action
from recipes.agents.builders import build_actor
from recipes.cerl_full import CERL
from recipes.evaluations import evaluate
from recipes.evaluations.acting import latent_policy
from recipes.training import train
from recipes.training.episode import run_episode, within_bounds
from recipes.training.results import EVALUATION_SEED

LENGTH = 40
CONFIG = Config(smoke=True, steps=3 * LENGTH, action_repeat=1, episode_budget=4000.0)
# Without a constraint that binds, one phase of learning finds the way to the right.
LEARNING = CONFIG.replace(
    prefill_updates=60,
    updates_per_episode=20,
    batch_size=16,
    horizon=8,
    imagination_batch_size=32,
    model_learning_rate=2e-3,
    reward_unit=1.0,
    actor_learning_rate=1e-2,
    constraint_smoothness=0.01,
    check_horizon=0,
)


class Corridor(gymnasium.Env):
    """A walk by steps of stay, right or left, numbered from 5; the right pays and costs."""

    observation_space = Box(-np.inf, np.inf, (2,), np.float32)
    action_space = Discrete(3, start=5)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.place, self.taken = float(self.np_random.normal()), []
        return self.observe(), {}

    def step(self, action: Any) -> Any:
        assert self.action_space.contains(action)
        self.taken.append(int(action))
        self.place += (0, 1, -1)[action - 5]
        return self.observe(), self.place, False, False, {}

    def observe(self) -> Any:
        noise = 0.1 * self.np_random.normal(size=2)
        return (np.array([self.place, -self.place]) + noise).astype(np.float32)


def far(observation: Any, action: Any, following: Any, info: Any) -> float:
    """It costs to go right on the right side."""
    return float(following[0] > 1 and action == 6)


def corridor(seed: int = 0) -> Environment:
    return constrained(Corridor(), far, episode_length=LENGTH, seed=seed)


@pytest.fixture(scope="module", autouse=True)
def _quick() -> Iterator[None]:
    """TensorBoard and figures take longer than these runs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("recipes.runs.folder._tensorboard", lambda *_: False)
        for figure in ("learning_figure", "calibration_figure", "steps_figure"):
            patch.setattr(f"recipes.training.loop.{figure}", lambda *_: None)
        patch.setattr("recipes.training.loop.record_video", lambda *_: "none: not drawn")
        yield


def test_the_environment_decides_the_actor() -> None:
    actor = build_actor(CONFIG, corridor())
    assert isinstance(actor, CategoricalActor)
    assert actor.action_size == 3

    class Plain:
        """An environment without the attribute ``discrete``."""

        observation_space, action_space = Box(-1, 1, (2,)), Box(0, 1, (3,))

    assert isinstance(build_actor(CONFIG, Plain()), Actor)  # pyright: ignore[reportArgumentType]


def test_the_zero_action_is_the_first_one() -> None:
    environment = corridor()
    observation, _ = environment.reset()
    rest = zero_action(environment)(observation)
    environment.step(within_bounds(rest, environment.action_space))
    assert environment._inner.taken == [5]  # pyright: ignore


def test_a_run_trains_the_policy_it_evaluates_and_saves(tmp_path: Path) -> None:
    agents: list[LatentAgent] = []

    class Kept(CERL):
        def __call__(self, config: Config, environment: Environment) -> Any:
            agents.append(super().__call__(config, environment))  # pyright: ignore
            return agents[-1]

    run = train(Kept(), LEARNING, corridor, tmp_path / "run")
    (agent,) = agents
    first, second, learned = (row["episode_return"] for row in run.metrics("episode"))
    assert max(abs(first), abs(second)) < 300  # mostly the first action, then a uniform policy
    assert min(learned, run["final_return"]) > 400  # 780 from place 0 always to the right
    (update,) = run.metrics("update")
    assert all(np.isfinite(value) for value in update.values() if isinstance(value, float))
    assert 0 < update["entropy"] < 1.01 * np.log(3)

    # The replay holds one-hot actions, all of them, and zeros where an episode begins.
    data = agent.replay.gather(torch.tensor([0]), agent.replay.added)
    begins = data.is_first[0]
    acted = data.action[0][~begins]
    assert not data.action[0][begins].any()
    assert set(acted.unique().tolist()) == {-1.0, 1.0}
    assert torch.equal((acted == 1).sum(-1), torch.ones(len(acted), dtype=torch.int64))
    assert (acted == 1).any(0).all()

    # The run evaluated again, its policy saved, and loaded to act alone.
    results = evaluate(run, CERL(), corridor, save_to=tmp_path / "policy")
    assert results["deterministic"]
    assert results["returns"] == run["final_returns"]
    assert results["costs"] == run["final_costs"]
    policy, environment = load_policy(tmp_path / "policy"), corridor(EVALUATION_SEED)
    assert isinstance(policy.actor, CategoricalActor)
    observation, _ = environment.reset()
    total, over = 0.0, False
    while not over:
        observation, reward, _, over, _ = environment.step(policy.act(observation))
        total += reward
    assert [total] == run["final_returns"]


def test_a_saved_policy_acts_as_the_agent(tmp_path: Path) -> None:
    """With weights that make it take different actions."""
    environment = corridor(3)
    agent = CERL()(CONFIG, environment)
    assert isinstance(agent, LatentAgent)
    torch.manual_seed(3)
    with torch.no_grad():  # strong reactions to small differences
        for weight in agent.model.rssm.parameters():
            weight *= 3
        for weight in agent.actor.parameters():
            if weight.dim() == 2:
                weight.normal_(std=3.0)
    run_episode(agent, environment, 0.0, remember=False)
    taken = environment._inner.taken  # pyright: ignore
    assert len(set(taken)) > 1
    policy = load_policy(
        save_policy(tmp_path, latent_policy(agent, environment, CONFIG), task="Corridor")
    )
    assert policy.actor.uniform == agent.actor.uniform  # pyright: ignore
    environment = corridor(3)
    observation, over = environment.reset()[0], False
    while not over:
        action = policy.act(observation)
        assert sorted(action) == [0, 0, 1]
        observation, _, _, over, _ = environment.step(action)
    assert environment._inner.taken == taken  # pyright: ignore


def test_exploration_grows_from_the_mode_with_its_scale() -> None:
    environment = corridor()
    agent, shares = CERL()(CONFIG, environment), []
    for scale in (0.0, 0.25, 1.0):
        run_episode(agent, environment, scale, remember=False)
        shares.append(environment._inner.taken.count(5) / LENGTH)  # pyright: ignore
    assert shares[0] == 1.0
    assert shares[0] > shares[1] > shares[2] > 0
