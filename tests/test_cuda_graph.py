"""Gradients that are known beforehand, and recorded functions where there is no GPU to record.

What a GPU makes of them is tested by `test_recorded_updates_are_those_that_were_not`.
"""

import threading

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from blocks import Graphed, set_threads, side_by_side, with_gradient
from blocks.acceleration.threads import one_after_another


@given(seed=st.integers(0, 2**31), upstream=st.floats(-3, 3))
def test_a_known_gradient_is_what_autograd_finds(seed: int, upstream: float) -> None:
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Linear(3, 4), nn.SiLU(), nn.Linear(4, 1)).double()
    parameters = list(network.parameters())
    value = network(torch.randn(5, 3, dtype=torch.float64)).mean()
    parts = torch.autograd.grad(value, parameters, retain_graph=True)
    flat = torch.cat([part.flatten() for part in parts])
    known = with_gradient(value, flat, parameters)
    assert known.item() == value.item()
    found = torch.autograd.grad(upstream * known, parameters)
    expected = torch.autograd.grad(upstream * value, parameters)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs)


@given(seed=st.integers(0, 2**31), size=st.integers(1, 4))
def test_known_gradients_of_a_vector_are_what_autograd_finds(seed: int, size: int) -> None:
    """Of each entry, as an optimiser of several constraints asks, and of any mixture."""
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Linear(3, 4), nn.SiLU(), nn.Linear(4, size)).double()
    parameters = list(network.parameters())
    values = network(torch.randn(5, 3, dtype=torch.float64)).mean(0)

    def gradient(value: Tensor) -> Tensor:
        parts = torch.autograd.grad(value, parameters, retain_graph=True)
        return torch.cat([part.flatten() for part in parts])

    rows = torch.stack([gradient(value) for value in values])
    known = with_gradient(values, rows, parameters)
    assert torch.equal(known, values)
    for entry, row in zip(known, rows, strict=True):
        torch.testing.assert_close(gradient(entry), row)
    mixture = torch.randn(size, dtype=torch.float64)
    torch.testing.assert_close(gradient(mixture @ known), gradient(mixture @ values))
    torch.testing.assert_close(gradient(known.square().sum()), gradient(values.square().sum()))


def test_the_value_s_own_graph_is_not_gone_through() -> None:
    """It may have been changed in place since."""
    x = nn.Parameter(torch.tensor([2.0]))
    value = (x**2).sum()
    known = with_gradient(value, torch.tensor([7.0]), [x])
    with torch.no_grad():
        x.mul_(3)
    known.backward()
    assert x.grad is not None
    assert x.grad.item() == 7.0


def test_a_gradient_of_another_size_is_refused() -> None:
    x = nn.Parameter(torch.zeros(3))
    with pytest.raises(ValueError, match=r"gradient: got shape \[4\]; .* 3 entries"):
        with_gradient(torch.tensor(1.0), torch.zeros(4), [x])


@pytest.mark.parametrize(
    ("value", "gradient", "message"),
    [
        ((2,), (3,), r"gradient: got shape \[3\]; allowed \[2, 3\]"),
        ((2,), (3, 3), r"gradient: got shape \[3, 3\]; allowed \[2, 3\]"),
        ((2,), (2, 4), r"gradient: got shape \[2, 4\]; allowed \[2, 3\], .* 3 entries"),
        ((), (1, 3), r"gradient: got shape \[1, 3\]; allowed \[3\]"),
        ((2, 2), (2, 2, 3), r"value: got shape \[2, 2\]; allowed a scalar or a vector"),
    ],
)
def test_gradients_that_do_not_fit_the_values_are_refused(
    value: tuple[int, ...], gradient: tuple[int, ...], message: str
) -> None:
    x = nn.Parameter(torch.zeros(3))
    with pytest.raises(ValueError, match=f"^{message}"):
        with_gradient(torch.zeros(value), torch.zeros(gradient), [x])


def test_on_the_cpu_a_recorded_function_is_called_each_time_and_gives_no_gradient() -> None:
    calls: list[Tensor] = []

    def function(x: Tensor) -> tuple[Tensor, Tensor]:
        calls.append(x)
        return 2 * x, x.sum()

    graphed = Graphed(function)
    inputs = [torch.full((2,), float(i), requires_grad=True) for i in range(6)]
    outputs = [graphed(x) for x in inputs]
    assert len(calls) == len(inputs)
    for x, (double, total) in zip(inputs, outputs, strict=True):
        torch.testing.assert_close(double, 2 * x.detach())
        assert not double.requires_grad
        assert total == x.detach().sum()


def test_one_after_another_keeps_to_its_thread_and_ends() -> None:
    """Another thread's operations would not be recorded."""

    def threads() -> int:
        barrier = threading.Barrier(2, timeout=5)

        def meet() -> int:
            barrier.wait()
            return threading.get_ident()

        return len(set(side_by_side(meet, meet)))

    set_threads(2)
    try:
        assert threads() == 2
        with one_after_another(), one_after_another():
            names = side_by_side(threading.get_ident, threading.get_ident)
            assert set(names) == {threading.get_ident()}
        assert threads() == 2
    finally:
        set_threads(1)
