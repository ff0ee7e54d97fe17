"""Audit a finished run: rollouts of every iterate's policy, then figures, claims and files."""

import importlib
import multiprocessing
import pickle
import signal
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from blocks import Environment
from recipes.agents import Agent, Config
from recipes.audits.figure import audit_figure
from recipes.audits.records import AuditedPolicy, append_audited, read_audited, write_audited
from recipes.audits.results import LivedPolicy, audit_page, audit_results, lived_policies
from recipes.audits.rollouts import Auditor, Job
from recipes.runs.atomic_files import read_json, write_atomically, write_json
from recipes.runs.errors import RunError
from recipes.runs.folder import RunFolder
from recipes.runs.run import Run
from recipes.runs.snapshots import read_snapshot, snapshot_file
from recipes.training.loop import MakeAgent, MakeEnvironment, as_components
from recipes.training.progress import PLAIN_INTERVAL


def audit(
    run: Run | str | Path,
    agent: MakeAgent | None = None,
    environment: Environment | MakeEnvironment | None = None,
    *,
    config: type[Config] | None = None,
    rollouts: int = 20,
    share: float = 0.5,
    processes: int = 1,
) -> dict[str, Any]:
    """Roll out every iterate's policy again, as deployed and without the guard.

    As deployed means with the exploration scale of the iterate's episode (in the prefill, which is
    iterate 0: of its last episode) and behind the run's guard and fallback, if it has them. If a
    given policy acted in the prefill, iterate 0 is left out. No rollout counts in the run's metrics
    or enters its replay. Writes ``audit.jsonl``, ``audit.json``, ``audit.md`` and ``audit.png``
    into the run's folder and changes nothing else there. An interrupted audit goes on where it
    stopped; the number of processes does not change the results.

    Args:
        run: a finished run with snapshots, or its folder.
        agent: what ``train`` was given; by default the agent of the recipe that made the run.
        environment: likewise; by default the run's task.
        config: class of the settings, if the agent has more than others.
        rollouts: rollouts of each policy, >= 2.
        share: a policy also counts if the probability that its episode exceeds the budget is at
            least this, in (0, 1).
        processes: number of processes, >= 1; with more than 1, ``agent`` and ``environment`` must
            be picklable, and ``environment`` not a single object.

    Returns:
        The content of ``audit.json``.

    Raises:
        ValueError: an argument is not allowed, or the environment returned NaN (a RunError: the
            run is unfinished, or its snapshots are missing, damaged or another agent's).

    >>> from recipes.cerl_full import CERL
    >>> audit("runs/mine", agent=CERL(), rollouts=20)  # doctest: +SKIP
    """
    folder = RunFolder(run.path if isinstance(run, Run) else Path(run))
    _check_numbers(rollouts, share, processes)
    if not (folder.path / "summary.json").exists():
        raise RunError(
            f"run: got {folder.path}, which has no summary.json; allowed a finished run; "
            "finish it with --resume"
        )
    if agent is None:
        agent, config = acting_agent, config or _settings(folder)
    job = Job(folder.path, agent, environment, config or Config, rollouts)
    if processes > 1:
        _check_picklable(job, processes)
    file = folder.path / "audit.jsonl"
    lived = lived_policies(folder)
    if as_components(agent).prefill:
        lived = [policy for policy in lived if policy.iterate]  # a given policy acted before
    digests = _digests(folder, [policy.iterate for policy in lived])
    audited = [
        policy
        for policy in read_audited(file)
        if policy.rollouts == rollouts and policy.snapshot == digests.get(policy.iterate)
    ]
    write_audited(file, audited)  # without those of other options or snapshots
    known = {policy.iterate for policy in audited}
    missing = [iterate for iterate in digests if iterate not in known]
    with _progress(len(digests), len(known)) as line:
        for policy in _roll_out(job, missing, processes):
            append_audited(file, policy)
            audited.append(policy)
            line.update()
    write_audited(file, audited)
    _write_results(folder, sorted(audited, key=lambda policy: policy.iterate), lived, share)
    return read_json(folder.path / "audit.json")


def acting_agent(config: Config, environment: Environment) -> Agent:
    """Build CERL's agent, which acts like that of every recipe with the same networks."""
    return importlib.import_module("recipes.cerl_full").CERL()(config, environment)


