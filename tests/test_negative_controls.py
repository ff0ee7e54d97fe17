"""Every law must be able to fail: with a wrong block in the right one's place, its test does."""

import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any, NamedTuple

import pytest
import test_aggregators as aggregators
import test_barrier as barrier
import test_lbsgd as lbsgd
import test_returns as returns
import torch
from hypothesis import Phase, settings
from torch import Tensor

import blocks.optimizers.lbsgd
from blocks.optimizers.barrier import log_barrier
from blocks.optimizers.step_size import lbsgd_step_size, safe_step_length
from blocks.returns import discounted_budget, lambda_returns


class Mutant(NamedTuple):
    """A law, and a wrong block that it must refuse."""

    law: Callable[..., None]
    wrong: Callable[..., Any]
    replaces: str | None = None  # a name in the law's module; None: the law's first argument
    module: ModuleType | None = None  # where the name is looked up, if not there
    arguments: tuple[Any, ...] = ()  # of the law


def shifted(values: Tensor) -> Tensor:
    """The value of the state itself where that of the next one belongs."""
    return torch.cat([values[:1], values[:-1]])


def clipped_barrier(objective: Tensor, slack: Tensor, *, eta: float) -> Tensor:
    return objective + eta * slack.clamp(min=1e-6).log().sum()


def bare_barrier(objective: Tensor, slack: Tensor, *, eta: float) -> Tensor:
    return objective + eta * slack.log().sum()


def repelled_barrier(objective: Tensor, slack: Tensor, *, eta: float) -> Tensor:
    return objective - eta * slack.log().sum()


def restless_barrier(objective: Tensor, slack: Tensor, *, eta: float) -> Tensor:
    return log_barrier(objective, slack, eta=eta + 0.1)


def rule_without_the_norm(slack: Tensor, slope: Tensor, _norm: Any, **constants: Any) -> Tensor:
    return lbsgd_step_size(slack, slope, 1.0, **constants)


def rule_that_trusts_no_small_slack(
    slack: Tensor, slope: Tensor, norm: Any, **constants: Any
) -> Tensor:
    return lbsgd_step_size(slack.clamp(min=1e-3), slope, norm, **constants)


MUTANTS = {
    "worst case is the mean": Mutant(
        aggregators.test_the_worst_case_bounds_cvar_bounds_the_mean, aggregators.mean, "worst_case"
    ),
    "worst case is the mean, coverage": Mutant(
        aggregators.test_the_worst_case_covers_as_order_statistics_predict,
        aggregators.mean,
        "worst_case",
        arguments=(5,),
    ),
    "first member": Mutant(
        aggregators.test_the_order_of_members_does_not_matter,
        lambda values, dim=0: values.select(dim, 0),
    ),
    "shrunk to zero": Mutant(
        aggregators.test_one_member_is_itself,
        lambda values, dim=0: values.sum(dim) / (values.shape[dim] + 1),
    ),
    "largest in size": Mutant(
        aggregators.test_a_shift_passes_through, lambda values, dim=0: values.abs().amax(dim)
    ),
    "best share": Mutant(
        aggregators.test_cvar_falls_as_alpha_grows,
        lambda values, alpha: values.sort().values[: max(1, int(alpha * len(values)))].mean(),
        "cvar",
    ),
    "finite outside": Mutant(
        barrier.test_finite_exactly_where_every_slack_is_positive, clipped_barrier, "log_barrier"
    ),
    "NaN outside": Mutant(
        barrier.test_no_gradient_is_ever_nan_and_outside_it_is_zero, bare_barrier, "log_barrier"
    ),
    "pushed outward": Mutant(
        barrier.test_the_gradient_points_inward, repelled_barrier, "log_barrier"
    ),
    "eta never vanishes": Mutant(
        barrier.test_it_tends_to_the_objective_as_eta_vanishes, restless_barrier, "log_barrier"
    ),
    "no 1 / |g|, feasibility": Mutant(
        lbsgd.test_every_step_leaves_half_of_every_slack,
        rule_without_the_norm,
        "lbsgd_step_size",
        blocks.optimizers.lbsgd,
        ("gradient",),
    ),
    "no 1 / |g|, units": Mutant(
        lbsgd.test_the_rule_does_not_depend_on_units, rule_without_the_norm, "lbsgd_step_size"
    ),
    "three times the safe length": Mutant(
        lbsgd.test_every_step_leaves_half_of_every_slack,
        lambda *arguments, **constants: 3 * safe_step_length(*arguments, **constants),
        "safe_step_length",
        blocks.optimizers.lbsgd,
        ("adam",),
    ),
    "slack not below a thousandth": Mutant(
        lbsgd.test_the_step_shrinks_to_nothing_with_any_slack,
        rule_that_trusts_no_small_slack,
        "lbsgd_step_size",
    ),
    "values one step early": Mutant(
        returns.test_equals_the_mixture_of_all_n_step_returns,
        lambda rewards, values, **options: lambda_returns(rewards, shifted(values), **options),
        "lambda_returns",
    ),
    "undiscounted": Mutant(
        returns.test_discount_zero_leaves_the_reward,
        lambda rewards, values, discount, lambda_: lambda_returns(
            rewards, values, discount=1.0, lambda_=lambda_
        ),
        "lambda_returns",
    ),
    "lambda always one": Mutant(
        returns.test_lambda_zero_is_the_one_step_target,
        lambda rewards, values, discount, lambda_: lambda_returns(
            rewards, values, discount=discount, lambda_=1.0
        ),
        "lambda_returns",
    ),
    "lambda never one": Mutant(
        returns.test_lambda_one_is_the_discounted_sum,
        lambda rewards, values, discount, lambda_: lambda_returns(
            rewards, values, discount=discount, lambda_=0.9
        ),
        "lambda_returns",
    ),
    "budget without action repeat": Mutant(
        returns.test_the_constraint_does_not_depend_on_the_action_repeat,
        lambda budget, length, discount, _repeat: discounted_budget(budget, length, discount),
        "discounted_budget",
    ),
}


@pytest.fixture(autouse=True)
def first_failure() -> Iterator[None]:
    """A failure is enough: the smallest one is not looked for, but one for as long as it takes."""
    current = settings.get_current_profile_name()
    settings.register_profile("first", settings(), phases=[Phase.generate], max_examples=2000)
    settings.load_profile("first")
    yield
    settings.load_profile(current)


@pytest.mark.parametrize("mutant", MUTANTS.values(), ids=MUTANTS)
def test_a_wrong_block_makes_its_law_fail(mutant: Mutant, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = mutant.arguments
    if mutant.replaces is None:
        arguments = (mutant.wrong, *arguments)
    else:
        home = mutant.module or sys.modules[mutant.law.__module__]
        monkeypatch.setattr(home, mutant.replaces, mutant.wrong)
    # Hypothesis groups the failures where a law fails in several ways.
    with pytest.raises((AssertionError, ExceptionGroup)) as caught:
        mutant.law(*arguments)
    failures = getattr(caught.value, "exceptions", [caught.value])
    assert all(isinstance(failure, AssertionError) for failure in failures)
