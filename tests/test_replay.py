import errno
import inspect
import io
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from blocks import row_storage
from blocks.replay import SequenceReplay
from blocks.types import Transitions


def make(capacity: int | None = 100, seed: int = 0, folder: Path | None = None) -> SequenceReplay:
    return SequenceReplay(capacity, observation_shape=(2,), action_size=1, seed=seed, folder=folder)


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
    assert data.cost[..., 0].tolist() == [[1, 2, 0, 1], [0, 1, 2, 0]]
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
    assert torch.equal(data.cost, (row % 3).unsqueeze(-1))
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
    replay = SequenceReplay(
        5, observation_shape=(4, 4, 3), observation_dtype=torch.uint8, action_size=2
    )
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


@pytest.mark.parametrize(("capacity", "rows"), [(300, 200), (100, 250)])
def test_the_costly_fraction_contains_a_row_with_a_cost(capacity: int, rows: int) -> None:
    """Also after the ring has wrapped; every such row comes, at any place of the sequence."""
    replay, costly = make(capacity), {155, 181, 199, 210, 248}
    for row in range(rows):
        cost = float(row in costly)
        replay.add(**fields(row, is_first=row % 50 == 0) | {"cost": cost})
    data = replay.sample(400, 6, recent_fraction=0.25, costly_fraction=0.5)
    cost = data.cost[..., 0]
    found = data.row[200:][cost[200:] > 0]
    assert (cost[200:].sum(1) > 0).all()
    assert set(found.tolist()) == {row for row in costly if rows - capacity <= row < rows}
    places = (cost[200:] > 0).float().argmax(1)
    assert places.unique().tolist() == list(range(6))
    assert (cost[:200].sum(1) == 0).any()


def test_without_costs_the_costly_fraction_is_uniform() -> None:
    replay = make(200)
    for row in range(200):
        replay.add(**fields(row, is_first=row == 0) | {"cost": 0.0})
    starts = replay.sample(2000, 2, costly_fraction=1.0).row[:, 0]
    assert starts.float().mean() == pytest.approx(99, abs=8)
    assert starts.min() < 5
    assert starts.max() > 194


@pytest.mark.parametrize("fractions", [(0.6, 0.6, 0.0), (0.0, 0.5, 0.6), (-0.1, 0.0, 0.0)])
def test_fractions_out_of_range_are_an_error(fractions: tuple[float, float, float]) -> None:
    replay = make()
    fill(replay, [20])
    names = ("recent_fraction", "initial_fraction", "costly_fraction")
    with pytest.raises(
        ValueError, match="recent_episodes, recent_fraction, initial_fraction, cost"
    ):
        replay.sample(8, 3, **dict(zip(names, fractions, strict=True)))


def test_too_few_rows_have_no_effective_size() -> None:
    replay = make()
    fill(replay, [5])
    with pytest.raises(ValueError, match="seq_len: got 12; only 5 rows are stored"):
        replay.effective_size(12)


@pytest.mark.parametrize("fractions", [(0.0, 0.0, 0.0), (0.4, 0.0, 0.0), (0.25, 0.25, 0.25)])
@pytest.mark.parametrize(("capacity", "rows"), [(300, 240), (100, 260)])
def test_the_effective_size_is_that_of_the_rows_drawn(
    capacity: int, rows: int, fractions: tuple[float, float, float]
) -> None:
    """Kish's formula with the frequencies of many draws; its noise biases it by 1 / draws."""
    replay, length, count = make(capacity), 8, 16_000
    for row in range(rows):
        cost = float(row in (170, 171, 210))
        replay.add(**fields(row, is_first=row % 40 == 0) | {"cost": cost})
    names = ("recent_fraction", "initial_fraction", "costly_fraction")
    sampling: dict[str, Any] = {"recent_episodes": 2} | dict(zip(names, fractions, strict=True))
    drawn = replay.sample(count, length, **sampling).row
    _, counts = drawn.unique(return_counts=True)
    share = counts.double() / counts.sum()
    measured = 1 / float(share.square().sum())
    assert replay.effective_size(length, **sampling) == pytest.approx(measured, rel=0.05)
    assert replay.effective_size(length, **sampling) <= len(replay)
    if not any(fractions):
        assert replay.effective_size(length) > 0.9 * len(replay)


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
    wide = SequenceReplay(10, observation_shape=(3,), action_size=1)
    wide.add(np.zeros(3), np.zeros(1), reward=0.0, cost=0.0, is_first=True)
    with pytest.raises(ValueError, match=r"observation: got saved rows of shape \(1, 3\)"):
        make(10).load_state_dict(wide.state_dict())
    large = make(20)
    fill(large, [15])
    with pytest.raises(ValueError, match=r"^capacity: got 10, and a state of 15 rows; allowed 15"):
        make(10).load_state_dict(large.state_dict())


