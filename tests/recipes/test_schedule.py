"""Which policy acts when: laws of the schedule, on episodes of any length."""

import json
from collections.abc import Iterator
from itertools import groupby, pairwise
from math import ceil
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blocks import EpisodeRecord
from recipes.training.schedule import Schedule


def played(schedule: Schedule, lengths: list[int], costs: list[int]) -> Iterator[EpisodeRecord]:
    """Records of episodes of these lengths, as a run would number them."""
    records: list[EpisodeRecord] = []
    for length, cost in zip(lengths, costs, strict=True):
        record = EpisodeRecord(schedule.iterate(records), float(cost), 0.0, length)
        records.append(record)
        yield record


def iterates(schedule: Schedule, lengths: list[int]) -> list[list[EpisodeRecord]]:
    records = played(schedule, lengths, [0] * len(lengths))
    return [list(group) for _, group in groupby(records, lambda record: record.iterate)]


LENGTHS = st.lists(st.integers(1, 100), min_size=1, max_size=80)


@given(st.integers(1, 5), st.integers(1, 12))
def test_whole_episodes_are_one_iterate_each_after_a_prefill_of_one_for_each_scale(
    scales: int, more: int
) -> None:
    schedule = Schedule((1.0,) * scales, 100, action_repeat=4, prefill_rows=24)
    counts = [len(group) for group in iterates(schedule, [100] * (scales + more))]
    assert counts == [scales] + [1] * more


@given(LENGTHS, st.integers(1, 3))
def test_an_iterate_takes_as_many_episodes_as_fit(lengths: list[int], scales: int) -> None:
    """Another episode of the mean length would not have fit; without the newest one it would."""
    schedule = Schedule((1.0,) * scales, 100)
    *finished, _ = iterates(schedule, [*lengths, 100, 100, 100])
    for index, group in enumerate(finished):
        steps = [record.steps for record in group]
        room, count = 100 if index else 100 * scales, len(group)
        assert sum(steps) * (count + 1) > room * count
        assert sum(steps) > room * count / (count + 1) >= room / 2
        if count > 1:
            assert sum(steps[:-1]) * count <= room * (count - 1)
            assert sum(steps) < room + 100
        assert index or count >= scales


def test_one_iterate_for_each_episode_would_learn_from_twenty_steps() -> None:
    """The control: the law above fails for the rule of whole episodes."""
    (prefill, *others, _) = iterates(Schedule((0.5, 1.0), 1000), [20] * 300)
    assert len(prefill) == 100
    assert {len(group) for group in others} == {50}
    taken, room = 20, 1000
    assert not taken * 2 > room  # so one episode does not end an iterate


@given(LENGTHS, st.integers(1, 7), st.integers(0, 200), st.integers(0, 30))
def test_the_prefill_goes_on_until_there_are_rows_enough(
    lengths: list[int], repeat: int, rows: int, fallback: int
) -> None:
    """Counted as `run_episode` remembers: the start, and each action until the guard refuses."""
    schedule = Schedule((1.0,), 10, action_repeat=repeat, prefill_rows=rows)
    records: list[EpisodeRecord] = []
    remembered = 0
    for length in lengths:
        refused = min(fallback, length) // repeat * repeat
        record = EpisodeRecord(schedule.iterate(records), 0.0, 0.0, length, refused)
        if record.iterate == 0:
            remembered += 1 + ceil((length - refused) / repeat)
        else:
            assert remembered >= rows
        records.append(record)
    eager = Schedule((1.0,), 10, action_repeat=repeat)  # the control: it does not wait for rows
    assert eager.iterate(records[:1]) == (2 * records[0].steps > 10)


@given(LENGTHS, st.integers(0, 100))
def test_the_records_alone_decide(lengths: list[int], at: int) -> None:
    """A resumed run has the records, and no other memory."""
    arguments: Any = ((0.5, 1.0), 100, 2, 24)
    records = list(played(Schedule(*arguments), lengths, [length % 3 for length in lengths]))
    restored = [EpisodeRecord(*json.loads(json.dumps(record))) for record in records]
    for count in (0, at % len(records), len(records)):
        for name in ("iterate", "learns", "scale"):
            one, two = (getattr(Schedule(*arguments), name)(r[:count]) for r in (records, restored))
            assert one == two
    numbers = [record.iterate for record in records]
    assert all(after - before in (0, 1) for before, after in pairwise(numbers))


@pytest.mark.parametrize(
    ("costs", "scale"),
    [
        ([0] * 3, 1.0),
        ([0] * 40, 1.0),
        ([0] * 40 + [3], 0.5),  # the last scale has had a cost now
        ([0] * 40 + [3] + [0] * 9, 0.5),
        ([0, 3] + [0] * 40, 0.25),
    ],
)
def test_a_long_prefill_stays_at_its_last_scale_without_cost(
    costs: list[int], scale: float
) -> None:
    schedule = Schedule((0.25, 0.5, 1.0), 1000)
    assert schedule.scale(list(played(schedule, [20] * len(costs), costs))) == scale
