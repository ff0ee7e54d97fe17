import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blocks.safety_metrics import EpisodeRecord, safety_summary, violation_interval

records = st.lists(
    st.builds(
        EpisodeRecord,
        iterate=st.integers(0, 4),
        cost=st.integers(0, 100).map(float),
        episode_return=st.floats(-10, 10),
        steps=st.just(1000),
        costs=st.just(()),
    ),
    max_size=12,
)


def test_hand_counted_run() -> None:
    episodes = [
        EpisodeRecord(0, 0.0, -1.0, 1000),  # prefill
        EpisodeRecord(1, 20.0, 5.0, 1000),
        EpisodeRecord(1, 30.0, 5.0, 1000),  # over, but the iterate's mean is exactly 25
        EpisodeRecord(2, 26.0, 9.0, 1000),  # over, and so is its iterate
        EpisodeRecord(3, 25.0, 9.0, 1000),  # the budget itself is allowed
    ]
    summary = safety_summary(episodes, episode_budget=25, episode_length=1000)
    assert summary.policy_violations == 1
    assert summary.episode_violations == 2
    assert summary.cost_rate == pytest.approx(101 / 5000)
    assert summary.cost_regret == pytest.approx(5 + 1)
    assert summary.environment_steps == 5000
    assert summary.episodes == 5
    assert summary.policies == 4
    assert summary.worst_episode_cost == 30.0


def test_an_unfinished_episode_is_held_to_its_share_of_the_budget() -> None:
    half = [EpisodeRecord(0, 13.0, 0.0, 500)]
    summary = safety_summary(half, episode_budget=25, episode_length=1000)
    assert (summary.policy_violations, summary.episode_violations) == (1, 1)
    assert summary.cost_regret == pytest.approx(0.5)
    within = safety_summary(
        [EpisodeRecord(0, 12.0, 0.0, 500)], episode_budget=25, episode_length=1000
    )
    assert (within.policy_violations, within.episode_violations) == (0, 0)


def test_episodes_of_other_lengths_weigh_by_their_steps() -> None:
    episodes = [EpisodeRecord(0, 0.0, 0.0, 1000), EpisodeRecord(0, 20.0, 0.0, 100)]
    summary = safety_summary(episodes, episode_budget=25, episode_length=1000)
    assert summary.policy_violations == 0  # 20 <= 25 + 2.5
    assert summary.episode_violations == 1  # 20 > 2.5


def test_an_episode_that_terminated_has_the_whole_budget() -> None:
    ended = EpisodeRecord(0, 10.0, 0.0, 100, terminated=True)
    cut_off = ended._replace(terminated=False)
    kept = safety_summary([ended], episode_budget=25, episode_length=1000)
    broken = safety_summary([cut_off], episode_budget=25, episode_length=1000)
    assert (kept.policy_violations, kept.episode_violations, kept.cost_regret) == (0, 0, 0.0)
    assert (broken.policy_violations, broken.episode_violations) == (1, 1)
    assert broken.cost_regret == pytest.approx(10 - 2.5)


@given(records, st.data())
def test_terminating_never_adds_a_violation(
    episodes: list[EpisodeRecord], data: st.DataObject
) -> None:
    cut = [e._replace(steps=data.draw(st.integers(1, 1000)), terminated=False) for e in episodes]
    ended = [e._replace(terminated=data.draw(st.booleans())) for e in cut]
    before = safety_summary(cut, episode_budget=25, episode_length=1000)
    after = safety_summary(ended, episode_budget=25, episode_length=1000)
    assert after.policy_violations <= before.policy_violations
    assert after.episode_violations <= before.episode_violations
    assert after.cost_regret <= before.cost_regret


def test_no_episodes_yet() -> None:
    assert safety_summary([], episode_budget=25, episode_length=1000) == (0, 0, 0, 0, 0, 0, 0, 0)


@given(records, st.randoms())
def test_order_does_not_matter_and_counts_add_up(
    episodes: list[EpisodeRecord], random: object
) -> None:
    summary = safety_summary(episodes, episode_budget=25, episode_length=1000)
    shuffled = list(episodes)
    random.shuffle(shuffled)  # pyright: ignore[reportAttributeAccessIssue]
    again = safety_summary(shuffled, episode_budget=25, episode_length=1000)
    assert summary == again
    assert summary.episode_violations == sum(e.cost > 25 for e in episodes)
    assert summary.policy_violations <= min(summary.policies, summary.episode_violations)
    assert (summary.cost_regret > 0) == (summary.episode_violations > 0)


