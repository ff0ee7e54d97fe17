"""Runs as tasks of a Ray cluster: Ray queues them and finds them a node.

Every node needs this checkout, the study's folder (a shared file system) and the Python environment
at the same paths. A run whose node is lost goes on, on another node, from its last checkpoint.
"""

from __future__ import annotations

import logging
import platform
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from recipes.studies import planned_run as study_runs
from recipes.studies.planned_run import Ended, PlannedRun, interrupt, launch

GRACE = 40.0  # seconds; more than an interrupted run gets on its node


def carry(arguments: Sequence[str], environment: Mapping[str, str], needed: Sequence[str]) -> int:
    """On a node: one run as a process, to its end; returns its exit code.

    Raises:
        FileNotFoundError: the node does not see the files `needed`: its file system is not shared.
    """
    for file in needed:
        if not Path(file).exists():
            raise FileNotFoundError(f"{file} is not there on the node {platform.node()}")
    # A node started in the background of a script ignores SIGINT, and with it cancellations.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    process = launch(arguments, environment)
    try:
        while True:
            try:
                return process.wait(0.2)  # in slices, or a cancellation would not get in
            except subprocess.TimeoutExpired:
                continue
    finally:
        interrupt([process])


class RayExecutor:
    """As many runs at once as the cluster has room for.

    Args:
        address: "auto", "host:port" or "ray://host:port"; "local" for a cluster of this machine.
        cpus_per_run: cores that a run occupies, > 0.
        gpus_per_run: GPUs that a run occupies, >= 0; a fraction shares one.
        arguments: for every run, such as ("--threads", "1").
        environment: variables that the runs' processes get besides their node's.

    Raises:
        ValueError: Ray is not installed, or no cluster answers at the address.
    """

    def __init__(
        self,
        address: str,
        *,
        cpus_per_run: float = 1,
        gpus_per_run: float = 0,
        arguments: tuple[str, ...] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.ray = _connect(address)
        if not _has_room(self.ray.nodes(), cpus_per_run, gpus_per_run):
            room = f"{cpus_per_run:g} cores and {gpus_per_run:g} GPUs"
            print(f"no node has {room} for a run: they wait for one to join", file=sys.stderr)
        # The study itself tries again: so attempts are counted, and shown, in one place.
        self._carry = self.ray.remote(num_cpus=cpus_per_run, num_gpus=gpus_per_run, max_retries=0)(
            carry
        )
        self.arguments = arguments
        self.environment = dict(environment or {})
        self._tasks: dict[Any, PlannedRun] = {}
        self._printed: dict[PlannedRun, int] = {}

    def submit(self, run: PlannedRun) -> None:
        self._printed[run] = _size(run)
        needed = [str(study_runs.LAUNCHER), str(run.script), str(run.study / "study.json")]
        arguments = run.arguments(*self.arguments)
        task = self._carry.remote(arguments, self.environment, needed)
        self._tasks[task] = run

    def running(self) -> set[PlannedRun]:
        """The first thing that a run's process does is to say where it runs, in its log."""
        return {run for run in self._tasks.values() if _size(run) > self._printed[run]}

    def ended(self) -> list[Ended]:
        if not self._tasks:
            return []
        over, _ = self.ray.wait(list(self._tasks), num_returns=len(self._tasks), timeout=0)
        return [self._result(task, self._tasks.pop(task)) for task in over]

    def interrupt(self) -> None:
        for task in self._tasks:
            self.ray.cancel(task)
        if self._tasks:
            self.ray.wait(list(self._tasks), num_returns=len(self._tasks), timeout=GRACE)

    def _result(self, task: Any, run: PlannedRun) -> Ended:
        errors = self.ray.exceptions
        try:
            return Ended(run, self.ray.get(task))
        except errors.RayTaskError as error:  # the process could not even be started
            return Ended(run, 1, str(error).strip().splitlines()[-1])
        except errors.RayError as error:
            return Ended(run, None, f"its node or worker was lost ({type(error).__name__})")


def _connect(address: str) -> ModuleType:
    try:
        import ray
        from ray import cloudpickle
    except ImportError as error:
        message = "ray_address: Ray is not installed here; pip install -e '.[ray]'"
        raise ValueError(message) from error
    try:
        _require_answer(address)
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"ray_address: got {address}; no cluster answers there: {reason}"
        ) from error
    # Nodes then need not have our modules on Python's path.
    for module in (study_runs, sys.modules[__name__]):
        cloudpickle.register_pickle_by_value(module)
    return ray


def _has_room(nodes: Sequence[Mapping[str, Any]], cpus: float, gpus: float) -> bool:
    """Whether a node of the cluster, were it idle, has room for a run."""
    wanted = {"CPU": cpus, "GPU": gpus}
    return any(
        node["Alive"] and all(node["Resources"].get(kind, 0) >= n for kind, n in wanted.items())
        for node in nodes
    )


def _require_answer(address: str) -> None:
    """Raise OSError or ValueError if nothing listens: Ray itself would try for many minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    elif address not in ("auto", "local"):
        raise ValueError("allowed: auto, host:port or ray://host:port")


def _size(run: PlannedRun) -> int:
    log = run.log.with_name(f"{run.log.name}.out")
    return log.stat().st_size if log.exists() else 0
