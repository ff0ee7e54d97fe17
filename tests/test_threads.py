import threading
import time
from collections.abc import Iterator

import pytest
import torch
from torch import nn

from blocks.acceleration.threads import in_background, set_threads, side_by_side


@pytest.fixture(autouse=True)
def one_thread_afterwards() -> Iterator[None]:
    yield
    set_threads(1)


def test_two_functions_run_at_the_same_time() -> None:
    set_threads(2)
    meeting = threading.Barrier(2, timeout=20)  # passed only by two at once
    places = side_by_side(meeting.wait, meeting.wait)
    assert sorted(places) == [0, 1]


def test_one_thread_runs_one_after_the_other_on_the_calling_thread() -> None:
    assert side_by_side(threading.get_ident, threading.get_ident) == (threading.get_ident(),) * 2


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_results_come_in_order_also_of_more_functions_than_threads(threads: int) -> None:
    set_threads(threads)
    assert side_by_side(*(lambda n=n: n for n in range(7))) == tuple(range(7))


@pytest.mark.parametrize("threads", [1, 2])
def test_no_function_is_no_result(threads: int) -> None:
    set_threads(threads)
    assert side_by_side() == ()


def test_two_backward_passes_may_add_to_one_gradient() -> None:
    weight = nn.Parameter(torch.randn(300, 300))
    losses = [(weight * torch.randn(300, 300)).sin().sum() for _ in range(2)]
    expected = sum(torch.autograd.grad(x, weight, retain_graph=True)[0] for x in losses)
    set_threads(2)
    for _ in range(20):
        weight.grad = None
        side_by_side(*(lambda x=x: x.backward(retain_graph=True) for x in losses))
        assert torch.equal(weight.grad, expected)


@pytest.mark.parametrize("threads", [2, 3])
def test_functions_may_call_side_by_side_themselves(threads: int) -> None:
    set_threads(threads)

    def inner(start: int) -> tuple[int, ...]:
        return side_by_side(*(lambda n=n: n for n in range(start, start + 3)))

    assert side_by_side(*(lambda n=n: inner(n) for n in range(4))) == tuple(
        (n, n + 1, n + 2) for n in range(4)
    )


@pytest.mark.parametrize("failing", [0, 1])
def test_an_error_arrives_after_all_have_ended(failing: int) -> None:
    set_threads(2)
    failed, ended = threading.Event(), threading.Event()

    def fail() -> None:
        failed.set()
        raise ZeroDivisionError("one of them")

    def end_later() -> None:
        assert failed.wait(20)
        time.sleep(0.2)
        ended.set()

    functions = [fail, end_later] if failing == 0 else [end_later, fail]
    with pytest.raises(ZeroDivisionError, match="one of them"):
        side_by_side(*functions)
    assert ended.is_set()


@pytest.mark.parametrize("enabled", [True, False])
def test_all_functions_see_the_callers_grad_mode(enabled: bool) -> None:
    set_threads(2)
    with torch.set_grad_enabled(enabled):
        assert side_by_side(torch.is_grad_enabled, torch.is_grad_enabled) == (enabled, enabled)


def test_gradients_of_one_graph_are_the_same_to_the_bit_on_any_number_of_threads() -> None:
    torch.manual_seed(0)
    layers = nn.Sequential(*(nn.Linear(64, 64) for _ in range(6)))
    parameters = list(layers.parameters())
    hidden = layers(torch.randn(32, 64)).tanh()

    def gradient(value: torch.Tensor) -> list[torch.Tensor]:
        return list(torch.autograd.grad(value, parameters, retain_graph=True))

    def both() -> list[torch.Tensor]:
        values = hidden.sum(), hidden.square().sum()
        first, second = side_by_side(*(lambda v=v: gradient(v) for v in values))
        return [*first, *second]

    alone = both()
    set_threads(2)
    for _ in range(20):
        for one, other in zip(alone, both(), strict=True):
            assert torch.equal(one, other)


def test_no_thread_at_all_is_refused() -> None:
    with pytest.raises(ValueError, match=r"count: got 0; .* at least 1 thread"):
        set_threads(0)


def test_in_background_the_caller_goes_on() -> None:
    """With a thread to spare it runs beside the caller; the result and the error wait for it."""
    begun, may_end = threading.Event(), threading.Event()

    def work() -> str:
        begun.set()
        assert may_end.wait(10)
        return "done"

    set_threads(2)
    try:
        result = in_background(work)
        assert begun.wait(10)
        may_end.set()
        assert result() == "done"
        failed = in_background(lambda: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            failed()
    finally:
        set_threads(1)


def test_without_threads_the_background_is_now() -> None:
    calls: list[str] = []
    result = in_background(lambda: calls.append("called"))
    assert calls == ["called"]
    assert result() is None
