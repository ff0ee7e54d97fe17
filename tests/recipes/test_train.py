"""Training from Python, as in a notebook: every part that a user may exchange, exchanged."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from blocks import (
    CategoricalLatent,
    Environment,
    Point,
    Prior,
    Weights,
    cvar,
    make_environment,
    of_policy,
)
from blocks.posteriors.family import gaussian_sites
from recipes.agents import Components, Config, Metrics
from recipes.cerl_full import CERL, CERLAgent
from recipes.runs import Run, RunFolder
from recipes.runs.errors import RunError
from recipes.training import train

SMOKE = Config(smoke=True, steps=3000, action_repeat=10)


@pytest.fixture(autouse=True)
def _no_video(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing one takes longer than the run."""
    monkeypatch.setattr("recipes.training.loop.record_video", lambda *_: "none: not drawn")


def finished(run: Run, out: Path) -> list[dict[str, Any]]:
    """The updates of a run that ended as it should."""
    assert run.path == out
    assert run["environment_steps"] == 3000
    assert np.isfinite(run["final_return"])
    updates = run.metrics("update")
    assert len(updates) == 1  # three episodes, of which two are the prefill
    return updates


class Bounds(nn.ParameterDict):
    """A family of a user's own: one shared offset, and the members on a line through it."""

    separate_data = False
    draws = False

    def __init__(self, prior: Prior) -> None:
        super().__init__()
        for name, anchor in prior.anchors.items():
            self[name.replace(".", "/")] = nn.Parameter(torch.zeros_like(anchor[0]))

    def model(self, prior: Prior, members: int) -> Weights:
        zeros = {name: torch.zeros_like(a[:members]) for name, a in prior.anchors.items()}
        return gaussian_sites(zeros, prior.std)

    def offsets(
        self, prior: Prior, members: int, generator: torch.Generator | None
    ) -> dict[str, Tensor]:
        return {
            name: self[name.replace(".", "/")] + 0.1 * anchor[:members]
            for name, anchor in prior.anchors.items()
        }

    def log_prior(self, prior: Prior, members: int) -> Tensor:
        return torch.zeros(members)

    def parameters_below(self, prefix: str) -> list[nn.Parameter]:
        return [p for name, p in self.items() if name.startswith(prefix)]


def largest_two(costs: Tensor) -> Tensor:
    """An aggregator of a user's own: the mean of the two worst members."""
    return costs.mean((1, 2)).topk(2).values.mean()


class Cautious(CERLAgent):
    """An agent with another objective: no entropy, and the median return."""

    def objective(self, returns: Tensor, entropy: Tensor) -> Tensor:
        return returns.flatten().median()


def test_a_categorical_latent(tmp_path: Path) -> None:
    out = tmp_path / "run"
    agent = CERL(latent=CategoricalLatent(classes=2))
    finished(train(agent, SMOKE, out=out), out)
    assert agent.latent != CERL().latent


def test_a_posterior_family(tmp_path: Path) -> None:
    out = tmp_path / "run"
    (update,) = finished(train(CERL(posterior=Bounds), SMOKE, out=str(out)), out)
    saved = RunFolder(out).read_checkpoint()["agent"]["model"]
    offsets = [value for name, value in saved.items() if "_offsets" in name]
    assert all(value.dim() <= 2 for value in offsets)  # one for all members
    assert update["model_log_prior"] == 0


def test_an_aggregator(tmp_path: Path) -> None:
    out = tmp_path / "run"
    config = SMOKE.replace(members=3)
    (update,) = finished(train(CERL(aggregate=largest_two), config, out=out), out)
    aggregated = config.safety.budget_share - update["slack"]
    assert aggregated == pytest.approx(update["cost"])
    assert update["cost_mean"] < aggregated < update["cost_worst"]


def test_another_objective(tmp_path: Path) -> None:
    out = tmp_path / "run"
    (update,) = finished(train(CERL(agent=Cautious), SMOKE, out=out), out)
    (default,) = finished(train(CERL(), SMOKE, out=tmp_path / "default"), tmp_path / "default")
    assert update["model_total"] == default["model_total"]
    assert update["objective"] != default["objective"]  # the policy has moved elsewhere


def test_the_parts_of_an_ablation_are_the_readers(tmp_path: Path) -> None:
    out = tmp_path / "run"
    agent = CERL(aggregate=of_policy(partial(cvar, alpha=0.5)), posterior=Point)
    finished(train(agent, SMOKE, out=out), out)


