"""Runs as tasks of a Ray cluster: Ray queues them and chooses a node for each.

Every node needs this package installed with the extra `ray`, in a Python environment like that of
the study, and the recipes' scripts and the study's folder at the same paths (a shared file system).
When a node is lost, its runs resume on another node from their last checkpoints.
"""

import logging
import platform
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

from recipes.runs.errors import one_line
from recipes.studies.planned_run import PlannedRun, RunEnd
from recipes.studies.processes import ONE_THREAD, interrupt, launch

GRACE = 40.0  # seconds; more than an interrupted run gets on its node


def run_on_node(run: PlannedRun, arguments: Sequence[str]) -> int:
    """Run one run as a process on this node, to its end; return its exit code.

    Raises:
        FileNotFoundError: the script or the study is missing: the file system is not shared.
    """
    for file in (run.script, run.study / "study.json"):
        if not file.exists():
            raise FileNotFoundError(f"{file} does not exist on the node {platform.node()}")
    # A node started in the background of a script ignores SIGINT, and with it cancellations.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    process = launch(run, arguments)
    try:
        while True:
            try:
                return process.wait(0.2)  # short waits, so that Ray can cancel the task
            except subprocess.TimeoutExpired:
                continue
    finally:
        interrupt([process])


class RayExecutor:
    """Runs as many runs at once as the cluster has room for.

    Args:
        address: "auto", "host:port" or "ray://host:port"; "local" starts a cluster on this machine.
        cpus_per_run: cores that a run occupies, > 0.
        gpus_per_run: GPUs that a run occupies, >= 0; runs with a fraction share a GPU.

    Raises:
        ValueError: Ray is not installed, or no cluster answers at the address.
    """

    def __init__(self, address: str, cpus_per_run: float, gpus_per_run: float) -> None:
        self.ray = _connect(address)
        self._arguments = ONE_THREAD if cpus_per_run < 2 else ()
        # The study retries runs, not Ray, so that attempts are counted in one place.
        remote = self.ray.remote(num_cpus=cpus_per_run, num_gpus=gpus_per_run, max_retries=0)
        self._run_on_node = remote(run_on_node)
        self._tasks: dict[Any, PlannedRun] = {}
        nodes = [node["Resources"] for node in self.ray.nodes() if node["Alive"]]
        if not any(
            node.get("CPU", 0) >= cpus_per_run and node.get("GPU", 0) >= gpus_per_run
            for node in nodes
        ):
            print("no node has room for a run; waiting for one to join", file=sys.stderr)

    def submit(self, run: PlannedRun) -> None:
        self._tasks[self._run_on_node.remote(run, self._arguments)] = run

    def ended(self) -> list[RunEnd]:
        if not self._tasks:
            return []
        ready, _ = self.ray.wait(list(self._tasks), num_returns=len(self._tasks), timeout=0)
        return [self._end(task, self._tasks.pop(task)) for task in ready]

    def interrupt(self) -> None:
        for task in self._tasks:
            self.ray.cancel(task)
        if self._tasks:
            self.ray.wait(list(self._tasks), num_returns=len(self._tasks), timeout=GRACE)

    def _end(self, task: Any, run: PlannedRun) -> RunEnd:
        errors = self.ray.exceptions
        try:
            return RunEnd(run, self.ray.get(task))
        except errors.RayTaskError as error:  # the process could not be started
            return RunEnd(run, 1, str(error).strip().splitlines()[-1])
        except errors.RayError as error:
            return RunEnd(run, None, f"its node or worker was lost ({type(error).__name__})")


def _connect(address: str) -> ModuleType:
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    try:
        import ray

        if colon:  # where nothing listens, Ray itself would try for many minutes
            socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
        elif address not in ("auto", "local"):
            raise ValueError("allowed: auto, host:port or ray://host:port")
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except ImportError as error:
        message = "ray_address: Ray is not installed here; pip install -e '.[ray]'"
        raise ValueError(message) from error
    except (OSError, ValueError, RuntimeError) as error:
        message = f"ray_address: got {address}; no cluster answers there: {one_line(error)}"
        raise ValueError(message) from error
    return ray