def test_a_refused_state_leaves_the_replay_as_it_was() -> None:
    large, small = make(20), make(10)
    fill(large, [15])
    fill(small, [3])
    with pytest.raises(ValueError, match="allowed 15 and above"):
        small.load_state_dict(large.state_dict())
    assert len(small) == 3
    assert small.sample(2, 3).row.tolist() == [[0, 1, 2], [0, 1, 2]]


# ---- no limit ------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory and file grow every few rows."""
    monkeypatch.setattr(row_storage, "FIRST_ROWS", 3)
    monkeypatch.setattr(row_storage, "FILE_ROWS", 4)


def two_kinds(folder: str, seed: int = 0) -> list[SequenceReplay]:
    """Replays without a capacity, in memory and in a file."""
    return [make(None, seed), make(None, seed, Path(folder))]


@settings(max_examples=20)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=8), st.integers(0, 100))
def test_a_replay_that_grows_is_one_that_was_large_from_the_start(
    episodes: list[int], seed: int
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        large, growing = make(100, seed), two_kinds(folder, seed)
        for length in episodes:
            for replay in (large, *growing):
                fill(replay, [length])
            if len(large) > 1:
                expected = draw(large)
                for replay in growing:
                    assert_same(draw(replay), expected)
        for replay in growing:
            assert len(replay) == sum(episodes)
            assert torch.equal(replay.observations, large.observations)
            assert replay.effective_size(1) == large.effective_size(1)
        stored = np.load(Path(folder) / STORE)
        assert len(stored) == -(-sum(episodes) // 4) * 4
        assert np.array_equal(stored[: len(large)], large.observations.numpy())


def test_a_ring_of_that_size_would_have_lost_rows() -> None:
    """The control of the test above: the law is not one of every replay."""
    ring, growing = make(10), make(None)
    for replay in (ring, growing):
        fill(replay, [7, 9])
    assert len(growing) == 16
    assert len(ring) == 10
    assert not torch.equal(draw(ring).row, draw(growing).row)


def test_no_length_of_the_episodes_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each episode has a row more than steps: 20-step episodes have 5% more rows than steps."""
    monkeypatch.setattr(row_storage, "FILE_ROWS", 500)
    for replay in two_kinds(str(tmp_path)):
        fill(replay, [21] * 80 + [2] * 200)
        assert len(replay) == 21 * 80 + 2 * 200
        rows = replay.sample(300, 24).row
        assert rows.min() < 300
        assert rows.max() > 1800


def test_growing_leaves_what_was_handed_out() -> None:
    replay = make(None)
    fill(replay, [3])
    handed_out = replay.observations
    fill(replay, [20])
    assert handed_out[:, 0].tolist() == [0, 1, 2]


@pytest.mark.parametrize("larger", [16, 40, None])
def test_a_longer_run_loads_the_rows_of_a_shorter_one(larger: int | None) -> None:
    replay = make(16, seed=3)
    fill(replay, [5, 7])
    longer = make(larger, seed=99)
    longer.load_state_dict(saved_and_loaded(replay.state_dict()))
    for same in (replay, longer):
        fill(same, [4])
    assert_same(draw(replay), draw(longer))
    fill(longer, [6])
    assert len(longer) == min(larger or 22, 22)


@pytest.mark.parametrize("other", [9, 40, None])
def test_a_ring_that_has_overwritten_rows_keeps_its_capacity(other: int | None) -> None:
    ring = make(16)
    fill(ring, [9, 9])
    with pytest.raises(ValueError, match=rf"^capacity: got {other}, .* last 16 of 18 rows"):
        make(other).load_state_dict(ring.state_dict())
    make(16).load_state_dict(ring.state_dict())


@given(st.lists(st.integers(1, 9), max_size=5), st.lists(st.integers(1, 9), max_size=4))
def test_the_episodes_since_a_row_are_those_added_then(before: list[int], new: list[int]) -> None:
    for capacity in (None, 12):
        replay = make(capacity)
        fill(replay, before)
        row = replay.added
        fill(replay, new)
        episodes = replay.episodes_since(row)
        kept = [*range(max(row, replay.added - len(replay)), replay.added)]
        assert [r for episode in episodes for r in episode.row[0].tolist()] == kept
        if capacity is None:
            assert [episode.row.numel() for episode in episodes] == new
            assert all(episode.is_first[0].tolist().index(True) == 0 for episode in episodes)
        assert replay.episodes_since(replay.added) == []


# ---- observations in a file ----------------------------------------------------------------------


STORE = "observations.npy"


def spilled_state(folder: Path) -> dict[str, Any]:
    """The state of a replay of capacity 20 that has left 9 rows in the folder."""
    replay = make(20, folder=folder)
    fill(replay, [5, 4])
    return saved_and_loaded(replay.state_dict())


def draw(replay: SequenceReplay) -> Transitions:
    return replay.sample(7, 2, recent_episodes=2, recent_fraction=0.5, initial_fraction=0.25)


@given(st.lists(st.integers(2, 7), min_size=1, max_size=8), st.integers(0, 100))
def test_spilled_and_in_memory_replays_give_the_same_samples(
    episodes: list[int], seed: int
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        pair = make(60, seed), make(60, seed, Path(folder))
        for episode in episodes:
            for replay in pair:
                fill(replay, [episode])
            assert_same(*(draw(replay) for replay in pair))
            assert_same(*(replay.newest_episode() for replay in pair))
            assert torch.equal(*(replay.observations for replay in pair))


@given(
    st.lists(st.integers(2, 5), max_size=4),
    st.lists(st.integers(2, 5), max_size=4),
    st.lists(st.integers(2, 5), min_size=1, max_size=4),
)
def test_a_killed_spilled_replay_goes_on_as_if_undisturbed(
    before: list[int], lost: list[int], after: list[int]
) -> None:
    """The rows of the `lost` episodes are in the file, but in no checkpoint."""
    with tempfile.TemporaryDirectory() as folder:
        undisturbed, killed = make(60, seed=3), make(60, 3, Path(folder))
        for replay in (undisturbed, killed):
            fill(replay, before)
        state = saved_and_loaded(killed.state_dict())
        for length in lost:
            for step in range(length):  # other rows than those that come in their place
                killed.add(**fields(1000 + step, is_first=step == 0))
            draw(killed)
        resumed = make(60, 99, Path(folder))
        resumed.load_state_dict(state)
        for length in after:
            for replay in (undisturbed, resumed):
                fill(replay, [length])
            assert_same(draw(undisturbed), draw(resumed))
        assert torch.equal(undisturbed.observations, resumed.observations)


IMAGES = {"observation_shape": (64, 64, 3), "observation_dtype": torch.uint8, "action_size": 1}


def add_pictures(replay: SequenceReplay, until: int) -> None:
    """Pictures from a generator seeded by the row's number, in episodes of 5."""
    for row in range(replay.added, until):
        picture = np.random.default_rng(row).integers(0, 256, (64, 64, 3), np.uint8)
        replay.add(picture, np.ones(1), reward=float(row), cost=0.0, is_first=row % 5 == 0)


def test_a_process_killed_at_any_moment_is_resumed_to_the_same_samples(tmp_path: Path) -> None:
    """Killed twice, while it adds rows and saves a checkpoint every 10 of them."""
    code = """
        import os
        from pathlib import Path
        import torch
        from test_replay import IMAGES, SequenceReplay, add_pictures, draw
        replay = SequenceReplay(10_000, **IMAGES, folder=Path("store"))
        if Path("checkpoint.pt").exists():
            replay.load_state_dict(torch.load("checkpoint.pt", weights_only=True))
        while replay.added < 9_990:
            add_pictures(replay, replay.added + 10)
            draw(replay)
            torch.save(replay.state_dict(), "new.pt")
            os.replace("new.pt", "checkpoint.pt")
            print(replay.added, flush=True)
    """
    for moment in (0.003, 0.01):
        with started(code, tmp_path) as process:
            assert process.stdout
            for _ in range(3):
                assert process.stdout.readline(), process.communicate()[1]
            time.sleep(moment)
            process.kill()
        assert process.returncode == -signal.SIGKILL
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    resumed = SequenceReplay(10_000, **IMAGES, seed=9, folder=tmp_path / "store")
    resumed.load_state_dict(state)
    assert resumed.added >= 60
    undisturbed = SequenceReplay(10_000, **IMAGES)
    while undisturbed.added < resumed.added:
        add_pictures(undisturbed, undisturbed.added + 10)
        draw(undisturbed)
    for replay in (undisturbed, resumed):
        add_pictures(replay, replay.added + 7)
    assert_same(draw(undisturbed), draw(resumed))
    assert torch.equal(undisturbed.observations, resumed.observations)


def started(code: str, folder: Path) -> subprocess.Popen[str]:
    """A fresh interpreter that works in the folder and can import this file."""
    here = Path(__file__).parent
    path = os.pathsep.join([str(here), str(here.parent)])
    return subprocess.Popen(
        [sys.executable, "-c", inspect.cleandoc(code)],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="tells the memory on Linux")
@pytest.mark.parametrize("folder", [None, "store"], ids=["in memory", "spilled"])
def test_memory_is_taken_as_rows_are_added(tmp_path: Path, folder: str | None) -> None:
    """Room for 614 MB of pictures and 80 MB of actions; 100 pictures are 1.2 MB."""
    code = f"""
        from pathlib import Path
        import numpy as np, torch
        from blocks.replay import SequenceReplay
        def peak():  # in bytes; ru_maxrss would be the parent's, if that is larger
            status = Path("/proc/self/status").read_text()
            return 1024 * int(status.split("VmHWM:")[1].split()[0])
        before = peak()
        replay = SequenceReplay(
            50_000, observation_shape=(64, 64, 3), observation_dtype=torch.uint8, action_size=400,
            folder={folder!r} and Path({folder!r}),
        )
        for row in range(100):
            picture = np.full((64, 64, 3), 7, np.uint8)
            replay.add(picture, np.ones(400), reward=1.0, cost=1.0, is_first=row == 0)
        print(peak() - before)
    """
    out, err = started(code, tmp_path).communicate(timeout=120)
    assert out, err
    assert 1e6 < int(out) < 40e6


def test_a_spilled_state_holds_no_observations_and_they_are_flushed_before_it_is_returned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replay = make(20, folder=tmp_path)
    fill(replay, [5])
    flushed: list[int] = []
    monkeypatch.setattr(np.memmap, "flush", lambda _: flushed.append(replay.added))
    state = replay.state_dict()
    assert flushed == [5]
    assert "observation" not in state["rows"]
    assert "action" in state["rows"]
    assert np.array_equal(np.load(tmp_path / STORE)[:5], replay.observations.numpy())


def test_no_file_is_made_before_the_first_row(tmp_path: Path) -> None:
    replay = make(20, folder=tmp_path / "new" / "store")
    assert not (tmp_path / "new").exists()
    assert len(replay.observations) == 0
    resumed = make(20, folder=tmp_path / "new" / "store")
    resumed.load_state_dict(saved_and_loaded(replay.state_dict()))
    fill(resumed, [3])
    assert [file.name for file in (tmp_path / "new" / "store").iterdir()] == [STORE]


def test_a_row_that_is_refused_makes_no_file(tmp_path: Path) -> None:
    replay = make(folder=tmp_path)
    with pytest.raises(ValueError, match="observation: got NaN"):
        replay.add(**fields(0) | {"observation": np.array([np.nan, 0.0])})
    assert not list(tmp_path.iterdir())


def test_a_kill_while_the_file_grows_leaves_one_that_loads(tmp_path: Path) -> None:
    """Space was reserved, wholly or in part, and the header still tells the old number of rows."""
    for reserved in (1, 31, 32, 1000):
        folder = tmp_path / str(reserved)
        undisturbed, killed = make(None), make(None, folder=folder)
        for replay in (undisturbed, killed):
            fill(replay, [8])
        state = saved_and_loaded(killed.state_dict())
        with (folder / STORE).open("ab") as stream:
            stream.write(b"\0" * reserved)
        assert len(np.load(folder / STORE, mmap_mode="r")) == 8
        resumed = make(None, 99, folder)
        resumed.load_state_dict(state)
        for replay in (undisturbed, resumed):
            fill(replay, [7])
        assert_same(draw(undisturbed), draw(resumed))
        assert len(np.load(folder / STORE)) == 16


def test_a_file_that_was_not_finished_is_begun_again(tmp_path: Path) -> None:
    (tmp_path / "observations.unfinished.npy").write_bytes(b"half of a header")
    replay = make(None, folder=tmp_path)
    fill(replay, [6])
    assert [file.name for file in tmp_path.iterdir()] == [STORE]
    assert np.load(tmp_path / STORE)[:6].tolist() == replay.observations.tolist()


def test_rows_of_the_checkpoint_stay_whatever_comes_after_it(tmp_path: Path) -> None:
    replay = make(None, folder=tmp_path)
    fill(replay, [6])
    replay.state_dict()
    before = np.load(tmp_path / STORE)[:6].tobytes()
    fill(replay, [5, 9, 11])
    assert np.load(tmp_path / STORE)[:6].tobytes() == before


def test_a_disk_that_fills_up_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replay = make(None, folder=tmp_path)
    fill(replay, [4])
    size = (tmp_path / STORE).stat().st_size

    def full(descriptor: int, offset: int, needed: int) -> None:
        os.ftruncate(descriptor, needed - 5)  # it got that far
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    with pytest.raises(ValueError, match=r"^folder: .* cannot hold .*\(8, 2\).* No space left"):
        fill(replay, [1])
    assert len(replay) == 4
    assert (tmp_path / STORE).stat().st_size == size
    monkeypatch.undo()
    fill(replay, [3])
    assert replay.observations[:, 0].tolist() == list(range(7))


def test_a_full_spilled_replay_refuses_a_row_that_would_overwrite_one(tmp_path: Path) -> None:
    replay = make(6, folder=tmp_path)
    fill(replay, [6])
    state = replay.state_dict()
    expected = replay.observations.clone()
    with pytest.raises(ValueError, match=r"^capacity: got 6, .* rows of the whole run"):
        fill(replay, [1])
    assert replay.added == 6
    assert replay.state_dict()["episode_starts"] == state["episode_starts"]
    assert torch.equal(replay.observations, expected)


def test_a_new_replay_refuses_a_folder_that_holds_another_s_observations(tmp_path: Path) -> None:
    state = spilled_state(tmp_path)
    stored = (tmp_path / STORE).read_bytes()
    new = make(20, folder=tmp_path)
    with pytest.raises(ValueError, match=r"^folder: got .* already holds the observations"):
        fill(new, [1])
    assert len(new) == 0
    assert (tmp_path / STORE).read_bytes() == stored
    new.load_state_dict(state)
    assert len(new) == 9


def remove(file: Path) -> None:
    file.unlink()


def cut(file: Path) -> None:
    os.truncate(file, file.stat().st_size - 1)


def empty(file: Path) -> None:
    os.truncate(file, 0)


def scribble(file: Path) -> None:
    file.write_bytes(b"no array" * 100)


def exchange(file: Path) -> None:
    """Another run's, of the same layout."""
    array = np.load(file)
    np.save(file, array + 1)


def keep_five(file: Path) -> None:
    """A whole file of the same run, from earlier."""
    np.save(file, np.load(file)[:5])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (remove, rf"^observation: got no file .*{STORE}"),
        (cut, r"of 223 bytes, cut short or damaged .* need 72 bytes and a header"),
        (empty, r"of 0 bytes, cut short or damaged"),
        (scribble, r"of 800 bytes, cut short or damaged"),
        (exchange, r"^observation: got .* row 8 differs"),
        (keep_five, r"^observation: got .* of 5 rows; the saved state needs 9"),
    ],
)
def test_a_missing_or_damaged_file_is_refused(
    tmp_path: Path, damage: Callable[[Path], None], message: str
) -> None:
    state = spilled_state(tmp_path)
    damage(tmp_path / STORE)
    size = (tmp_path / STORE).stat().st_size if (tmp_path / STORE).exists() else None
    replay = make(20, folder=tmp_path)
    with pytest.raises(ValueError, match=message):
        replay.load_state_dict(state)
    assert len(replay) == 0
    assert size is None or (tmp_path / STORE).stat().st_size == size  # left as it was


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"observation_shape": (3,)}, r"^observation_shape: got \(3,\); allowed \(2,\)"),
        ({"observation_dtype": torch.uint8}, r"^observation_dtype: got uint8; allowed float32"),
    ],
)
def test_a_file_of_another_layout_is_refused_by_name(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    state = spilled_state(tmp_path)
    layout = {"capacity": 20, "observation_shape": (2,), "action_size": 1} | change
    with pytest.raises(ValueError, match=message):
        SequenceReplay(**layout, folder=tmp_path).load_state_dict(state)


def test_a_spilled_state_needs_a_folder_and_one_with_observations_none(tmp_path: Path) -> None:
    spilled, replay = spilled_state(tmp_path / "one"), make(20)
    fill(replay, [3])
    with pytest.raises(ValueError, match="folder: got None, and a state that holds action"):
        replay.load_state_dict(spilled)
    with pytest.raises(ValueError, match="and a state that holds observation, action"):
        make(20, folder=tmp_path / "two").load_state_dict(replay.state_dict())
    assert len(replay) == 3


def test_a_copy_of_file_and_state_goes_its_own_way(tmp_path: Path) -> None:
    state = spilled_state(tmp_path / "one")
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    one, two = make(20, folder=tmp_path / "one"), make(20, folder=tmp_path / "two")
    for replay in (one, two):
        replay.load_state_dict(state)
    assert_same(draw(one), draw(two))
    fill(one, [3])
    assert two.observations.shape == (9, 2)
    assert np.load(tmp_path / "two" / STORE)[9].tolist() == [0, 0]


def test_a_disk_without_room_is_said_at_the_first_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int, offset: int, size: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    replay = make(folder=tmp_path)
    with pytest.raises(ValueError, match=r"^folder: .* cannot hold .* No space left on device"):
        fill(replay, [1])
    assert len(replay) == 0
    assert not list(tmp_path.iterdir())
    monkeypatch.undo()
    fill(replay, [3])
    assert len(replay) == 3


def test_a_folder_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"^folder: got .*file, which cannot hold"):
        fill(make(folder=tmp_path / "file"), [1])


