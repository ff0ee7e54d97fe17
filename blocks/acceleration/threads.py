"""Independent computations on several threads; results are bit-identical.

Most operations here are too small for torch to split over cores, but several parts of an update are
independent: the gradients of objective and constraint, the losses of filter and members, the
critics of reward and cost. ``side_by_side`` runs them on separate threads. Torch releases Python's
lock inside its operations and for a whole backward pass, so the threads hardly wait for each other.
Results do not depend on the number of threads.
"""

import threading
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import TypeVar, overload

import torch

First = TypeVar("First")
Rest = TypeVar("Rest")

_worker = threading.local()
_executor: ThreadPoolExecutor | None = None


def set_threads(count: int) -> None:
    """Set the number of threads of ``side_by_side``, including the calling one.

    One (the default) runs the functions one after the other. Torch's threads within an operation
    are separate: with more than one here, use ``torch.set_num_threads(1)``.

    Args:
        count: number of threads, >= 1.

    Raises:
        ValueError: ``count`` is below 1.
    """
    global _executor
    if count < 1:
        raise ValueError(f"count: got {count}; allowed 1 and above; give at least 1 thread")
    if _executor:
        _executor.shutdown()
    _executor = ThreadPoolExecutor(count - 1, "side_by_side", _enter) if count > 1 else None


@overload
def side_by_side(
    first: Callable[[], First], /, *rest: Callable[[], Rest]
) -> tuple[First, *tuple[Rest, ...]]: ...
@overload
def side_by_side() -> tuple[()]: ...
def side_by_side(*functions: Callable[[], object]) -> tuple[object, ...]:
    """Call all functions, on several threads if ``set_threads`` allows, and return their results.

    The functions may read shared data, including one autograd graph, but not write to it. At most
    two of them may add to the same ``.grad``, and only to an empty one: a sum of three depends on
    its order. At most one may use Pyro, whose handlers are global. Draw random numbers before the
    call, because the functions run in no fixed order. Of torch's per-thread state only the grad
    mode is passed on (not autocast or inference mode).

    Args:
        *functions: called without arguments, the first on the calling thread.

    Returns:
        Their results, in the order of the functions.

    Raises:
        Exception: that of the first function that failed, after all have ended.

    Example:
        >>> side_by_side(lambda: 1 + 1, lambda: "two")
        (2, 'two')
    """
    if not functions or _executor is None or hasattr(_worker, "entered"):
        return tuple(function() for function in functions)
    grad_enabled = torch.is_grad_enabled()  # torch keeps it per thread
    first, *others = functions
    futures = [_executor.submit(_call, function, grad_enabled) for function in others]
    try:
        result = first()
    finally:
        wait(futures)
    return result, *(future.result() for future in futures)


def in_background(function: Callable[[], object]) -> Callable[[], object]:
    """Start a function on another thread if ``set_threads`` allows, otherwise call it now.

    What holds for the functions of ``side_by_side`` holds for it and for what the caller does
    meanwhile.

    Args:
        function: called without arguments.

    Returns:
        A function that waits for the result and returns it, or raises the function's exception.

    Example:
        >>> wait_for_sum = in_background(lambda: 1 + 1)
        >>> wait_for_sum()
        2
    """
    if _executor is None or hasattr(_worker, "entered"):
        result = function()
        return lambda: result
    return _executor.submit(_call, function, torch.is_grad_enabled()).result


@contextmanager
def one_after_another() -> Generator[None, None, None]:
    """Keep ``side_by_side`` on the calling thread, because CUDA streams are per thread."""
    entered = hasattr(_worker, "entered")
    _enter()
    try:
        yield
    finally:
        if not entered:
            del _worker.entered


def _enter() -> None:
    _worker.entered = True


def _call(function: Callable[[], object], grad_enabled: bool) -> object:
    with torch.set_grad_enabled(grad_enabled):
        return function()
