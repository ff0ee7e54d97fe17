"""Several environments of one task, each in a process of its own: all cores step and draw."""

import multiprocessing
import signal
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, NamedTuple

import numpy as np

from blocks.environments import make_environment

ATTEMPTS = 3
"""How many processes in a row may die at one command before it is the command's fault."""


class Steps(NamedTuple):
    """What an action did in each environment; zeros where the episode was over before."""

    observations: np.ndarray  # [environment, ...]
    rewards: np.ndarray  # [environment], summed over the action repeat
    costs: np.ndarray  # [environment], summed over the action repeat, >= 0
    terminated: np.ndarray  # [environment], bool
    truncated: np.ndarray  # [environment], bool
    inner_steps: np.ndarray  # [environment], environment steps that the action took


@dataclass
class Worker:
    """One process, and what brings another one to where it is."""

    process: BaseProcess | None = None
    connection: Connection | None = None
    episode: int = 0
    actions: list[np.ndarray] = field(default_factory=list)
    """Those of the episode so far."""
    over: bool = True


class ParallelEnvironments:
    """`count` environments, each in a process, that play different episodes of one seed.

    Together they play the episodes that a single environment would play one after the other: of
    four, the first plays episodes 0, 4, 8, ... An episode's randomness depends on seed and episode
    alone. So when a process dies, another one takes the same actions again and goes on: nothing is
    lost or there twice. Processes are spawned: a script needs `if __name__ == "__main__":`.

    Args:
        task: as for `make_environment`.
        count: how many, >= 1.
        seed: as for `make_environment`.
        options: its other arguments.

    Attributes:
        episode_index: index of the first episode that the next `reset` starts; save it, and set it
            on a new object with the same arguments, to resume at an episode's border.
        episode_length: environment steps in an episode.

    Raises:
        ValueError: `count` below 1, or an argument that `make_environment` does not allow.

    Example::

        with ParallelEnvironments("SafetyPointGoal1-v0", 2, observation="image") as environments:
            observations = environments.reset()
            while not environments.over.all():
                steps = environments.step(np.zeros((2, 2), np.float32))
    """

    def __init__(self, task: str, count: int, *, seed: int = 0, **options: Any) -> None:
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise ValueError(f"count: got {count!r}; allowed an integer >= 1; give one")
        environment = make_environment(task, seed=seed, **options)  # tells here what is wrong
        self.task = task
        self.observation_space = environment.observation_space
        self.action_space = environment.action_space
        self.episode_length = environment.episode_length
        environment.close()
        self.episode_index = 0
        self._arguments = {"task": task, "seed": seed, **options}
        self._observations = np.zeros(
            (count, *(self.observation_space.shape or ())), self.observation_space.dtype
        )
        self._workers = [Worker() for _ in range(count)]

    def __len__(self) -> int:
        return len(self._workers)

    def reset(self) -> np.ndarray:
        """Start the next `count` episodes, one in each environment; returns their observations.

        Raises:
            RuntimeError: an environment raised, or its processes died again and again.
        """
        for place, worker in enumerate(self._workers):
            worker.episode, worker.actions, worker.over = self.episode_index + place, [], False
        self.episode_index += len(self)
        for place, (observation, _) in self._ask("reset"):
            self._observations[place] = observation
        return self._observations.copy()

    def step(self, actions: Sequence[np.ndarray] | np.ndarray) -> Steps:
        """Apply an action in each environment whose episode is not over; others stay as they are.

        Args:
            actions: [environment, action].

        Raises:
            ValueError: not one action for each environment.
            RuntimeError: all episodes are over; or as for `reset`.
        """
        if len(actions) != len(self):
            raise ValueError(f"actions: got {len(actions)}; allowed one for each of {len(self)}")
        under_way = [worker for worker in self._workers if not worker.over]
        if not under_way:
            raise RuntimeError(f"{self.task}: every episode is over, or none begun; call reset()")
        for worker, action in zip(self._workers, actions, strict=True):
            if not worker.over:
                worker.actions.append(np.array(action, np.float32))
        numbers = np.zeros((5, len(self)))
        for place, (observation, reward, terminated, truncated, info) in self._ask("step"):
            self._observations[place] = observation
            self._workers[place].over = terminated or truncated
            row = (reward, info["cost"], terminated, truncated, info["inner_steps"])
            numbers[:, place] = row
        rewards, costs, terminated, truncated, inner_steps = numbers
        return Steps(
            self._observations.copy(),
            rewards,
            costs,
            terminated.astype(bool),
            truncated.astype(bool),
            inner_steps.astype(int),
        )

    @property
    def over(self) -> np.ndarray:
        """[environment], whether its episode is over (or none begun)."""
        return np.array([worker.over for worker in self._workers])

    def close(self) -> None:
        """End the processes."""
        for worker in self._workers:
            _end(worker)

    def __enter__(self) -> "ParallelEnvironments":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _ask(self, command: str) -> list[tuple[int, Any]]:
        """Give all that are under way the command, then collect what it did."""
        asked = [place for place, worker in enumerate(self._workers) if not worker.over]
        lost = {place for place in asked if not self._send(self._workers[place], command)}
        answers = []
        for place in asked:
            worker = self._workers[place]
            answer = None if place in lost else _receive(worker)
            answers.append((place, self._repeat(worker, command) if answer is None else answer))
        return [(place, self._checked(place, answer)) for place, answer in answers]

    def _send(self, worker: Worker, command: str) -> bool:
        """Whether the command has reached a process."""
        if worker.process is None:
            self._start(worker)
        value = worker.episode if command == "reset" else worker.actions[-1]
        return _tell(worker, command, value)

    def _repeat(self, worker: Worker, command: str) -> tuple[str, Any]:
        """Bring a new process to where the one that died was, and give it the command again."""
        for _ in range(ATTEMPTS - 1):
            _end(worker)
            self._start(worker)
            answer = _replay(worker)
            if answer is not None:
                return answer
        code = _end(worker)
        raise RuntimeError(
            f"{self.task}: the process of episode {worker.episode} died {ATTEMPTS} times at its "
            f"{command} {len(worker.actions)} (exit code {code}, negative for a signal); is there "
            "enough memory?"
        )

    def _checked(self, place: int, answer: tuple[str, Any]) -> Any:
        state, value = answer
        if state == "raised":
            raise RuntimeError(f"environment {place}: {value}")
        return value

    def _start(self, worker: Worker) -> None:
        context = multiprocessing.get_context("spawn")  # a forked OpenGL does not work
        worker.connection, theirs = context.Pipe()
        worker.process = context.Process(target=_serve, args=(theirs, self._arguments), daemon=True)
        worker.process.start()
        theirs.close()


def _tell(worker: Worker, command: str, value: Any) -> bool:
    try:
        assert worker.connection is not None
        worker.connection.send((command, value))
    except OSError:  # its process is dead
        return False
    return True


def _receive(worker: Worker) -> tuple[str, Any] | None:
    """The answer; None from a process that has died."""
    try:
        assert worker.connection is not None
        return worker.connection.recv()
    except (EOFError, OSError):
        return None


def _replay(worker: Worker) -> tuple[str, Any] | None:
    """Play the episode so far in a new process; the last answer, None if that one died as well."""
    answer = None
    for command, value in [("reset", worker.episode), *(("step", a) for a in worker.actions)]:
        answer = _receive(worker) if _tell(worker, command, value) else None
        if answer is None:
            break
    return answer


def _end(worker: Worker) -> int | None:
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


def _serve(connection: Connection, arguments: dict[str, Any]) -> None:
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
