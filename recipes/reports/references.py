"""Published figures on Safety-Gymnasium tasks: what scores are normalised by, and for orientation.

Sources: OmniSafe, Table 2 of benchmarks/on-policy/README.md (commit 2bfe8f6: observations are
vectors, 1e7 environment steps, cost limit 25); LAMBDA (arXiv 2201.09802: 64x64 images, 1e6 steps,
cost limit 25).
"""

from typing import NamedTuple


class Published(NamedTuple):
    """Undiscounted return and cost per episode, after training."""

    episode_return: float
    episode_cost: float


SG6 = tuple(
    f"Safety{name}-v0"
    for name in ("PointGoal1", "PointGoal2", "CarGoal1", "PointPush1", "PointButton1", "DoggoGoal1")
)
"""The six tasks on which LAMBDA was published."""

UNCONSTRAINED_PPO = {
    "SafetyPointGoal1-v0": Published(25.44, 55.72),
    "SafetyPointGoal2-v0": Published(25.49, 159.28),
    "SafetyCarGoal1-v0": Published(33.41, 58.06),
    "SafetyPointButton1-v0": Published(27.03, 152.48),
    "SafetyHalfCheetahVelocity-v1": Published(6921.83, 919.20),
}
"""What scores are normalised by. OmniSafe has no figures for PointPush1 and DoggoGoal1."""

METHODS: dict[str, dict[str, Published]] = {
    "PPO-Lag, OmniSafe, 10M steps": {
        "SafetyPointGoal1-v0": Published(12.96, 25.80),
        "SafetyPointGoal2-v0": Published(1.98, 41.20),
        "SafetyCarGoal1-v0": Published(13.27, 21.72),
        "SafetyPointButton1-v0": Published(4.60, 20.80),
        "SafetyHalfCheetahVelocity-v1": Published(2946.15, 3.44),
    },
    "TRPO-Lag, OmniSafe, 10M steps": {
        "SafetyPointGoal1-v0": Published(18.51, 22.98),
        "SafetyPointGoal2-v0": Published(4.64, 26.00),
        "SafetyCarGoal1-v0": Published(27.04, 26.80),
        "SafetyPointButton1-v0": Published(6.93, 31.16),
        "SafetyHalfCheetahVelocity-v1": Published(2884.68, 9.04),
    },
    "CPO, OmniSafe, 10M steps": {
        "SafetyPointGoal1-v0": Published(20.46, 28.84),
        "SafetyPointGoal2-v0": Published(2.50, 40.84),
        "SafetyCarGoal1-v0": Published(25.52, 43.32),
        "SafetyPointButton1-v0": Published(4.04, 40.00),
        "SafetyHalfCheetahVelocity-v1": Published(2786.48, 4.70),
    },
    "LAMBDA, from images, 1M steps": {
        "SafetyPointGoal1-v0": Published(18.8, 11.2),
        "SafetyPointGoal2-v0": Published(13.3, 9.1),
        "SafetyCarGoal1-v0": Published(16.7, 23.1),
        "SafetyPointPush1-v0": Published(0.3, 21.4),
        "SafetyPointButton1-v0": Published(5.4, 21.7),
        "SafetyDoggoGoal1-v0": Published(5.9, 11.4),
    },
}


def published(task: str) -> dict[str, Published]:
    """What published methods reach on a task, unconstrained PPO last."""
    found = {name: figures[task] for name, figures in METHODS.items() if task in figures}
    if task in UNCONSTRAINED_PPO:
        found["unconstrained PPO, OmniSafe, 10M steps"] = UNCONSTRAINED_PPO[task]
    return found


def normalised_return(task: str, episode_return: float) -> float | None:
    """Return over unconstrained PPO's, as in the Safety Gym paper; None without a reference."""
    reference = UNCONSTRAINED_PPO.get(task)
    return episode_return / reference.episode_return if reference else None


def normalised_violation(task: str, episode_cost: float, episode_budget: float) -> float | None:
    """Cost beyond the budget, over unconstrained PPO's; 0 within the budget, None without it."""
    reference = UNCONSTRAINED_PPO.get(task)
    if reference is None or reference.episode_cost <= episode_budget:
        return None
    excess = max(0.0, episode_cost - episode_budget)
    return excess / (reference.episode_cost - episode_budget)
