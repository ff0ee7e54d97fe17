"""Safety metrics: policy and episode violations, cost rate, cost regret.

The budget d is the cost allowed per episode of T environment steps. All episodes since the first
environment step count, including the prefill.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple


class EpisodeRecord(NamedTuple):
    """Metrics of one episode.

    ``iterate`` numbers the policies: the policy between two phases of behaviour training is one
    iterate, and so is the prefill policy.
    """

    iterate: int
    cost: float  # undiscounted sum, >= 0; of several costs their sum
    episode_return: float  # undiscounted sum
    steps: int  # environment steps, 1 to episode_length
    fallback_steps: int = 0  # of these, steps in which a safe fallback replaced the policy
    terminated: bool = False  # whether the task ended it; else it was cut off
    costs: tuple[float, ...] = ()  # each of several costs; one alone is ``cost``

    @property
    def each_cost(self) -> tuple[float, ...]:
        """The costs ``[constraint]``, also of an episode with one."""
        return self.costs or (self.cost,)

    def budget(self, episode_budget: float | int, episode_length: int) -> float:
        """Return the cost this episode may have: all of the budget if it terminated.

        An episode that was cut off after n of T steps has its share, ``episode_budget * n / T``.
        """
        return episode_budget * (1.0 if self.terminated else self.steps / episode_length)


class SafetySummary(NamedTuple):
    """Safety of a run since its first environment step; see ``safety_summary``."""

    policy_violations: int
    episode_violations: int
    cost_rate: float  # cost per environment step
    cost_regret: float  # sum of the episodes' costs above their budgets
    environment_steps: int
    episodes: int
    policies: int
    worst_episode_cost: float


class Interval(NamedTuple):
    """A two-sided confidence interval."""

    lower: float
    upper: float


def safety_summary(
    episodes: Sequence[EpisodeRecord],
    *,
    episode_budget: float | int | Sequence[float | int],
    episode_length: int,
) -> SafetySummary:
    r"""Summarise how often and how far a run exceeded its budget.

    - policy violation: an iterate whose episodes' mean cost exceeds d. A constrained MDP limits
      this mean, so it is the main metric.
    - episode violation: a single episode whose cost exceeds d.
    - cost rate: total cost / total steps, to compare with d / T.
    - cost regret: :math:`\sum_e \max(0, C_e - d)`.

    An episode that terminated has the whole budget d: nothing more will come. One that was cut off
    after n < T steps has its share d * n / T: a short last episode must not make a run look safe.
    For an iterate, the sum of its episodes' costs is compared with the sum of their budgets; for
    whole episodes this compares the mean with d.

    With several costs, each with its budget, a violation is one of any of them. The cost rate is
    that of their sum, and the regret is summed over them.

    Args:
        episodes: every episode since the first step, in any order.
        episode_budget: d, cost allowed per ``episode_length`` steps, >= 0; with several costs
            ``[constraint]``.
        episode_length: T, environment steps of a whole episode, >= 1.

    Returns:
        The summary; all zero without episodes.

    Raises:
        ValueError: an argument is out of range, or an episode's cost is negative or not finite, its
            return not finite, its steps outside 1 to ``episode_length``, or its costs not one for
            each budget.

    Example:
        >>> episodes = [EpisodeRecord(0, 10.0, 1.0, 1000), EpisodeRecord(0, 30.0, 2.0, 1000)]
        >>> summary = safety_summary(episodes, episode_budget=25, episode_length=1000)
        >>> summary.policy_violations, summary.episode_violations, summary.cost_regret
        (0, 1, 5.0)
    """
    single = isinstance(episode_budget, (int, float))
    budgets = (episode_budget,) if single else tuple(episode_budget)
    if not budgets or not all(math.isfinite(budget) and budget >= 0 for budget in budgets):
        raise ValueError(
            f"episode_budget: got {episode_budget}; allowed finite and >= 0; change it"
        )
    if episode_length < 1:
        raise ValueError(
            f"episode_length: got {episode_length}; allowed 1 and above; give at least 1 step"
        )
    excess_of: dict[int, list[list[float]]] = {}  # of each iterate and episode: [constraint]
    for index, episode in enumerate(episodes):
        _check(index, episode, episode_length, len(budgets))
        excess = [
            cost - episode.budget(budget, episode_length)
            for cost, budget in zip(episode.each_cost, budgets, strict=True)
        ]
        excess_of.setdefault(episode.iterate, []).append(excess)
    excesses = [excess for group in excess_of.values() for excess in group]
    steps = sum(episode.steps for episode in episodes)
    return SafetySummary(
        policy_violations=sum(
            any(math.fsum(excess) > 0 for excess in zip(*group, strict=True))
            for group in excess_of.values()
        ),
        episode_violations=sum(max(excess) > 0 for excess in excesses),
        cost_rate=math.fsum(episode.cost for episode in episodes) / max(steps, 1),
        cost_regret=math.fsum(max(0.0, each) for excess in excesses for each in excess),
        environment_steps=steps,
        episodes=len(episodes),
        policies=len(excess_of),
        worst_episode_cost=float(max((max(e.each_cost) for e in episodes), default=0.0)),
    )


def violation_interval(violations: int, trials: int, *, confidence: float | int = 0.95) -> Interval:
    r"""Compute the exact (Clopper-Pearson) interval for the rate behind a count of violations.

    .. math::
        P(X \ge v \mid n, p_{lower}) = P(X \le v \mid n, p_{upper}) = (1 - \text{confidence}) / 2

    for a binomial X. If the trials are independent, it covers the true rate with at least the given
    probability: "no violation in 5 runs" still allows a rate of 0.52.

    Args:
        violations: number of trials with a violation, 0 to ``trials``.
        trials: number of trials, >= 1.
        confidence: coverage, in (0, 1).

    Returns:
        The interval, within [0, 1].

    Raises:
        ValueError: an argument is out of range.

    Example:
        >>> lower, upper = violation_interval(0, 5)
        >>> round(lower, 3), round(upper, 3)
        (0.0, 0.522)
    """
    if trials < 1 or not 0 <= violations <= trials:
        raise ValueError(
            f"violations: got {violations} of trials {trials}; allowed 0 <= violations <= trials "
            "and trials >= 1; check the counts"
        )
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence: got {confidence}; allowed in (0, 1); take 0.95")
    tail = (1.0 - confidence) / 2.0
    # P(X <= v) falls as the rate grows; each end of the interval is where it crosses a known level.
    lower = 0.0 if violations == 0 else _rate_at(violations - 1, trials, 1.0 - tail)
    upper = 1.0 if violations == trials else _rate_at(violations, trials, tail)
    return Interval(lower, upper)


def _rate_at(count: int, trials: int, level: float) -> float:
    """Find the rate p at which P(X <= count) equals ``level``, by bisection to the last digit."""
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2.0
        low, high = (middle, high) if _cdf(count, trials, middle) > level else (low, middle)
    return (low + high) / 2.0


def _cdf(count: int, trials: int, rate: float) -> float:
    """Compute P(X <= count) of a binomial, for a rate strictly between 0 and 1."""
    log_rate, log_rest, log_all = math.log(rate), math.log1p(-rate), math.lgamma(trials + 1)
    return math.fsum(
        math.exp(
            log_all
            - math.lgamma(k + 1)
            - math.lgamma(trials - k + 1)
            + k * log_rate
            + (trials - k) * log_rest
        )
        for k in range(count + 1)
    )


def _check(index: int, episode: EpisodeRecord, episode_length: int, constraints: int) -> None:
    if len(episode.each_cost) != constraints:
        raise ValueError(
            f"costs of episode {index}: got {len(episode.each_cost)}; allowed {constraints}, one "
            "for each budget; give as many budgets as costs"
        )
    for cost in (episode.cost, *episode.costs):
        if not (math.isfinite(cost) and cost >= 0):
            raise ValueError(
                f"cost of episode {index}: got {cost}; allowed finite and >= 0; "
                "check the environment"
            )
    if not math.isfinite(episode.episode_return):
        raise ValueError(
            f"episode_return of episode {index}: got {episode.episode_return}; allowed finite; "
            "check the environment"
        )
    if not 1 <= episode.steps <= episode_length:
        raise ValueError(
            f"steps of episode {index}: got {episode.steps}; allowed 1 to episode_length "
            f"{episode_length}; count environment steps, not decisions"
        )
