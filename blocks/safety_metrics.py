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
    cost: float  # undiscounted sum, >= 0
    episode_return: float  # undiscounted sum
    steps: int  # environment steps, 1 to episode_length
    fallback_steps: int = 0  # of these, steps in which a safe fallback replaced the policy
    terminated: bool = False  # whether the task ended it; else it was cut off

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
    episodes: Sequence[EpisodeRecord], *, episode_budget: float | int, episode_length: int
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

    Args:
        episodes: every episode since the first step, in any order.
        episode_budget: d, cost allowed per ``episode_length`` steps, >= 0.
        episode_length: T, environment steps of a whole episode, >= 1.

    Returns:
        The summary; all zero without episodes.

    Raises:
        ValueError: an argument is out of range, or an episode's cost is negative or not finite, its
            return not finite, or its steps outside 1 to ``episode_length``.

    Example:
        >>> episodes = [EpisodeRecord(0, 10.0, 1.0, 1000), EpisodeRecord(0, 30.0, 2.0, 1000)]
        >>> summary = safety_summary(episodes, episode_budget=25, episode_length=1000)
        >>> summary.policy_violations, summary.episode_violations, summary.cost_regret
        (0, 1, 5.0)
    """
    if not (math.isfinite(episode_budget) and episode_budget >= 0):
        raise ValueError(
            f"episode_budget: got {episode_budget}; allowed finite and >= 0; change it"
        )
    if episode_length < 1:
        raise ValueError(
            f"episode_length: got {episode_length}; allowed 1 and above; give at least 1 step"
        )
    excess_of: dict[int, list[float]] = {}
    for index, episode in enumerate(episodes):
        _check(index, episode, episode_length)
        excess = episode.cost - episode.budget(episode_budget, episode_length)
        excess_of.setdefault(episode.iterate, []).append(excess)
    excesses = [excess for group in excess_of.values() for excess in group]
    steps = sum(episode.steps for episode in episodes)
    return SafetySummary(
        policy_violations=sum(math.fsum(group) > 0 for group in excess_of.values()),
        episode_violations=sum(excess > 0 for excess in excesses),
        cost_rate=math.fsum(episode.cost for episode in episodes) / max(steps, 1),
        cost_regret=math.fsum(max(0.0, excess) for excess in excesses),
        environment_steps=steps,
        episodes=len(episodes),
        policies=len(excess_of),
        worst_episode_cost=float(max((episode.cost for episode in episodes), default=0.0)),
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


def _check(index: int, episode: EpisodeRecord, episode_length: int) -> None:
    if not (math.isfinite(episode.cost) and episode.cost >= 0):
        raise ValueError(
            f"cost of episode {index}: got {episode.cost}; allowed finite and >= 0; "
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
