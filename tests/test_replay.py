import io
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from blocks.replay import SequenceReplay
from blocks.types import Transitions


def make(capacity: int = 100, seed: int = 0) -> SequenceReplay:
    return SequenceReplay(capacity, observation_shape=(2,), action=1, seed=seed)


def fields(row: int, *, is_first: bool = False, terminated: bool = False) -> dict[str, Any]:
    """What row number ``row`` holds: every field tells the number."""
    return {
        "observation": np.array([row, -row], np.float32),
        "action": np.array([row / 100], np.float32),
        "reward": float(row) + 0.5,
        "cost": float(row % 3),
        "is_first": is_first,
        "terminated": terminated,
    }


def fill(replay: SequenceReplay, episodes: list[int]) -> None:
    """Add episodes of the given lengths, numbering rows on from those already added."""
    for length in episodes:
        for step in range(length):
            replay.add(**fields(replay.added, is_first=step == 0, terminated=step == length - 1))


def assert_same(one: Transitions, two: Transitions) -> None:
    for name, a, b in zip(Transitions._fields, one, two, strict=True):
        assert torch.equal(a, b), name


def saved_and_loaded(state: dict[str, Any]) -> dict[str, Any]:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


# ---- what is stored ------------------------------------------------------------------------------


def test_hand_checked_sequences() -> None:
    replay = make()
    fill(replay, [3, 2])
    data = replay.gather(torch.tensor([1, 0]), 4)
    assert data.row.tolist() == [[1, 2, 3, 4], [0, 1, 2, 3]]
    assert data.observation.tolist() == [
        [[1, -1], [2, -2], [3, -3], [4, -4]],
        [[0, 0], [1, -1], [2, -2], [3, -3]],
    ]
    torch.testing.assert_close(data.action[0, :, 0], torch.tensor([0.01, 0.02, 0.03, 0.04]))
    assert data.reward.tolist() == [[1.5, 2.5, 3.5, 4.5], [0.5, 1.5, 2.5, 3.5]]
    assert data.cost.tolist() == [[1, 2, 0, 1], [0, 1, 2, 0]]
    assert data.is_first.tolist() == [[False, False, True, False], [True, False, False, True]]
    assert data.terminated.tolist() == [[False, True, False, True], [False, False, True, False]]
    assert data.is_first.dtype == data.terminated.dtype == torch.bool


@given(
    st.integers(2, 12),
    st.lists(st.integers(1, 7), min_size=1, max_size=8),
    st.integers(1, 4),
    st.integers(0, 100),
)
def test_every_sequence_is_what_was_added_and_nothing_overwritten_returns(
    capacity: int, episodes: list[int], seq_len: int, seed: int
) -> None:
    replay = make(capacity, seed)
    fill(replay, episodes)
    added = sum(episodes)
    assert replay.added == added
    assert len(replay) == min(added, capacity)
    if len(replay) < seq_len:
        return
    data = replay.sample(16, seq_len, recent_fraction=0.5)
    assert data.row.shape == (16, seq_len)
    assert (data.row >= max(0, added - capacity)).all()
    assert (data.row < added).all()
    assert (data.row[:, 1:] == data.row[:, :-1] + 1).all()
    row = data.row.float()
    assert torch.equal(data.observation, torch.stack([row, -row], -1))
    assert torch.equal(data.action, (row.double() / 100).float().unsqueeze(-1))
    assert torch.equal(data.reward, row + 0.5)
    assert torch.equal(data.cost, row % 3)
    borders = torch.tensor(np.cumsum([0, *episodes]))
    assert torch.equal(data.is_first, torch.isin(data.row, borders))
    assert torch.equal(data.terminated, torch.isin(data.row + 1, borders))


def test_a_full_ring_forgets_its_oldest_rows() -> None:
    replay = make(4)
    fill(replay, [6])
    assert len(replay) == 4
    assert sorted(replay.observations[:, 0].tolist()) == [2, 3, 4, 5]
    starts = replay.sample(200, 2).row[:, 0]
    assert set(starts.tolist()) == {2, 3, 4}


def test_images_stay_bytes() -> None:
    replay = SequenceReplay(5, observation_shape=(4, 4, 3), observation_dtype=torch.uint8, action=2)
    image = np.random.default_rng(0).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    for step in range(2):
        replay.add(image, np.zeros(2), reward=0.0, cost=0.0, is_first=step == 0)
    data = replay.sample(1, 2)
    assert data.observation.dtype == torch.uint8
    assert np.array_equal(data.observation[0, 1].numpy(), image)
    assert saved_and_loaded(replay.state_dict())["rows"]["observation"].dtype == torch.uint8