# ---- several costs -------------------------------------------------------------------------------


def costing(row: int, cost: Any) -> dict[str, Any]:
    return fields(row, is_first=row == 0) | {"cost": cost}


def with_costs(costs: list[list[float]], capacity: int | None = None) -> SequenceReplay:
    """A replay of rows with these costs ``[row, constraint]``."""
    replay = SequenceReplay(
        capacity, observation_shape=(2,), action_size=1, constraints=len(costs[0])
    )
    for row, cost in enumerate(costs):
        replay.add(**costing(row, cost))
    return replay


@given(
    st.lists(
        st.lists(st.integers(0, 9).map(float), min_size=3, max_size=3), min_size=2, max_size=20
    )
)
def test_a_row_keeps_each_of_its_costs_also_in_a_checkpoint(costs: list[list[float]]) -> None:
    replay = with_costs(costs)
    restored = with_costs([[7.0, 7.0, 7.0]])
    restored.load_state_dict(saved_and_loaded(replay.state_dict()))
    for one in (replay, restored):
        assert one.gather(torch.tensor([0]), len(costs)).cost[0].tolist() == costs


@pytest.mark.parametrize("kind", [list, tuple, np.array, torch.tensor])
def test_costs_may_be_any_kind_of_vector(kind: Callable[[list[float]], Any]) -> None:
    replay = with_costs([[0.0, 0.0]])
    replay.add(**costing(1, kind([1.5, 0.0])))
    assert replay.gather(torch.tensor([1]), 1).cost.tolist() == [[[1.5, 0.0]]]


