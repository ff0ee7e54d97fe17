"""Tests probes with known answers, the truths of real episodes, and the experiment as run."""

import json
import math
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch

from blocks import make_environment
from recipes.agents.config import Config
from recipes.experiments.latent_probe import dataset as image_dataset
from recipes.experiments.latent_probe.dataset import TRUTHS, Walk, truth_of
from recipes.experiments.latent_probe.probes import (
    explained,
    gain,
    linear_probe,
    network_probe,
    rank_correlation,
)
from recipes.experiments.static_dataset import EVERY

TASK = "SafetyPointGoal1-v0"


def linear_world(rows: int, size: int, noise: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Make inputs, and two targets that are linear in them, with noise."""
    generator = torch.Generator().manual_seed(0)
    inputs = 5 + 3 * torch.randn(rows, size, generator=generator)
    weights = torch.randn(size, 2, generator=generator)
    targets = inputs @ weights
    return inputs, targets + noise * targets.std() * torch.randn(rows, 2, generator=generator)


@pytest.mark.parametrize(("rows", "size"), [(300, 10), (300, 280), (200, 600)])
def test_a_linear_probe_finds_what_is_linear(rows: int, size: int) -> None:
    """Solves in either space; with fewer rows than inputs it cannot learn everything."""
    inputs, targets = linear_world(2 * rows, size, noise=0.0)
    predicted = linear_probe(inputs[:rows], targets[:rows], inputs[rows:])
    score = explained([predicted], [targets[rows:]], seed=0).value
    assert score > (0.99 if rows > size else 0.15)


def test_both_spaces_give_the_same_predictions() -> None:
    inputs, targets = linear_world(120, 100, noise=0.3)
    padded = torch.cat([inputs, torch.zeros(120, 60)], 1)  # constant inputs add no information
    one = linear_probe(inputs[:101], targets[:101], inputs[101:])
    other = linear_probe(padded[:101], targets[:101], padded[101:])
    torch.testing.assert_close(one, other, rtol=1e-2, atol=1e-2)


def test_a_linear_probe_of_noise_predicts_the_mean() -> None:
    generator = torch.Generator().manual_seed(1)
    inputs, targets = (
        torch.randn(400, 50, generator=generator),
        torch.randn(400, 1, generator=generator),
    )
    predicted = linear_probe(inputs[:200], targets[:200], inputs[200:])
    assert explained([predicted], [targets[200:]], seed=0).value > -0.1


def test_a_network_probe_finds_what_a_linear_one_cannot() -> None:
    generator = torch.Generator().manual_seed(2)
    inputs = torch.randn(2000, 4, generator=generator)
    targets = inputs[:, :1] * inputs[:, 1:2]
    scores = [
        explained([predicted], [targets[1000:]], seed=0).value
        for predicted in (
            linear_probe(inputs[:1000], targets[:1000], inputs[1000:]),
            network_probe(inputs[:1000], targets[:1000], inputs[1000:], seed=0),
        )
    ]
    assert scores[0] < 0.1
    assert scores[1] > 0.8


def test_scores_and_gains_are_over_episodes() -> None:
    truth = [torch.tensor([[0.0, 0.0], [2.0, 20.0]]), torch.tensor([[0.0, 0.0], [2.0, 20.0]])]
    exact, mean = truth, [torch.tensor([1.0, 10.0]).expand(2, 2)] * 2
    assert explained(exact, truth, seed=0) == (1.0, 1.0, 1.0)
    assert explained(mean, truth, seed=0) == pytest.approx((0.0, 0.0, 0.0))
    mixed = [truth[0], mean[1]]  # right in one episode of two
    score = explained(mixed, truth, seed=0)
    assert (score.value, score.lower, score.upper) == pytest.approx((0.5, 0.0, 1.0))
    better = gain(exact, mixed, truth, seed=0)
    assert (better.value, better.lower, better.upper) == pytest.approx((0.5, 0.0, 1.0))


def test_rank_correlation_of_known_order() -> None:
    one = [torch.tensor([1.0, 2.0, 3.0]), torch.tensor([4.0, 5.0])]
    assert rank_correlation(one, [x**3 for x in one], seed=0).value == pytest.approx(1.0)
    assert rank_correlation(one, [-x for x in one], seed=0).value == pytest.approx(-1.0)
    assert math.isnan(rank_correlation(one, [torch.zeros_like(x) for x in one], seed=0).value)


def test_the_walk_is_smooth_within_bounds_and_depends_on_its_generator_alone() -> None:
    walks = [Walk(2, np.random.default_rng(seed)) for seed in (0, 0, 1)]
    actions = [np.stack([walk.act(0.0) for _ in range(300)]) for walk in walks]
    assert np.abs(actions[0]).max() <= 1
    np.testing.assert_array_equal(actions[0], actions[1])
    assert not np.array_equal(actions[0], actions[2])
    turning = actions[0][:, 1]
    assert (turning[1:] * turning[:-1]).mean() > 0.6 * (turning**2).mean()


def test_the_walk_reaches_goals_and_costs() -> None:
    """A walk that turned the wrong way would reach no goal."""
    environment = make_environment(TASK, seed=0, action_repeat=10)
    reached, costs = 0, 0.0
    for episode in range(2):
        environment.reset(options={"episode": episode})
        walk, over = Walk(2, np.random.default_rng(episode)), False
        while not over:
            ahead, left = truth_of(environment)["goal direction"]
            _, _, _, over, info = environment.step(walk.act(float(np.arctan2(left, ahead))))
            reached, costs = reached + bool(info.get("goal_met")), costs + info["cost"]
    assert reached >= 2
    assert costs > 0


def test_the_truth_agrees_with_the_task_s_lidar_and_compass() -> None:
    environment = make_environment(TASK, seed=2)
    environment.reset()
    task = environment._inner.task
    walk, velocities = Walk(2, np.random.default_rng(0)), []
    for _ in range(60):
        environment.step(walk.act(0.5))
        truth = truth_of(environment)
        lidar = task._obs_lidar(task.hazards.pos, task.hazards.group)
        # The lidar shows the closeness of the nearest obstacle in 16 sectors, slightly blurred.
        assert truth["obstacle proximity"][0] == pytest.approx(lidar.max(), abs=1e-5)
        distance, bearing = truth["obstacle"]
        sector = int(bearing % (2 * np.pi) / (2 * np.pi) * 16)
        assert lidar[sector] == pytest.approx(lidar.max(), abs=1e-5)
        assert distance == pytest.approx(min(task.agent.dist_xy(p) for p in task.hazards.pos))
        compass = task._ego_xy(np.asarray(task.goal.pos)[:2])
        np.testing.assert_allclose(
            truth["goal direction"], compass / np.linalg.norm(compass), atol=1e-5
        )
        velocities.append(truth["agent velocity"])
    assert np.abs(velocities).max(0).min() > 0.05  # it has moved and turned


def test_held_out_episodes_keep_their_truths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Steps the same episode again without images and compares the truths."""
    config = Config(task=TASK, action_repeat=100, steps=6000)
    path = image_dataset.collect(config, 6, tmp_path / "data.pt")
    changed = path.stat().st_mtime_ns
    assert image_dataset.collect(config, 6, path).stat().st_mtime_ns == changed  # not again
    data = image_dataset.read(config, path)
    assert len(data.held_out) == 1
    assert len(data.training) == 5 * 11
    assert data.held_out[0].row.tolist() == [list(range((EVERY - 1) * 11, EVERY * 11))]
    with closing(make_environment(TASK, seed=config.seed, action_repeat=100)) as environment:
        environment.reset(options={"episode": EVERY - 1})
        for t in range(11):
            if t:
                environment.step(data.held_out[0].action[0, t].numpy())
            for name, row in truth_of(environment).items():
                recorded = data.held_out_truth[0] | {"obstacle": data.held_out_obstacle[0]}
                np.testing.assert_allclose(recorded[name][t], row, atol=1e-6)
    assert {name: values.shape for name, values in data.training_truth.items()} == {
        name: (55, len(parts)) for name, parts in TRUTHS.items()
    }


def test_the_experiment_leaves_figures_and_a_summary(launch, tmp_path: Path) -> None:
    ended = launch("experiment_latent_probe", "--smoke", "--out", tmp_path / "out", cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    out = tmp_path / "out"
    assert {"filmstrip.png", "blind_spots.png", "metrics.jsonl"} <= {p.name for p in out.iterdir()}
    summary = json.loads((out / "summary.json").read_text())
    assert len(summary["scores"]) == 3 * 2 * 4  # truths, probes, representations
    assert all(np.isfinite(row["explained"]["value"]) for row in summary["scores"])
    assert len(summary["open_loop"]["model"]) == 3
    assert "obstacle proximity" in ended.stdout


@pytest.mark.parametrize(
    ("arguments", "refusal"),
    [
        (("--episodes", 5), "episodes: got 5; at least 10"),
        (("--task", "SafetyPointCircle1-v0"), "has no goal or no obstacles that cost"),
        (("--task", "SafetyAntVelocity-v1"), "has no goal or no obstacles that cost"),
        (("--action-repeat", 25), "action_repeat: got 25; at most 24"),
        pytest.param(
            ("--device", "cuda"),
            "device: got cuda, but torch finds no CUDA device here",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device"),
        ),
    ],
)
def test_the_experiment_refuses(launch, tmp_path: Path, arguments, refusal: str) -> None:
    ended = launch("experiment_latent_probe", *arguments, "--out", "out", cwd=tmp_path)
    assert ended.returncode != 0
    assert refusal in ended.stderr
    assert not (tmp_path / "out").exists()
