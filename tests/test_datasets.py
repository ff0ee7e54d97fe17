"""Recorded episodes: written and read again, from Minari's format, and as rows of a replay."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from blocks import Episode, SequenceReplay, fill, from_minari, load_episodes, save_episode

LOW, HIGH = np.array([-1.0, 2.0]), np.array([1.0, 6.0])


def episode(steps: int = 4, seed: int = 0, **changes: Any) -> Episode:
    """An episode of random numbers, with actions within LOW and HIGH."""
    source = np.random.default_rng(seed)
    return Episode(
        source.normal(size=(steps + 1, 3)),
        source.uniform(LOW, HIGH, (steps, 2)),
        source.normal(size=steps),
        source.integers(0, 3, steps).astype(float),
        terminated=bool(seed % 2),
        truncated=not seed % 2,
    )._replace(**changes)


def assert_same(one: Episode, two: Episode) -> None:
    for name, a, b in zip(Episode._fields, one, two, strict=True):
        np.testing.assert_array_equal(a, b, err_msg=name)


def replay() -> SequenceReplay:
    return SequenceReplay(observation_shape=(3,), action_size=2)


# ---- a folder ------------------------------------------------------------------------------------


@settings(max_examples=15)
@given(st.lists(st.integers(1, 6), min_size=1, max_size=12))
def test_what_was_saved_is_loaded_in_the_same_order(lengths: list[int]) -> None:
    written = [episode(length, seed) for seed, length in enumerate(lengths)]
    with tempfile.TemporaryDirectory() as folder:
        for one in written:
            save_episode(Path(folder), one)
        for one, two in zip(written, load_episodes(Path(folder)), strict=True):
            assert_same(one, two)
            assert type(two.terminated) is bool


def test_images_stay_bytes_and_flags_may_be_one_for_each_step(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 4, 4, 3), np.uint8)
    np.savez(
        tmp_path / "mine.npz",
        observations=images,
        actions=np.zeros((2, 1)),
        rewards=np.zeros(2),
        costs=np.zeros(2),
        terminated=np.array([False, True]),
        truncated=np.zeros(2, bool),
        more=np.zeros(7),
    )
    (loaded,) = load_episodes(tmp_path)
    assert loaded.observations.dtype == np.uint8
    assert (loaded.terminated, loaded.truncated) == (True, False)


def test_an_episode_goes_to_the_next_file_and_half_a_file_is_none(tmp_path: Path) -> None:
    for number in (0, 1, 41):
        (tmp_path / f"episode-{number:06d}.npz").touch()
    (tmp_path / "episode-000042.unfinished").write_bytes(b"half")
    assert save_episode(tmp_path, episode()).name == "episode-000042.npz"
    assert not list(tmp_path.glob("*.unfinished"))


def rewrite(**changes: Any) -> Callable[[Path], None]:
    """Write the file again with other arrays; None leaves one out."""

    def write(file: Path) -> None:
        arrays = {k: v for k, v in (episode()._asdict() | changes).items() if v is not None}
        np.savez(file, **arrays)

    return write


def one_array(file: Path) -> None:
    with file.open("wb") as stream:
        np.save(stream, np.ones(3))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (Path.unlink, "^folder: got .* has no episodes; allowed a folder of .npz files"),
        (lambda file: file.write_bytes(file.read_bytes()[:-30]), r"^folder: .* cannot be read"),
        (lambda file: file.write_bytes(b""), r"^folder: .* cannot be read"),
        (lambda file: file.write_bytes(b"no zip"), r"^folder: .* cannot be read"),
        (one_array, r"^folder: .* cannot be read"),
        (rewrite(costs=None), "^costs: got none in .*000000.npz, which has observations, actions"),
        (rewrite(rewards=np.array([{}] * 4)), r"^folder: .* cannot be read"),
        (rewrite(observations=np.zeros((4, 3))), r"^observations: got shape \(4, 3\) .*\[T \+ 1"),
        (rewrite(actions=np.zeros(4)), r"^actions: got shape \(4,\) .*allowed \[T, action\]"),
        (rewrite(actions=np.zeros((0, 2))), r"^actions: got shape \(0, 2\)"),
        (rewrite(costs=np.zeros(3)), r"^costs: got shape \(3,\) .*T of the actions, 4"),
        (rewrite(costs=np.zeros((3, 2))), r"^costs: got shape \(3, 2\) .*\[T, constraint\]"),
        (rewrite(costs=np.zeros((4, 2, 2))), r"^costs: got shape \(4, 2, 2\) .*\[T, constraint\]"),
        (rewrite(costs=np.zeros((4, 0))), r"^costs: got shape \(4, 0\) .*\[T, constraint\]"),
        (rewrite(costs=np.eye(4, 2) - 1), r"^costs: got -1.0 in .*allowed 0 and above"),
        (rewrite(costs=np.array([0, 0, -1.0, 0])), r"^costs: got -1.0 in .*allowed 0 and above"),
        (rewrite(rewards=np.array([0, 0, np.nan, 0])), r"^rewards: got NaN, infinity or float64"),
        (rewrite(rewards=np.array(["a"] * 4)), r"^rewards: got NaN, infinity or <U1"),
        (rewrite(terminated=np.array([1, 0, 0, 0])), r"^terminated: got an end before the last"),
    ],
)
def test_what_is_wrong_with_a_folder_is_one_line(
    tmp_path: Path, damage: Callable[[Path], object], message: str
) -> None:
    damage(save_episode(tmp_path, episode()))
    with pytest.raises(ValueError, match=message) as error:
        load_episodes(tmp_path)
    assert "\n" not in str(error.value)


def test_a_wrong_episode_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^observations: got NaN"):
        save_episode(tmp_path / "new", episode(observations=np.full((5, 3), np.nan)))
    assert not (tmp_path / "new").exists()


# ---- Minari's format -----------------------------------------------------------------------------


def minari(source: Episode, **infos: Any) -> Any:
    """The same episode as Minari has it."""
    steps = len(source.actions)
    ends = np.arange(steps) == steps - 1
    return SimpleNamespace(
        observations=source.observations,
        actions=source.actions,
        rewards=source.rewards,
        terminations=ends & source.terminated,
        truncations=ends & source.truncated,
        infos=infos,
    )


@pytest.mark.parametrize("with_reset", [False, True], ids=["steps", "reset and steps"])
def test_an_episode_of_minari_is_the_same_episode(with_reset: bool) -> None:
    originals = [episode(3, 0), episode(5, 1)]
    given = [
        minari(one, hazard=np.concatenate([[0.0] * with_reset, one.costs])) for one in originals
    ]
    for one, two in zip(originals, from_minari(given, cost="hazard"), strict=True):
        assert_same(one, two)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (minari(episode(), x_position=np.zeros(4)), "^cost: got 'cost', but .* are: x_position"),
        (minari(episode()), "^cost: got 'cost', but the infos of episode 0 are: none"),
        (minari(episode(), cost=np.zeros(9)), r"^costs: got shape \(9,\) in episode 0"),
        (
            minari(episode(observations={"a": 1}), cost=np.zeros(4)),
            "^observations: got a dict in episode 0; allowed one array; flatten it",
        ),
        (
            minari(episode(actions=np.zeros(4, int)), cost=np.zeros(4)),
            r"^actions: got shape \(4,\) in episode 0",
        ),
    ],
)
def test_what_is_wrong_with_minaris_episode_is_one_line(given: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_minari([given])


# ---- rows of a replay ----------------------------------------------------------------------------


@given(st.lists(st.integers(1, 6), min_size=1, max_size=6))
def test_the_rows_are_those_of_a_run_that_did_the_same(lengths: list[int]) -> None:
    """By hand: a run adds a first row, then one for each step, with actions in [-1, 1]."""
    filled, by_hand = replay(), replay()
    episodes = [episode(length, seed) for seed, length in enumerate(lengths)]
    fill(filled, episodes, low=LOW, high=HIGH)
    for one in episodes:
        by_hand.add(one.observations[0], np.zeros(2), reward=0.0, cost=0.0, is_first=True)
        for t in range(len(one.actions)):
            by_hand.add(
                one.observations[t + 1],
                np.array([one.actions[t, 0], (one.actions[t, 1] - 4) / 2]),
                reward=float(one.rewards[t]),
                cost=float(one.costs[t]),
                is_first=False,
                terminated=one.terminated and t == len(one.actions) - 1,
            )
    rows = [r.gather(torch.tensor([0]), len(by_hand)) for r in (filled, by_hand)]
    assert len(filled) == len(by_hand) == sum(lengths) + len(lengths)
    for name in ("observation", "reward", "cost", "is_first", "terminated", "row"):
        assert torch.equal(getattr(rows[0], name), getattr(rows[1], name)), name
    torch.testing.assert_close(rows[0].action, rows[1].action)


def test_bounds_become_one_and_others_change_the_action() -> None:
    """The control: with the bounds of another environment the actions would be others."""
    one = episode(actions=np.array([LOW, HIGH, (LOW + HIGH) / 2, LOW - 1e-7]))
    filled, other = replay(), replay()
    fill(filled, [one], low=LOW, high=HIGH)
    action = filled.newest_episode().action[0, 1:].tolist()
    assert action == [[-1, -1], [1, 1], [0, 0], [-1, -1]]
    fill(other, [one], low=2 * LOW - HIGH, high=HIGH)
    assert other.newest_episode().action[0, 1:].tolist() != action


@pytest.mark.parametrize(
    ("wrong", "bounds", "message"),
    [
        (episode(actions=np.full((4, 2), 2.5)), (LOW, HIGH), "^actions: got 2.5 as entry 0 of st"),
        (episode(), (LOW[:1], HIGH[:1]), r"^actions: got 2 numbers an action; allowed \(1,\)"),
        (episode(), (LOW, LOW), "^low, high: got .* allowed finite, low below high"),
        (episode(), (LOW, np.array([1, np.inf])), "^low, high: got"),
        (episode(observations=np.zeros((5, 4))), (LOW, HIGH), r"^observation: got shape \(4,\)"),
        (episode(costs=np.full(4, np.nan)), (LOW, HIGH), "^costs: got NaN"),
    ],
)
def test_what_does_not_fit_adds_no_row(wrong: Episode, bounds: Any, message: str) -> None:
    filled = replay()
    with pytest.raises(ValueError, match=message):
        fill(filled, [wrong], low=bounds[0], high=bounds[1])
    assert len(filled) == 0


# ---- several costs -------------------------------------------------------------------------------


def test_costs_of_several_constraints_come_to_the_replay_from_a_folder_and_from_minari(
    tmp_path: Path,
) -> None:
    costs = np.array([[0.0, 1.0], [2.0, 0.0], [0.0, 0.0], [3.0, 0.5]])
    one = episode(costs=costs)
    save_episode(tmp_path, one)
    of_reset = np.zeros((1, 2))
    sources = [
        [one],
        load_episodes(tmp_path),
        from_minari([minari(one, cost=costs)]),
        from_minari([minari(one, cost=np.concatenate([of_reset, costs]))]),
    ]
    for source in sources:
        assert_same(source[0], one)
        filled = SequenceReplay(observation_shape=(3,), action_size=2, constraints=2)
        fill(filled, source, low=LOW, high=HIGH)
        assert filled.newest_episode().cost[0].tolist() == [[0.0, 0.0], *costs.tolist()]


def test_one_cost_is_the_column_of_it() -> None:
    one, filled, same = episode(), replay(), replay()
    fill(filled, [one], low=LOW, high=HIGH)
    fill(same, [one._replace(costs=one.costs[:, None])], low=LOW, high=HIGH)
    assert filled.newest_episode().cost.any()
    assert torch.equal(same.newest_episode().cost, filled.newest_episode().cost)


@pytest.mark.parametrize(("constraints", "shape"), [(1, (4, 2)), (2, (4,)), (2, (4, 3))])
def test_another_number_of_costs_than_the_replays_adds_no_row(
    constraints: int, shape: tuple[int, ...]
) -> None:
    filled = SequenceReplay(observation_shape=(3,), action_size=2, constraints=constraints)
    with pytest.raises(ValueError, match=r"^cost: got shape \(\d,\); allowed"):
        fill(filled, [episode(costs=np.zeros(shape))], low=LOW, high=HIGH)
    assert len(filled) == 0