def test_what_was_sampled_is_a_copy() -> None:
    replay = make(4)
    fill(replay, [4])
    data = replay.gather(torch.tensor([0]), 4)
    before = data.observation.clone()
    fill(replay, [4])
    assert torch.equal(data.observation, before)


# ---- how it is sampled ---------------------------------------------------------------------------


def test_starts_are_uniform() -> None:
    """Five standard errors of a count: sqrt(n p (1 - p))."""
    replay, count = make(), 20_000
    fill(replay, [7, 5])
    starts = replay.sample(count, 3).row[:, 0]
    observed = torch.bincount(starts, minlength=12)
    assert observed[10:].sum() == 0
    expected = count / 10
    assert ((observed[:10] - expected).abs() < 5 * (expected * 0.9) ** 0.5).all()


@pytest.mark.parametrize(("recent", "first"), [(1, 40), (2, 30), (3, 10)])
def test_recent_sequences_start_in_recent_episodes_only(recent: int, first: int) -> None:
    replay = make()
    fill(replay, [10, 20, 10, 15])
    starts = replay.sample(500, 4, recent_episodes=recent, recent_fraction=1.0).row[:, 0]
    assert starts.min() == first
    assert starts.max() <= 55 - 4


def test_each_recent_episode_counts_as_much_as_the_others_however_long() -> None:
    """Five standard errors of a share of one half."""
    replay, count = make(200), 4000
    fill(replay, [10, 5, 100])
    starts = replay.sample(count, 4, recent_episodes=2, recent_fraction=1.0).row[:, 0]
    in_the_short_one = (starts < 15).float().mean()
    assert abs(in_the_short_one - 0.5) < 5 * (0.25 / count) ** 0.5


def test_the_recent_fraction_is_a_share_of_the_batch() -> None:
    replay = make(2000)
    fill(replay, [1000, 10])
    starts = replay.sample(40, 2, recent_fraction=0.75).row[:, 0]
    assert (starts[:30] >= 1000).all()
    assert (starts[30:] < 1000).any()


def test_the_initial_fraction_starts_on_first_rows_of_recent_episodes() -> None:
    replay = make(200)
    fill(replay, [50, 30, 40])
    data = replay.sample(40, 3, recent_episodes=2, recent_fraction=0.25, initial_fraction=0.5)
    starts = data.row[:, 0]
    assert (starts[:10] >= 50).all()
    assert set(starts[10:30].tolist()) == {50, 80}
    assert data.is_first[10:30, 0].all()
    assert len(starts[30:].unique()) > 2
    with pytest.raises(ValueError, match="add up to at most 1"):
        replay.sample(8, 3, recent_fraction=0.75, initial_fraction=0.75)


def test_recent_episodes_that_the_ring_has_overwritten_are_not_returned() -> None:
    replay = make(8)
    fill(replay, [6, 6])
    rows = replay.sample(300, 2, recent_episodes=2, recent_fraction=1.0).row
    assert rows.min() == 4


def test_the_seed_alone_decides_what_is_sampled() -> None:
    one, again, other = make(seed=1), make(seed=1), make(seed=2)
    for replay in (one, again, other):
        fill(replay, [30])
    first = one.sample(20, 3)
    assert_same(first, again.sample(20, 3))
    assert not torch.equal(first.row, other.sample(20, 3).row)
    assert not torch.equal(first.row, one.sample(20, 3).row)


# ---- resuming ------------------------------------------------------------------------------------


@pytest.mark.parametrize("episodes", [[5, 4], [9, 9, 9]], ids=["filling", "wrapped"])
def test_a_restored_replay_goes_on_with_the_same_stream(episodes: list[int]) -> None:
    replay = make(16, seed=3)
    fill(replay, episodes)
    replay.sample(7, 3, recent_fraction=0.5)  # leave the generator somewhere
    state = saved_and_loaded(replay.state_dict())
    restored = make(16, seed=99)
    restored.load_state_dict(state)
    for _ in range(3):
        assert len(restored) == len(replay)
        for _ in range(3):
            pair = [
                r.sample(7, 3, recent_episodes=2, recent_fraction=0.5) for r in (replay, restored)
            ]
            assert_same(*pair)
        for r in (replay, restored):
            fill(r, [4, 3])


def test_the_state_is_a_snapshot() -> None:
    replay = make(6)
    fill(replay, [6])
    state = replay.state_dict()
    before = state["rows"]["observation"].clone(), list(state["episode_starts"])
    expected = replay.sample(5, 2)
    fill(replay, [3])
    assert torch.equal(state["rows"]["observation"], before[0])
    assert state["episode_starts"] == before[1]
    restored = make(6)
    restored.load_state_dict(state)
    assert_same(restored.sample(5, 2), expected)


