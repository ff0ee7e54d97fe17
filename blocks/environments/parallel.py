"""Several environments of one task in separate processes: all cores step and draw."""

import functools
import multiprocessing
from collections.abc import Callable, Sequence
from multiprocessing.connection import wait
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from blocks.environments.arguments import require_integer
from blocks.environments.costs import CostSource, cost_names_of, costs_of
from blocks.environments.offscreen_viewer import ImageQuality
from blocks.environments.protocol import Environment
from blocks.environments.safety_gymnasium import ObservationKind, make_environment
from blocks.environments.worker import Worker, end, receive, replay, send_command, serve

ATTEMPTS = 3
"""Number of processes in a row that may die at one command before it is an error."""


class Steps(NamedTuple):
    """Results of one action in each environment."""

    observations: NDArray[Any]  # [environment, ...]
    rewards: NDArray[np.float64]  # [environment], summed over the action repeat
    costs: NDArray[np.float64]  # [environment], summed over the action repeat, >= 0
    terminated: NDArray[np.bool_]  # [environment]
    truncated: NDArray[np.bool_]  # [environment]
    inner_steps: NDArray[np.int_]  # [environment], environment steps that the action took
    costs_each: NDArray[np.float64]  # [environment, constraint], in the order of cost_names


class ParallelEnvironments:
    """Runs ``count`` environments in processes; they play different episodes of one seed.

    Together they play the same episodes as a single environment: of four, the first plays episodes
    0, 4, 8, ... An episode's randomness depends only on seed and episode. If a process dies, a new
    one repeats its actions and continues, so no step is lost or repeated. ``step`` waits for the
    slowest environment; ``send`` and ``receive`` handle each one as soon as it is ready, which
    keeps all cores busy. Processes are spawned: a script needs ``if __name__ == "__main__":``.

    Args:
        task: as for ``make_environment``; or a function from a seed to an environment
            (``blocks.Environment``) whose episodes depend on ``episode_index`` alone. It must be
            importable from a module, and the arguments below but for ``seed`` are then its own.
        count: number of environments, >= 1.
        seed: as for ``make_environment``.
        observation: as for ``make_environment``.
        action_repeat: as for ``make_environment``.
        image_quality: as for ``make_environment``.
        cost: as for ``make_environment``; a function must be importable from a module.

    Attributes:
        cost_names: names of the costs, in the order of ``Steps.costs_each``.
        episode_index: index of the first episode that the next ``reset`` starts. To resume at an
            episode's boundary, save it and set it on a new object with the same arguments.
        episode_length: environment steps in an episode.

    Raises:
        ValueError: ``count`` below 1, or an argument that ``make_environment`` does not allow; a
            function, and other arguments beside it.

    Example::

        with ParallelEnvironments("SafetyPointGoal1-v0", 2, observation="image") as environments:
            observations = environments.reset()
            while not environments.over.all():
                steps = environments.step(np.zeros((2, 2), np.float32))
    """

    def __init__(
        self,
        task: str | Callable[[int], Environment],
        count: int,
        *,
        seed: int = 0,
        observation: ObservationKind = "vector",
        action_repeat: int = 1,
        image_quality: ImageQuality = "exact",
        cost: CostSource = None,
    ) -> None:
        require_integer("count", count, minimum=1)
        options: dict[str, Any] = {
            "observation": observation,
            "action_repeat": action_repeat,
            "image_quality": image_quality,
            "cost": cost,
        }
        self._make = _maker(task, seed, options)
        environment = self._make()  # checks the arguments
        self.task: str = task if isinstance(task, str) else getattr(task, "__name__", repr(task))
        self.observation_space = environment.observation_space
        self.action_space = environment.action_space
        self.episode_length = environment.episode_length
        self.cost_names = cost_names_of(environment)
        environment.close()
        self.episode_index = 0
        low = self.observation_space.low
        self._observations: NDArray[Any] = np.zeros((count, *low.shape), low.dtype)
        self._workers = [Worker() for _ in range(count)]

    def __len__(self) -> int:
        return len(self._workers)

    def reset(self) -> NDArray[Any]:
        """Start the next ``count`` episodes, one in each environment; return their observations.

        Raises:
            RuntimeError: an environment raised an error, its processes died repeatedly, or a sent
                action is still unanswered.
        """
        self._require_none_asked()
        for place, worker in enumerate(self._workers):
            worker.episode, worker.actions, worker.over = self.episode_index + place, [], False
        self.episode_index += len(self)
        for place, (observation, _) in self._ask("reset"):
            self._observations[place] = observation
        return self._observations.copy()

    def step(self, actions: Sequence[NDArray[Any]] | NDArray[Any]) -> Steps:
        """Apply an action in each environment whose episode is not over.

        Args:
            actions: ``[environment, action]``; those of finished episodes have no effect.

        Returns:
            One row per environment; zeros where the episode was over before.

        Raises:
            ValueError: not one action for each environment.
            RuntimeError: all episodes are over, or as for ``reset``.
        """
        self._require_none_asked()
        if len(actions) != len(self):
            raise ValueError(
                f"actions: got {len(actions)}; allowed one for each of {len(self)} environments; "
                "pass one also where the episode is over"
            )
        under_way = [worker for worker in self._workers if not worker.over]
        if not under_way:
            raise RuntimeError(f"{self.task}: every episode is over, or none begun; call reset()")
        for worker, action in zip(self._workers, actions, strict=True):
            if not worker.over:
                worker.actions.append(np.array(action, np.float32))
        numbers = np.zeros((len(self), 5 + len(self.cost_names)))
        for place, answer in self._ask("step"):
            numbers[place] = self._take(place, answer)
        return _steps(self._observations.copy(), numbers)

    def send(self, place: int, action: NDArray[Any]) -> None:
        """Send an action to one environment without waiting for the answer; see ``receive``.

        Args:
            place: index of the environment.
            action: ``[action]``.

        Raises:
            RuntimeError: its episode is over, or its last action is still unanswered.
        """
        worker = self._workers[place]
        if worker.over:
            raise RuntimeError(f"environment {place}: its episode is over, or none begun; reset()")
        if worker.asked:
            raise RuntimeError(f"environment {place}: it still has an action; call receive()")
        worker.actions.append(np.array(action, np.float32))
        worker.asked = True
        self._send(worker, "step")  # ``receive`` detects a dead process

    def receive(self) -> tuple[list[int], Steps]:
        """Wait until one or more environments have answered.

        Returns:
            Indices of the environments that answered, and their steps, one row each.

        Raises:
            RuntimeError: no environment has an action, or as for ``reset``.
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
        return places, _steps(self._observations[places], np.array(rows))

    @property
    def over(self) -> NDArray[np.bool_]:
        """``[environment]``, True where the episode is over or none has begun."""
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
        """Send the command to all unfinished environments, then collect their answers."""
        asked = [place for place, worker in enumerate(self._workers) if not worker.over]
        lost = {place for place in asked if not self._send(self._workers[place], command)}
        answers = [
            (place, self._answer(self._workers[place], command, lost=place in lost))
            for place in asked
        ]
        return [(place, self._checked(place, answer)) for place, answer in answers]

    def _answer(self, worker: Worker, command: str, *, lost: bool = False) -> tuple[str, Any]:
        """Return the process's answer, or that of a new process if it died."""
        answer = None if lost else receive(worker)
        return self._repeat(worker, command) if answer is None else answer

    def _take(self, place: int, answer: Any) -> tuple[Any, ...]:
        """Store the results of a step and return its row for ``_steps``."""
        observation, reward, terminated, truncated, info = answer
        self._observations[place] = observation
        self._workers[place].over = terminated or truncated
        each = costs_of(info, self.cost_names)
        return reward, info["cost"], terminated, truncated, info["inner_steps"], *each

    def _require_none_asked(self) -> None:
        if any(worker.asked for worker in self._workers):
            raise RuntimeError(f"{self.task}: an action is under way; call receive() first")

    def _send(self, worker: Worker, command: str) -> bool:
        """Send the command, starting a process if needed; return False if the process is dead."""
        if worker.process is None:
            self._start(worker)
        value = worker.episode if command == "reset" else worker.actions[-1]
        return send_command(worker, command, value)

    def _repeat(self, worker: Worker, command: str) -> tuple[str, Any]:
        """Bring a new process to the state of the dead one and repeat the command there."""
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
        worker.process = context.Process(target=serve, args=(theirs, self._make), daemon=True)
        worker.process.start()
        theirs.close()


def _steps(observations: NDArray[Any], numbers: NDArray[Any]) -> Steps:
    rewards, costs, terminated, truncated, inner_steps, *each = numbers.T
    return Steps(
        observations,
        rewards,
        costs,
        terminated.astype(bool),
        truncated.astype(bool),
        inner_steps.astype(int),
        np.stack(each, axis=1),
    )


def _maker(
    task: str | Callable[[int], Environment], seed: int, options: dict[str, Any]
) -> Callable[[], Environment]:
    """Return what makes the environment, here and in a process."""
    if isinstance(task, str):
        return functools.partial(make_environment, task, seed=seed, **options)
    given = [name for name, value in options.items() if value not in (None, 1, "vector", "exact")]
    if given:
        raise ValueError(
            f"{given[0]}: got {options[given[0]]!r} beside a function that makes the environment; "
            "allowed with a task's name only; let the function set it"
        )
    return functools.partial(task, seed)
