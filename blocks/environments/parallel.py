"""Several environments of one task, each in a process of its own: all cores step and draw."""

import multiprocessing
from collections.abc import Sequence
from multiprocessing.connection import wait
from typing import Any, NamedTuple

import numpy as np

from blocks.environments.safety_gymnasium import make_environment
from blocks.environments.worker import Worker, end, receive, replay, send_command, serve

ATTEMPTS = 3
"""How many processes in a row may die at one command before it is the command's fault."""


class Steps(NamedTuple):
    """What an action did in each environment."""

    observations: np.ndarray  # [environment, ...]
    rewards: np.ndarray  # [environment], summed over the action repeat
    costs: np.ndarray  # [environment], summed over the action repeat, >= 0
    terminated: np.ndarray  # [environment], bool
    truncated: np.ndarray  # [environment], bool
    inner_steps: np.ndarray  # [environment], environment steps that the action took


class ParallelEnvironments:
    """`count` environments, each in a process, that play different episodes of one seed.

    Together they play the episodes that a single environment would play one after the other: of
    four, the first plays episodes 0, 4, 8, ... An episode's randomness depends on seed and episode
    alone. So when a process dies, another one takes the same actions again and goes on: nothing is
    lost or there twice. `step` waits for the slowest of them; `send` and `receive` let each go on
    as soon as it is ready, which keeps all cores busy. Processes are spawned: a script needs
    `if __name__ == "__main__":`.

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
            RuntimeError: an environment raised, or its processes died again and again; or a sent
                action was not received.
        """
        self._require_none_asked()
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

        Returns:
            Of all environments; zeros where the episode was over before.

        Raises:
            ValueError: not one action for each environment.
            RuntimeError: all episodes are over; or as for `reset`.
        """
        self._require_none_asked()
        if len(actions) != len(self):
            raise ValueError(f"actions: got {len(actions)}; allowed one for each of {len(self)}")
        under_way = [worker for worker in self._workers if not worker.over]
        if not under_way:
            raise RuntimeError(f"{self.task}: every episode is over, or none begun; call reset()")
        for worker, action in zip(self._workers, actions, strict=True):
            if not worker.over:
                worker.actions.append(np.array(action, np.float32))
        numbers = np.zeros((5, len(self)))
        for place, answer in self._ask("step"):
            numbers[:, place] = self._take(place, answer)
        return _steps(self._observations.copy(), numbers)

    def send(self, place: int, action: np.ndarray) -> None:
        """Give one environment an action, and do not wait for it; `receive` does.

        Raises:
            RuntimeError: its episode is over, or it has not answered to the last one.
        """
        worker = self._workers[place]
        if worker.over:
            raise RuntimeError(f"environment {place}: its episode is over, or none begun; reset()")
        if worker.asked:
            raise RuntimeError(f"environment {place}: it still has an action; call receive()")
        worker.actions.append(np.array(action, np.float32))
        worker.asked = True
        self._send(worker, "step")  # whether a dead process got it, `receive` finds out

    def receive(self) -> tuple[list[int], Steps]:
        """Wait until environments with an action are ready; of those alone, places and steps.

        Raises:
            RuntimeError: none has an action; or as for `reset`.
        """
        asked = [place for place, worker in enumerate(self._workers) if worker.asked]
        if not asked:
            raise RuntimeError(f"{self.task}: no action is under way; call send()")
        connections = [(place, self._workers[place].connection) for place in asked]
        ready = wait([connection for _, connection in connections if connection])
        places = [place for place, connection in connections if connection in ready]
        for place in places:
            self._workers[place].asked = False
        answers = [(place, self._answer(self._workers[place], "step")) for place in places]
        rows = [self._take(place, self._checked(place, answer)) for place, answer in answers]
        return places, _steps(self._observations[places], np.array(rows).T)

    @property
    def over(self) -> np.ndarray:
        """[environment], whether its episode is over (or none begun)."""
        return np.array([worker.over for worker in self._workers])

    def close(self) -> None:
        """End the processes."""
        for worker in self._workers:
            end(worker)

    def __enter__(self) -> "ParallelEnvironments":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _ask(self, command: str) -> list[tuple[int, Any]]:
        """Give all that are under way the command, then collect what it did."""
        asked = [place for place, worker in enumerate(self._workers) if not worker.over]
        lost = {place for place in asked if not self._send(self._workers[place], command)}
        answers = [
            (place, self._answer(self._workers[place], command, lost=place in lost))
            for place in asked
        ]
        return [(place, self._checked(place, answer)) for place, answer in answers]

    def _answer(self, worker: Worker, command: str, *, lost: bool = False) -> tuple[str, Any]:
        """What a process answers, or another one in its place."""
        answer = None if lost else receive(worker)
        return self._repeat(worker, command) if answer is None else answer

    def _take(self, place: int, answer: Any) -> tuple[Any, ...]:
        """Keep what a step has changed; returns a column of `_steps`."""
        observation, reward, terminated, truncated, info = answer
        self._observations[place] = observation
        self._workers[place].over = terminated or truncated
        return reward, info["cost"], terminated, truncated, info["inner_steps"]

    def _require_none_asked(self) -> None:
        if any(worker.asked for worker in self._workers):
            raise RuntimeError(f"{self.task}: an action is under way; call receive() first")

    def _send(self, worker: Worker, command: str) -> bool:
        """Whether the command has reached a process."""
        if worker.process is None:
            self._start(worker)
        value = worker.episode if command == "reset" else worker.actions[-1]
        return send_command(worker, command, value)

    def _repeat(self, worker: Worker, command: str) -> tuple[str, Any]:
        """Bring a new process to where the one that died was, and give it the command again."""
        for _ in range(ATTEMPTS - 1):
            end(worker)
            self._start(worker)
            answer = replay(worker)
            if answer is not None:
                return answer
        code = end(worker)
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
        worker.process = context.Process(target=serve, args=(theirs, self._arguments), daemon=True)
        worker.process.start()
        theirs.close()


def _steps(observations: np.ndarray, numbers: np.ndarray) -> Steps:
    rewards, costs, terminated, truncated, inner_steps = numbers
    return Steps(
        observations,
        rewards,
        costs,
        terminated.astype(bool),
        truncated.astype(bool),
        inner_steps.astype(int),
    )