def test_a_state_of_another_replay_is_refused_by_name() -> None:
    wide = SequenceReplay(10, observation_shape=(3,), action=1)
    wide.add(np.zeros(3), np.zeros(1), reward=0.0, cost=0.0, is_first=True)
    with pytest.raises(ValueError, match=r"observation: got saved rows of shape \(1, 3\)"):
        make(10).load_state_dict(wide.state_dict())
    large = make(20)
    fill(large, [15])
    with pytest.raises(ValueError, match=r"observation: .* holds 10 rows"):
        make(10).load_state_dict(large.state_dict())


def test_a_refused_state_leaves_the_replay_as_it_was() -> None:
    large, small = make(20), make(10)
    fill(large, [15])
    fill(small, [3])
    with pytest.raises(ValueError, match="holds 10 rows"):
        small.load_state_dict(large.state_dict())
    assert len(small) == 3
    assert small.sample(2, 3).row.tolist() == [[0, 1, 2], [0, 1, 2]]


# ---- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("field", ["observation", "action", "reward", "cost"])
def test_a_number_that_is_none_is_refused_with_its_field_named(field: str, bad: float) -> None:
    replay = make()
    fill(replay, [3])
    row = fields(3, is_first=True)
    row[field] = np.full_like(row[field], bad) if field in ("observation", "action") else bad
    before = saved_and_loaded(replay.state_dict())
    with pytest.raises(ValueError, match=f"^{field}: got NaN or infinity at row 3"):
        replay.add(**row)
    after = replay.state_dict()
    assert after["added"] == 3
    assert after["episode_starts"] == before["episode_starts"]
    for name, value in before["rows"].items():
        assert torch.equal(value, after["rows"][name])
    fill(replay, [2])
    assert replay.gather(torch.tensor([3]), 2).is_first.tolist() == [[True, False]]


def test_one_nan_among_good_numbers_is_enough() -> None:
    replay = make()
    row = fields(0)
    row["observation"] = torch.tensor([0.0, float("nan")])
    with pytest.raises(ValueError, match="observation"):
        replay.add(**row)
    assert len(replay) == 0


def test_a_tensor_may_come_with_its_graph() -> None:
    replay = SequenceReplay(4, observation_shape=(2,), action=1)
    observation = torch.ones(2, requires_grad=True) * 3
    replay.add(observation, torch.zeros(1), reward=0.0, cost=0.0, is_first=True)
    assert torch.equal(replay.observations, torch.tensor([[3.0, 3.0]]))


def test_a_number_too_large_for_the_store_is_refused() -> None:
    replay = make()
    row = fields(0)
    row["observation"] = np.array([1e300, 0.0])
    with pytest.raises(ValueError, match="observation"):
        replay.add(**row)


def test_a_row_of_the_wrong_shape_leaves_the_replay_as_it_was() -> None:
    replay = make()
    fill(replay, [3])
    row = fields(3, is_first=True)
    row["action"] = np.zeros(2)
    with pytest.raises((ValueError, RuntimeError)):
        replay.add(**row)
    fill(replay, [3])
    replay.sample(50, 2, recent_episodes=2, recent_fraction=1.0)


def test_a_newest_episode_shorter_than_a_sequence_gives_way_to_recent_ones() -> None:
    replay = make()
    fill(replay, [10, 10, 2])
    starts = replay.sample(50, 4, recent_episodes=2, recent_fraction=1.0).row[:, 0]
    assert len(starts.unique()) > 2
    assert torch.bincount(starts).max() < 25  # not half of the batch from one and the same row


@pytest.mark.parametrize("capacity", [1, 0, -3])
def test_a_capacity_without_room_for_a_sequence_is_refused(capacity: int) -> None:
    with pytest.raises(ValueError, match=f"capacity: got {capacity}"):
        make(capacity)


def test_a_sequence_longer_than_what_is_stored_is_refused() -> None:
    replay = make(5)
    with pytest.raises(ValueError, match="seq_len: got 1; only 0 rows"):
        replay.sample(2, 1)
    fill(replay, [9])
    with pytest.raises(ValueError, match="seq_len: got 6; only 5 rows"):
        replay.sample(2, 6)
    data: Tensor = replay.sample(2, 5).row
    assert data.tolist() == [[4, 5, 6, 7, 8]] * 2


def test_the_newest_episode_is_one_sequence() -> None:
    replay = make(20)
    fill(replay, [10, 7])
    newest = replay.newest_episode()
    assert newest.row.tolist() == [list(range(10, 17))]
    assert newest.is_first[0].tolist() == [True] + [False] * 6
    fill(replay, [30])  # longer than the ring: what is left of it
    assert replay.newest_episode().row.tolist() == [list(range(27, 47))]
