"""Computations that do not need each other, at the same time on two cores.

At the sizes of this field one operation is too small for torch to split over cores, but several
parts of an update do not depend on each other: the gradients of objective and constraint, the
filter's loss and the members', the critics of reward and cost. ``side_by_side`` runs them on
threads of their own. Torch lets go of Python's lock inside its operations and for a whole backward
pass, so the threads hardly wait for each other. Each computes what it would compute alone: results
are the same to the bit, however many threads there are.
"""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import Any

import torch

_worker = threading.local()
_executor: ThreadPoolExecutor | None = None


def set_threads(count: int) -> None:
    """On how many threads ``side_by_side`` runs its functions, the calling one among them.

    One (the default) means one after the other. Torch's own threads within an operation are
    another matter: give them a core each, ``torch.set_num_threads(1)``.

    Raises:
        ValueError: if ``count`` is below 1.
    """
    global _executor
    if count < 1:
        raise ValueError(f"count: got {count}; something has to run: at least 1 thread.")
    if _executor:
        _executor.shutdown()
    _executor = ThreadPoolExecutor(count - 1, "side_by_side", _enter) if count > 1 else None


def side_by_side(*functions: Callable[[], Any]) -> tuple[Any, ...]:
    """Call all functions and return their results, in order.

    They may read what they share, also one autograd graph, and may not write to it. To the same
    ``.grad`` at most two of them may add, and only to an empty one: a sum of three depends on its
    order. At most one may use Pyro, whose handlers are global. Random numbers are drawn beforehand,
    since nothing is said about which function comes first. Of torch's state that is kept for each
    thread only the grad mode is handed on (not autocast or inference mode).

    Args:
        functions: called without arguments, the first on the calling thread.

    Returns:
        What they return, in the order of the functions.

    Raises:
        Exception: the first function's that failed, after all have ended.

    >>> side_by_side(lambda: 1 + 1, lambda: "two")
    (2, 'two')
    """
    if not functions or _executor is None or hasattr(_worker, "entered"):
        return tuple(function() for function in functions)
    grad_enabled = torch.is_grad_enabled()  # torch keeps it for each thread
    first, *others = functions
    futures = [_executor.submit(_call, function, grad_enabled) for function in others]
    try:
        result = first()
    finally:
        wait(futures)
    return result, *(future.result() for future in futures)


@contextmanager
def one_after_another() -> Iterator[None]:
    """Within it ``side_by_side`` stays on the calling thread, whose CUDA stream is its own."""
    entered = hasattr(_worker, "entered")
    _enter()
    try:
        yield
    finally:
        if not entered:
            del _worker.entered


def _enter() -> None:
    _worker.entered = True


def _call(function: Callable[[], Any], grad_enabled: bool) -> Any:
    with torch.set_grad_enabled(grad_enabled):
        return function()