def test_one_cost_is_a_number_or_a_vector_of_one() -> None:
    number, vector = make(), make()
    number.add(**costing(0, 2.0))
    vector.add(**costing(0, [2.0]))
    assert_same(number.gather(torch.tensor([0]), 1), vector.gather(torch.tensor([0]), 1))


@pytest.mark.parametrize("capacity", [300, 100])
def test_a_row_with_any_of_the_costs_is_costly(capacity: int) -> None:
    """Also after the ring has wrapped; rows without any never are drawn for their cost."""
    costly = {155: [1.0, 0.0], 181: [0.0, 0.5], 199: [2.0, 2.0]}
    replay = with_costs([costly.get(row, [0.0, 0.0]) for row in range(200)], capacity)
    rows = replay.sample(300, 1, costly_fraction=1.0).row
    assert set(rows.flatten().tolist()) == set(costly)


@pytest.mark.parametrize(
    ("cost", "message"),
    [
        (1.0, r"got shape \(1,\); allowed \(2,\)"),
        ([1.0], r"got shape \(1,\); allowed \(2,\)"),
        ([1.0, 2.0, 3.0], r"got shape \(3,\); allowed \(2,\)"),
        ([1.0, float("nan")], "got NaN or infinity at row 1"),
    ],
)
def test_costs_that_do_not_fit_are_refused(cost: Any, message: str) -> None:
    replay = with_costs([[0.0, 0.0]])
    with pytest.raises(ValueError, match=f"^cost: {message}"):
        replay.add(**costing(1, cost))
    assert len(replay) == 1


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