def _write_results(
    folder: RunFolder,
    policies: Sequence[AuditedPolicy],
    lived: Sequence[LivedPolicy],
    share: float,
) -> None:
    results = audit_results(folder, policies, lived, share)
    page = audit_page(results).encode()
    audit_figure(folder, policies, lived)
    write_atomically(folder.path / "audit.md", lambda stream: stream.write(page))
    write_json(folder.path / "audit.json", results)  # last: it marks a whole audit


def _roll_out(job: Job, iterates: Sequence[int], processes: int) -> Iterator[AuditedPolicy]:
    """Audit the iterates, in any order."""
    if not iterates:
        return
    if processes == 1:
        torch.set_num_threads(1)  # as in the processes below; threads do not pay for small networks
        yield from map(Auditor(job).audit, iterates)
        return
    context = multiprocessing.get_context("spawn")  # a forked OpenGL does not work
    workers = min(processes, len(iterates))
    with ProcessPoolExecutor(workers, context, _set_up, (job,)) as pool:
        try:
            for future in as_completed([pool.submit(_audit_here, iterate) for iterate in iterates]):
                yield future.result()
        except BrokenProcessPool as error:
            raise RuntimeError(
                "a process of the audit died; is there enough memory? The same command goes on"
            ) from error
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


_auditor: Auditor | Exception = RuntimeError("this process was not set up")
"""Of this process, if it works for another one; or why there is none."""


def _set_up(job: Job) -> None:
    """Prepare a process of the pool."""
    global _auditor
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    torch.set_num_threads(1)
    try:
        _auditor = Auditor(job)
    except Exception as error:  # raised here, it would break the pool and be lost
        _auditor = error


def _audit_here(iterate: int) -> AuditedPolicy:
    if isinstance(_auditor, Exception):
        raise _auditor
    return _auditor.audit(iterate)


def _check_numbers(rollouts: int, share: float, processes: int) -> None:
    if rollouts < 2:
        raise ValueError(f"rollouts: got {rollouts}; allowed 2 and above; take 20")
    if not 0 < share < 1:
        raise ValueError(f"share: got {share}; allowed between 0 and 1; take 0.5")
    if processes < 1:
        raise ValueError(f"processes: got {processes}; allowed 1 and above; take 1")


def _check_picklable(job: Job, processes: int) -> None:
    try:
        if isinstance(job.environment, Environment):
            raise TypeError("the environment is a single object")
        pickle.dumps(job)
    except (pickle.PicklingError, TypeError, AttributeError) as error:
        raise ValueError(
            f"processes: got {processes}, but other processes cannot get agent and environment "
            f"({error}); allowed 1; take 1, or classes and functions of a module"
        ) from error


def _settings(folder: RunFolder) -> type[Config]:
    """Return the class of settings of the recipe that made a run."""
    recipe = folder.read_config().get("recipe")
    try:
        module = importlib.import_module(f"recipes.{recipe}")
    except ModuleNotFoundError as error:
        raise RunError(
            f"recipe: got {recipe}, which made {folder.path}; allowed a recipe of this package; "
            "audit the run from Python with recipes.audits.audit(run, agent=...)"
        ) from error
    return getattr(module, "Config", Config)


def _digests(folder: RunFolder, iterates: Sequence[int]) -> dict[int, str]:
    """Check that every iterate has an undamaged snapshot; return their hashes."""
    lost = [iterate for iterate in iterates if not snapshot_file(folder.path, iterate).exists()]
    if lost:
        raise RunError(
            f"snapshots: got {len(iterates) - len(lost)} for {len(iterates)} policies of "
            f"{folder.path}, none for iterate {lost[0]}; allowed one for each; train again with "
            "--snapshots always and an agent that is recipes.agents.Auditable"
        )
    return {iterate: read_snapshot(folder.path, iterate).digest for iterate in iterates}


def _progress(total: int, done: int) -> tqdm:
    """Show how many policies are audited: a bar in a terminal, elsewhere a line now and then."""
    return tqdm(
        total=total,
        initial=done,
        desc="audit",
        unit=" policies",
        dynamic_ncols=True,
        mininterval=0.1 if sys.stderr.isatty() else PLAIN_INTERVAL,
    )