class Still:
    """An agent that is no CERL: it always does the same, and learns nothing."""

    def __init__(self, config: Config, environment: Environment) -> None:
        self.rows = 0
        self.action = np.full(environment.action_space.shape or (), 0.1, np.float32)

    def start_episode(self) -> None: ...

    def act(self, observation: NDArray[Any], scale: float) -> NDArray[np.float32]:
        return self.action

    def remember(
        self, observation: NDArray[Any], action: NDArray[np.float32], **_: float | bool
    ) -> None:
        self.rows += 1

    def begin(self) -> Metrics:
        return {"rows": self.rows}

    def learn(self, progress: float) -> Metrics:
        return {"rows": self.rows}

    def illustrate(self, folder: Path) -> None: ...

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self.rows}

    def load_state_dict(self, state: Any) -> None:
        self.rows = state["rows"]


def test_an_agent_of_ones_own_in_an_environment_of_ones_own(tmp_path: Path) -> None:
    """The environment is handed in, and the evaluation plays other episodes of it."""
    out = tmp_path / "run"
    environment = make_environment("SafetyPointCircle1-v0", seed=3, action_repeat=10)
    seeds: list[int | None] = []
    reset = environment.reset

    def recorded(*, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        seeds.append(seed)
        return reset(seed=seed, options=options)

    environment.reset = recorded
    run = train(Still, SMOKE.replace(steps=1500, guard_share=0.0), environment=environment, out=out)
    assert run["environment_steps"] == 1500
    assert run["policies"] == 2
    assert run.metrics("update") == run.metrics("update")
    assert run.metrics("update")[0]["rows"] == 2 * 51  # a prefill of two episodes, 50 actions each
    assert [seed for seed in seeds if seed is not None] == [0, 1_000_000]


def test_a_function_from_a_seed_makes_environments(tmp_path: Path) -> None:
    out = tmp_path / "run"
    made: list[int] = []

    def make(seed: int) -> Environment:
        made.append(seed)
        return make_environment("SafetyPointCircle1-v0", seed=seed, action_repeat=50)

    train(Still, SMOKE.replace(steps=1000), environment=make, out=out)
    assert made == [0, 1_000_000]


def test_what_is_no_environment_is_refused_by_name(tmp_path: Path) -> None:
    wrong: Any = "SafetyPointCircle1-v0"
    with pytest.raises(ValueError, match=r"^environment: got str; allowed an object with"):
        train(CERL(), SMOKE, environment=wrong, out=tmp_path / "run")
    assert not list(tmp_path.iterdir())


def test_a_run_goes_on_and_reads_like_its_summary(tmp_path: Path) -> None:
    out = tmp_path / "run"
    run = train(CERL(), SMOKE, out=out)
    again = train(CERL(), SMOKE.replace(resume=out))
    assert {k: v for k, v in again.items() if k != "wall_seconds"} == {
        k: v for k, v in run.items() if k != "wall_seconds"
    }
    assert repr(run).startswith(f"Run({str(out)!r}, policy_violations=")
    assert list(run) == list(run.summary)


# ---- settings ------------------------------------------------------------------------------------


def test_presets_and_groups_give_way_to_what_is_named() -> None:
    config = Config(preset="paper", smoke=True, members=7)
    assert config.posterior.members == 7  # as named
    assert config.model.deter_size == 16  # of the smoke run
    assert config.policy.actor_learning_rate == 8e-5  # of the preset
    assert config.replace(horizon=3).policy.horizon == 3
    assert Config(**config.to_json()) == config


@pytest.mark.parametrize(
    ("settings", "answer"),
    [
        ({"memebrs": 3}, "^memebrs: there is no such setting; perhaps you mean members"),
        ({"preset": "gpu"}, "^preset: got gpu; allowed: cpu, pixels, paper"),
        ({"members": 0}, "^members: got 0; allowed: at least 1"),
    ],
)
def test_a_wrong_setting_is_named(settings: dict[str, Any], answer: str) -> None:
    with pytest.raises(ValueError, match=answer):
        Config(**settings)


def test_a_run_of_an_older_version_is_not_resumed(tmp_path: Path) -> None:
    run = RunFolder.create("cerl_full", "SafetyHalfCheetahVelocity-v1", 0, tmp_path / "run")
    old = Config(smoke=True).to_json()
    run.write_config({"deter" if name == "deter_size" else name: old[name] for name in old})
    with pytest.raises(RunError, match=r"made by another version .* does not have \(deter\): "):
        Config.of_run(run)


def test_a_part_that_does_not_exist_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="aggregator"):
        CERL(aggregator=largest_two)  # pyright: ignore[reportCallIssue]
    assert isinstance(CERL(), Components)
