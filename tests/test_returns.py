import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from blocks.returns import discounted_budget, lambda_returns

unit = st.floats(0.0, 1.0)
horizons = st.integers(1, 8)
seeds = st.integers(0, 2**16)


def trajectory(horizon: int, seed: int, batch: tuple[int, ...] = (3, 2)) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    rewards = torch.randn(horizon, *batch, generator=generator, dtype=torch.float64)
    values = torch.randn(horizon + 1, *batch, generator=generator, dtype=torch.float64)
    return rewards, values


def mixture_of_n_step_returns(
    rewards: Tensor, values: Tensor, discount: float, lambda_: float
) -> Tensor:
    """The definition, without recursion: sum_n (1 - lambda) lambda^(n-1) G^(n), the rest last."""
    horizon = len(rewards)
    result = torch.zeros_like(rewards)
    for start in range(horizon):
        longest = horizon - start
        for n in range(1, longest + 1):
            n_step = sum(
                (discount**k * rewards[start + k] for k in range(n)),
                start=discount**n * values[start + n],
            )
            last = n == longest
            weight = lambda_ ** (n - 1) * (1.0 if last else 1.0 - lambda_)
            result[start] += weight * n_step
    return result


@given(horizons, seeds, unit, unit)
def test_equals_the_mixture_of_all_n_step_returns(
    horizon: int, seed: int, discount: float, lambda_: float
) -> None:
    rewards, values = trajectory(horizon, seed)
    expected = mixture_of_n_step_returns(rewards, values, discount, lambda_)
    actual = lambda_returns(rewards, values, discount=discount, lambda_=lambda_)
    torch.testing.assert_close(actual, expected)


@given(horizons, seeds, unit)
def test_discount_zero_leaves_the_reward(horizon: int, seed: int, lambda_: float) -> None:
    rewards, values = trajectory(horizon, seed)
    torch.testing.assert_close(
        lambda_returns(rewards, values, discount=0, lambda_=lambda_), rewards
    )


@given(horizons, seeds, unit)
def test_lambda_zero_is_the_one_step_target(horizon: int, seed: int, discount: float) -> None:
    rewards, values = trajectory(horizon, seed)
    actual = lambda_returns(rewards, values, discount=discount, lambda_=0)
    torch.testing.assert_close(actual, rewards + discount * values[1:])


@given(horizons, seeds, unit)
def test_lambda_one_is_the_discounted_sum(horizon: int, seed: int, discount: float) -> None:
    rewards, values = trajectory(horizon, seed)
    actual = lambda_returns(rewards, values, discount=discount, lambda_=1)
    powers = discount ** torch.arange(horizon, dtype=torch.float64)
    expected = torch.einsum("t,t...->...", powers, rewards) + discount**horizon * values[-1]
    torch.testing.assert_close(actual[0], expected)


@given(horizons, seeds, st.floats(0.0, 0.99), unit)
def test_true_values_are_a_fixed_point(
    horizon: int, seed: int, discount: float, lambda_: float
) -> None:
    """Where values[t] = r[t] + discount * values[t + 1], every mixture returns the values."""
    rewards, values = trajectory(horizon, seed)
    for step in reversed(range(horizon)):
        values[step] = rewards[step] + discount * values[step + 1]
    actual = lambda_returns(rewards, values, discount=discount, lambda_=lambda_)
    torch.testing.assert_close(actual, values[:-1])


@given(horizons, seeds, unit)
def test_a_tensor_of_discounts_cuts_the_return_where_an_episode_ends(
    horizon: int, seed: int, lambda_: float
) -> None:
    rewards, values = trajectory(horizon, seed)
    discounts = torch.full_like(rewards, 0.9)
    discounts[horizon // 2] = 0.0
    cut = lambda_returns(rewards, values, discount=discounts, lambda_=lambda_)
    torch.testing.assert_close(cut[horizon // 2], rewards[horizon // 2])
    same = lambda_returns(rewards, values, discount=torch.full_like(rewards, 0.9), lambda_=lambda_)
    torch.testing.assert_close(same, lambda_returns(rewards, values, discount=0.9, lambda_=lambda_))


def test_gradients_reach_rewards_and_values_but_not_the_start_value() -> None:
    rewards, values = (tensor.requires_grad_() for tensor in trajectory(4, 0))
    assert torch.autograd.gradcheck(
        lambda r, v: lambda_returns(r, v, discount=0.9, lambda_=0.8), (rewards, values)
    )
    lambda_returns(rewards, values, discount=0.9, lambda_=0.8).sum().backward()
    assert values.grad is not None
    assert not values.grad[0].any()
    assert values.grad[1:].all()


@pytest.mark.parametrize("shape", [(3, 2), (5, 2), (4, 3), (4,)])
def test_values_of_a_wrong_shape_are_named(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="values: got shape"):
        lambda_returns(torch.zeros(3, 2), torch.zeros(shape), discount=0.9, lambda_=0.9)


def constant_cost_return(rate: float, action_repeat: int, discount: float) -> float:
    """Discounted cost return of a policy that costs `rate` per environment step, simulated."""
    total, environment_step, weight = 0.0, 0, 1.0
    while weight > 1e-14:
        summed_over_repeat = 0.0
        for _ in range(action_repeat):
            summed_over_repeat += rate
            environment_step += 1
        total += weight * summed_over_repeat
        weight *= discount
    return total


@given(
    st.floats(1.0, 100.0),
    st.integers(100, 2000),
    st.floats(0.5, 0.99),
    st.integers(1, 8),
)
def test_the_constraint_does_not_depend_on_the_action_repeat(
    budget: float, length: int, discount: float, action_repeat: int
) -> None:
    """A policy that spends exactly its episode budget meets the discounted one exactly."""
    spent = constant_cost_return(budget / length, action_repeat, discount)
    allowed = discounted_budget(budget, length, discount, action_repeat)
    assert spent == pytest.approx(allowed, rel=1e-9)


def test_budget_without_the_action_repeat_would_fail_that_law() -> None:
    spent = constant_cost_return(25 / 1000, action_repeat=2, discount=0.99)
    assert spent == pytest.approx(2 * discounted_budget(25, 1000, 0.99, action_repeat=1))


def test_the_usual_budget() -> None:
    assert discounted_budget() == pytest.approx(2.5)
    assert discounted_budget(25, 1000, 0.0) == pytest.approx(0.025)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"episode_budget": 0}, "episode_budget"),
        ({"episode_budget": -1.0}, "episode_budget"),
        ({"episode_budget": math.nan}, "episode_budget"),
        ({"discount": 1.0}, "discount"),
        ({"discount": -0.1}, "discount"),
        ({"episode_length": 0}, "episode_length"),
        ({"action_repeat": 0}, "action_repeat"),
    ],
)
def test_a_wrong_argument_is_named(arguments: dict[str, float], name: str) -> None:
    with pytest.raises(ValueError, match=f"^{name}: got"):
        discounted_budget(**arguments)  # pyright: ignore[reportArgumentType]
