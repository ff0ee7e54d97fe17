"""The processes behind `ParallelEnvironments`: one environment each, told what to do by a pipe."""

import signal
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

import numpy as np

from blocks.environments.safety_gymnasium import make_environment


@dataclass
class Worker:
    """One process, and what brings another one to where it is."""

    process: BaseProcess | None = None
    connection: Connection | None = None
    episode: int = 0
    actions: list[np.ndarray] = field(default_factory=list)
    """Those of the episode so far."""
    over: bool = True
    asked: bool = False
    """Whether it has an action that it has not yet answered."""


def send_command(worker: Worker, command: str, value: Any) -> bool:
    try:
        assert worker.connection is not None
        worker.connection.send((command, value))
    except OSError:  # its process is dead
        return False
    return True


def receive(worker: Worker) -> tuple[str, Any] | None:
    """The answer; None from a process that has died."""
    try:
        assert worker.connection is not None
        return worker.connection.recv()
    except (EOFError, OSError):
        return None


def replay(worker: Worker) -> tuple[str, Any] | None:
    """Play the episode so far in a new process; the last answer, None if that one died as well."""
    answer = None
    for command, value in [("reset", worker.episode), *(("step", a) for a in worker.actions)]:
        answer = receive(worker) if send_command(worker, command, value) else None
        if answer is None:
            break
    return answer


def end(worker: Worker) -> int | None:
    """End its process, if it has one; returns the exit code."""
    if worker.process is None or worker.connection is None:
        return None
    worker.connection.close()  # which it takes for the end
    worker.process.join(timeout=5)
    if worker.process.is_alive():
        worker.process.kill()
        worker.process.join()
    code = worker.process.exitcode
    worker.process = worker.connection = None
    return code


def serve(connection: Connection, arguments: dict[str, Any]) -> None:
    """A worker's process: one environment, until the other end of the connection is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C is the parent's to handle
    environment = None
    while True:
        try:
            command, value = connection.recv()
        except EOFError:
            break
        try:
            environment = environment or make_environment(**arguments)
            if command == "reset":
                answer = ("did", environment.reset(options={"episode": value}))
            else:
                answer = ("did", environment.step(value))
        except Exception as error:  # to be raised where somebody hears it
            answer = ("raised", f"{type(error).__name__}: {error}")
        connection.send(answer)
    if environment is not None:
        environment.close()
