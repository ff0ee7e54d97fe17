"""Processes of ``ParallelEnvironments``: one environment each, controlled through a pipe."""

import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

from numpy.typing import NDArray

from blocks.environments.protocol import Environment


def _no_actions() -> list[NDArray[Any]]:
    return []


@dataclass
class Worker:
    """One process, and the data to bring a new one to the same state."""

    process: BaseProcess | None = None
    connection: Connection | None = None
    episode: int = 0
    actions: list[NDArray[Any]] = field(default_factory=_no_actions)
    """Actions of the episode so far."""
    over: bool = True
    asked: bool = False
    """Whether the last action is still unanswered."""


def send_command(worker: Worker, command: str, value: Any) -> bool:
    """Send a command; return False if the process is dead."""
    try:
        assert worker.connection is not None
        worker.connection.send((command, value))
    except OSError:
        return False
    return True


def receive(worker: Worker) -> tuple[str, Any] | None:
    """Return the answer, or None if the process has died."""
    try:
        assert worker.connection is not None
        return worker.connection.recv()
    except (EOFError, OSError):
        return None


def replay(worker: Worker) -> tuple[str, Any] | None:
    """Repeat the episode so far in a new process; return the last answer, None if it died too."""
    answer = None
    commands: list[tuple[str, Any]] = [("reset", worker.episode)]
    for command, value in [*commands, *(("step", action) for action in worker.actions)]:
        answer = receive(worker) if send_command(worker, command, value) else None
        if answer is None:
            break
    return answer


def end(worker: Worker) -> int | None:
    """End the worker's process, if there is one, and return its exit code."""
    if worker.process is None or worker.connection is None:
        return None
    worker.connection.close()  # the process ends at this
    worker.process.join(timeout=5)
    if worker.process.is_alive():
        worker.process.kill()
        worker.process.join()
    code = worker.process.exitcode
    worker.process = worker.connection = None
    return code


def serve(connection: Connection, make: Callable[[], Environment]) -> None:
    """Run one environment in a worker's process until the other end closes the connection."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C
    environment = None
    while True:
        try:
            command, value = connection.recv()
        except EOFError:
            break
        try:
            environment = environment or make()
            if command == "reset":
                environment.episode_index = value
                answer = ("did", environment.reset())
            else:
                answer = ("did", environment.step(value))
        except Exception as error:  # the parent raises it
            answer = ("raised", f"{type(error).__name__}: {error}")
        connection.send(answer)
    if environment is not None:
        environment.close()