@given(records, st.floats(1, 50), st.floats(1, 50))
def test_a_larger_budget_is_never_violated_more(
    episodes: list[EpisodeRecord], a: float, b: float
) -> None:
    small = safety_summary(episodes, episode_budget=min(a, b), episode_length=1000)
    large = safety_summary(episodes, episode_budget=max(a, b), episode_length=1000)
    assert large.policy_violations <= small.policy_violations
    assert large.episode_violations <= small.episode_violations
    assert large.cost_regret <= small.cost_regret + 1e-9


@pytest.mark.parametrize(
    ("record", "name"),
    [
        (EpisodeRecord(0, -1.0, 0.0, 10), "cost"),
        (EpisodeRecord(0, math.nan, 0.0, 10), "cost"),
        (EpisodeRecord(0, 0.0, math.inf, 10), "episode_return"),
        (EpisodeRecord(0, 0.0, 0.0, 0), "steps"),
        (EpisodeRecord(0, 0.0, 0.0, 1001), "steps"),
    ],
)
def test_a_wrong_episode_is_named(record: EpisodeRecord, name: str) -> None:
    good = EpisodeRecord(0, 0.0, 0.0, 1000)
    with pytest.raises(ValueError, match=f"^{name} of episode 1: got"):
        safety_summary([good, record], episode_budget=25, episode_length=1000)


def test_wrong_settings_are_named() -> None:
    with pytest.raises(ValueError, match=r"^episode_budget: got"):
        safety_summary([], episode_budget=-1, episode_length=1000)
    with pytest.raises(ValueError, match=r"^episode_length: got"):
        safety_summary([], episode_budget=25, episode_length=0)


# ---- several costs -------------------------------------------------------------------------------


def record(iterate: int, *costs: float, steps: int = 1000) -> EpisodeRecord:
    return EpisodeRecord(iterate, sum(costs, 0.0), 0.0, steps, costs=costs)


vectors = st.lists(
    st.builds(
        record,
        st.integers(0, 3),
        *[st.integers(0, 40).map(float)] * 3,
        steps=st.integers(1, 1000),
    ),
    max_size=12,
)
budgets = st.lists(st.integers(1, 40).map(float), min_size=3, max_size=3)


def test_hand_counted_run_with_two_costs() -> None:
    episodes = [
        record(0, 30.0, 0.0),  # over in the first cost
        record(0, 20.0, 12.0),  # over in the second, but the iterate is over in neither
        record(1, 25.0, 10.0),  # the budgets themselves are allowed
        record(2, 0.0, 11.0),  # over in the second, and so is its iterate
        record(3, 27.0, 14.0),  # over in both: one violation
    ]
    summary = safety_summary(episodes, episode_budget=(25, 10), episode_length=1000)
    assert summary.policy_violations == 2
    assert summary.episode_violations == 4
    assert summary.cost_rate == pytest.approx((30 + 32 + 35 + 11 + 41) / 5000)
    assert summary.cost_regret == pytest.approx(5 + 2 + 1 + 2 + 4)
    assert summary.worst_episode_cost == 30.0


def test_negative_control_a_budget_of_the_sum_misses_violations() -> None:
    episodes = [record(0, 0.0, 11.0)]
    summed = [EpisodeRecord(e.iterate, e.cost, 0.0, e.steps) for e in episodes]
    each = safety_summary(episodes, episode_budget=(25, 10), episode_length=1000)
    total = safety_summary(summed, episode_budget=35, episode_length=1000)
    assert (each.policy_violations, each.episode_violations) == (1, 1)
    assert (total.policy_violations, total.episode_violations) == (0, 0)


@given(vectors, budgets, st.permutations(range(3)))
def test_the_order_of_the_constraints_does_not_matter(
    episodes: list[EpisodeRecord], budgets: list[float], order: list[int]
) -> None:
    permuted = [e._replace(costs=tuple(e.costs[i] for i in order)) for e in episodes]
    summary = safety_summary(episodes, episode_budget=budgets, episode_length=1000)
    again = safety_summary(
        permuted, episode_budget=[budgets[i] for i in order], episode_length=1000
    )
    assert again == summary


def test_negative_control_each_cost_has_its_own_budget() -> None:
    episodes = [record(0, 20.0, 5.0)]
    one, other = (
        safety_summary(episodes, episode_budget=budget, episode_length=1000)
        for budget in ((25, 10), (10, 25))
    )
    assert (one.episode_violations, other.episode_violations) == (0, 1)