def test_fractions_for_a_replay_of_bytes_are_refused() -> None:
    """Pixels from 0 to 1 would all be stored as 0."""
    replay = SequenceReplay(4, observation_shape=(2,), observation_dtype=torch.uint8, action_size=1)
    with pytest.raises(ValueError, match=r"^observation: got float32; allowed uint8; convert it"):
        replay.add(np.full(2, 0.5, np.float32), [0.0], reward=0.0, cost=0.0, is_first=True)
    replay.add(np.array([3, 4]), [0.0], reward=0.0, cost=0.0, is_first=True)
    assert replay.observations.tolist() == [[3, 4]]


def test_a_tensor_may_come_with_its_graph() -> None:
    replay = SequenceReplay(4, observation_shape=(2,), action_size=1)
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


@given(lengths=st.lists(st.integers(1, 12), min_size=1, max_size=8), rows=st.integers(1, 60))
def test_as_many_of_the_newest_episodes_as_the_rows_need(lengths: list[int], rows: int) -> None:
    replay = make(200)
    fill(replay, lengths)
    count = replay.newest_episodes(rows)
    assert 1 <= count <= len(lengths)
    assert count == len(lengths) or sum(lengths[-count:]) >= rows
    assert count == 1 or sum(lengths[len(lengths) - count + 1 :]) < rows  # none too many