@given(records, st.floats(1, 50))
def test_one_cost_is_the_vector_of_it(episodes: list[EpisodeRecord], budget: float) -> None:
    one = [e._replace(costs=(e.cost,)) for e in episodes]
    expected = safety_summary(episodes, episode_budget=budget, episode_length=1000)
    for given_budget in (budget, (budget,)):
        for given_episodes in (episodes, one):
            assert expected == safety_summary(
                given_episodes, episode_budget=given_budget, episode_length=1000
            )


@given(vectors, budgets, st.integers(0, 2), st.floats(0, 1))
def test_tightening_one_budget_never_lowers_a_count(
    episodes: list[EpisodeRecord], budgets: list[float], index: int, share: float
) -> None:
    tight = [share * b if i == index else b for i, b in enumerate(budgets)]
    before = safety_summary(episodes, episode_budget=budgets, episode_length=1000)
    after = safety_summary(episodes, episode_budget=tight, episode_length=1000)
    assert after.policy_violations >= before.policy_violations
    assert after.episode_violations >= before.episode_violations
    assert after.cost_regret >= before.cost_regret


@given(vectors, budgets)
def test_any_cost_alone_makes_a_violation(
    episodes: list[EpisodeRecord], budgets: list[float]
) -> None:
    """So there are as many as of the worst cost or more, and no more than of all together."""
    summary = safety_summary(episodes, episode_budget=budgets, episode_length=1000)
    alone = [
        safety_summary(
            [e._replace(cost=e.costs[i], costs=()) for e in episodes],
            episode_budget=budget,
            episode_length=1000,
        )
        for i, budget in enumerate(budgets)
    ]
    for name in ("policy_violations", "episode_violations"):
        counts = [getattr(one, name) for one in alone]
        assert max(counts) <= getattr(summary, name) <= sum(counts)
    assert summary.cost_regret == pytest.approx(sum(one.cost_regret for one in alone))
    assert summary.cost_rate == pytest.approx(sum(one.cost_rate for one in alone))
    assert summary.worst_episode_cost == max(one.worst_episode_cost for one in alone)


@pytest.mark.parametrize(
    ("costs", "budget"), [((1.0,), (25, 10)), ((), (25, 10)), ((1.0, 2.0), 25), ((1.0, 2.0), (25,))]
)
def test_another_number_of_costs_than_budgets_is_named(
    costs: tuple[float, ...], budget: float | tuple[float, ...]
) -> None:
    with pytest.raises(ValueError, match=r"^costs of episode 0: got \d; allowed \d, one for each"):
        safety_summary([record(0, *costs)], episode_budget=budget, episode_length=1000)


@pytest.mark.parametrize("wrong", [-1.0, math.nan, math.inf])
def test_one_wrong_cost_or_budget_of_several_is_named(wrong: float) -> None:
    episode = EpisodeRecord(0, 1.0, 0.0, 1000, costs=(1.0, wrong))
    with pytest.raises(ValueError, match=f"^cost of episode 0: got {wrong}"):
        safety_summary([episode], episode_budget=(25, 10), episode_length=1000)
    for budget in ((25, wrong), ()):
        with pytest.raises(ValueError, match=r"^episode_budget: got"):
            safety_summary([], episode_budget=budget, episode_length=1000)


# ---- the interval of a rate ----------------------------------------------------------------------


@given(st.integers(1, 300), st.floats(0.5, 0.999))
def test_interval_closed_forms_at_the_ends(trials: int, confidence: float) -> None:
    tail = (1 - confidence) / 2
    none, every = (violation_interval(k, trials, confidence=confidence) for k in (0, trials))
    assert none.lower == 0.0
    assert every.upper == 1.0
    assert none.upper == pytest.approx(1 - tail ** (1 / trials), abs=1e-9)
    assert every.lower == pytest.approx(tail ** (1 / trials), abs=1e-9)


@given(st.integers(0, 60), st.integers(1, 60))
def test_interval_agrees_with_scipy(violations: int, trials: int) -> None:
    stats = pytest.importorskip("scipy.stats")
    violations = min(violations, trials)
    expected = stats.binomtest(violations, trials).proportion_ci(0.95, method="exact")
    assert violation_interval(violations, trials) == pytest.approx(
        (expected.low, expected.high), abs=1e-9
    )


def test_interval_names_wrong_arguments() -> None:
    with pytest.raises(ValueError, match=r"^violations: got 3 of trials 2"):
        violation_interval(3, 2)
    with pytest.raises(ValueError, match=r"^confidence: got"):
        violation_interval(1, 2, confidence=1.0)
