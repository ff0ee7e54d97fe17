"""The folder of a training run; it stays consistent when the process is killed at any moment.

    config.json        every resolved hyper-parameter, with versions, commit and hardware
    metrics.jsonl      one JSON line per episode, update phase or evaluation
    tensorboard/       the same numbers for TensorBoard
    checkpoints/       the newest two, each written atomically
    snapshots/         every iterate's policy, for an audit; see snapshots.py
    summary.json       the headline figures, once the run has ended
    summary-<steps>.json   the same before it was extended beyond these steps
    evaluation.json, evaluation.mp4   after an evaluation with evaluate.py
    learning.png, calibration.png  return and cost of every episode; predicted against realised cost
    steps.png          what decided the policy's steps, if the updates say so
    replay/            runs from images: every observation; checkpoints refer to it
    filmstrip.png      runs from images: the newest episode, reconstructed and imagined
    profile.json, trace.json.gz    with --profile
    audit.jsonl, audit.json, audit.md, audit.png    after an audit

A checkpoint records the length of `metrics.jsonl`. A resumed run truncates the file to that length,
so no line is lost or duplicated.
"""

from __future__ import annotations

import json
import math
import os
import time
import warnings
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any, BinaryIO

import torch

from recipes.runs.atomic_files import read_json, to_json, write_atomically, write_json
from recipes.runs.errors import RunError
from recipes.runs.provenance import git_commit, hardware, installed_versions

DESCRIPTION = ("recipe", "versions", "commit", "hardware")  # in config.json, not hyper-parameters
# Where and how a run is computed, and what it keeps.
MAY_DIFFER = ("out", "resume", "extend", "threads", "snapshots", "profile", "device")
HISTORY = ("extended",)  # the folder's; no setting, but reports tell extended runs apart by it
KEPT_CHECKPOINTS = 2
PLAIN_TYPES = (type(None), bool, int, float, str, bytes)
NOT_FINITE = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


class RunFolder:
    """A run folder: ``create`` starts a run, ``open`` resumes one, ``RunFolder(path)`` reads one.

    >>> import tempfile
    >>> run = RunFolder.create("demo", "Task-v0", 0, Path(tempfile.mkdtemp()))
    >>> run.write_config({"episode_budget": 25.0})
    >>> run.log("episode", 1000, episode_cost=3.0)
    >>> run.save_checkpoint({"weights": torch.ones(2)}, step=1000)
    >>> run.read_metrics("episode")[0]["episode_cost"]
    3.0
    >>> run.close()
    """

    def __init__(self, path: Path, recipe: str = "") -> None:
        self.path = path
        self.recipe = recipe
        self._metrics: BinaryIO | None = None
        self._tensorboard: Any = None
        self._first_new_step: int | None = None

    @classmethod
    def create(cls, recipe: str, task: str, seed: int, out: Path | None = None) -> RunFolder:
        """Start a new run in ``out``, or in ``runs/<recipe>/<task>/seed<k>-<time>``."""
        path = out or cls.default_path(recipe, task, seed)
        if any((path / name).exists() for name in ("config.json", "metrics.jsonl", "checkpoints")):
            raise RunError(f"{path} already holds a run: use --resume {path} or another --out")
        try:
            (path / "checkpoints").mkdir(parents=True)
            (path / "metrics.jsonl").touch()
        except OSError as error:
            raise RunError(f"cannot write a run to {path}: {error.strerror}") from error
        return cls(path, recipe)

    @staticmethod
    def default_path(recipe: str, task: str, seed: int) -> Path:
        """Return ``runs/<recipe>/<task>/seed<k>-<time>``."""
        return Path("runs") / recipe / task / time.strftime(f"seed{seed}-%Y%m%d-%H%M%S")

    @classmethod
    def open(cls, path: Path, recipe: str | None = None) -> RunFolder:
        """Open a run that has a checkpoint; ``recipe`` is the recipe that must have made it."""
        if not path.is_dir():
            raise RunError(f"cannot resume {path}: there is no such folder")
        if not (path / "config.json").is_file():
            raise RunError(f"cannot resume {path}: it holds no config.json, so it is not a run")
        run = cls(path)
        run.recipe = str(run.read_config().get("recipe"))
        if recipe is not None and run.recipe != recipe:
            raise RunError(f"cannot resume {path}: {run.recipe} made it, not {recipe}")
        if not run.checkpoints():
            raise RunError(f"cannot resume {path}: it holds no checkpoint yet, start a new run")
        return run

    def write_config(self, config: dict[str, Any]) -> None:
        """Write config.json: resolved hyper-parameters, versions, commit and hardware."""
        described = {"recipe": self.recipe, "versions": installed_versions()}
        described |= {"commit": git_commit(), "hardware": hardware()}
        write_json(self.path / "config.json", config | described)

    def read_config(self) -> dict[str, Any]:
        return read_json(self.path / "config.json")

    def check_config(self, config: dict[str, Any]) -> None:
        """Compare ``config`` with that of the run.

        Raises:
            RunError: hyper-parameters differ; the message names them.
        """
        differing = _differences(self.read_config(), json.loads(to_json(config)))
        if differing:
            raise RunError(f"{self.path} was made with another configuration: {differing}")

    def extend(self, config: dict[str, Any]) -> int:
        """Plan more steps for the run; its summary becomes ``summary-<planned steps>.json``.

        config.json lists the earlier plans as ``extended``. A run that is killed at any moment from
        here on resumes with ``--resume``.

        Returns:
            The steps planned so far.

        Raises:
            RunError: ``config`` does not have more steps, or differs in more than the steps.
        """
        stored = self.read_config()
        planned, steps = stored["steps"], config["steps"]
        differing = _differences(stored | {"steps": steps}, json.loads(to_json(config)))
        if differing:
            raise RunError(f"{self.path} was made with another configuration: {differing}")
        if steps <= planned:
            raise RunError(
                f"steps: got {steps} to extend {self.path}; allowed more than its {planned}; give "
                "--steps"
            )
        summary = self.path / "summary.json"
        if summary.exists():  # first: without a summary the run counts as unfinished
            summary.replace(self.path / f"summary-{planned}.json")
        extended = [*stored.get("extended", []), planned]
        write_json(self.path / "config.json", stored | {"steps": steps, "extended": extended})
        return planned

    def log(self, kind: str, step: int, **metrics: float | int | str | bool) -> None:
        """Append one line to metrics.jsonl, and the numbers to TensorBoard as ``kind/name``."""
        line = {"kind": kind, "step": step, "time": round(time.time(), 3), **metrics}
        written = to_json(line).encode() + b"\n"
        try:
            if self._metrics is None:
                self._metrics = (self.path / "metrics.jsonl").open("ab", buffering=0)
            if self._metrics.write(written) < len(written):
                raise OSError("the disk is full")
        except OSError as error:
            raise RunError(f"cannot write {self.path / 'metrics.jsonl'}: {error}") from error
        if self._tensorboard is None:
            self._tensorboard = _tensorboard(self.path / "tensorboard", self._first_new_step)
        if self._tensorboard:
            for name, value in metrics.items():
                if not isinstance(value, str):
                    self._tensorboard.add_scalar(f"{kind}/{name}", value, step)

    def read_metrics(self, kind: str) -> list[dict[str, Any]]:
        """Read the lines of one kind, oldest first; skip a half-written last line and warn."""
        file = self.path / "metrics.jsonl"
        lines = file.read_bytes().splitlines(keepends=True) if file.exists() else []
        if lines and not lines[-1].endswith(b"\n"):
            lines.pop()
            warnings.warn(f"{file}: left out a half-written last line", stacklevel=2)
        rows = []
        for number, line in enumerate(lines, start=1):
            try:
                row = json.loads(line)
            except ValueError as error:
                raise RunError(f"{file}: line {number} is not JSON") from error
            if row["kind"] == kind:
                rows.append({key: NOT_FINITE.get(value, value) for key, value in row.items()})
        return rows

    def write_summary(self, summary: dict[str, Any]) -> None:
        write_json(self.path / "summary.json", summary)

    def read_summary(self) -> dict[str, Any]:
        return read_json(self.path / "summary.json")

    def checkpoints(self) -> list[Path]:
        """List the checkpoints, newest first."""
        return sorted((self.path / "checkpoints").glob("step-*.pt"), reverse=True)

    def save_checkpoint(self, state: dict[str, Any], step: int) -> None:
        """Save a state atomically: tensors, numbers, strings and dicts, lists, tuples of these."""
        require_loadable(state, "state")
        if self._metrics is not None:
            os.fsync(self._metrics.fileno())
        content = {
            "state": state,
            "step": step,
            "metrics_bytes": (self.path / "metrics.jsonl").stat().st_size,
            "config": to_json(_hyper_parameters(self.read_config())),
        }
        path = self.path / "checkpoints" / f"step-{step:012d}.pt"
        write_atomically(path, lambda file: torch.save(content, file))
        for old in self.checkpoints()[KEPT_CHECKPOINTS:]:
            old.unlink()

    def read_checkpoint(self) -> dict[str, Any]:
        """Read the state in the newest readable checkpoint; change nothing in the folder."""
        return self._newest_readable()[0]["state"]

    def load_checkpoint(self) -> dict[str, Any]:
        """Read the state to resume from; truncate metrics.jsonl to its length at the checkpoint."""
        checkpoint, damaged = self._newest_readable()
        metrics = self.path / "metrics.jsonl"
        if not metrics.exists() or metrics.stat().st_size < checkpoint["metrics_bytes"]:
            raise RunError(f"{metrics} is shorter than at its checkpoint: lines are lost")
        self.close()
        os.truncate(metrics, checkpoint["metrics_bytes"])
        self._first_new_step = checkpoint["step"] + 1
        for file in damaged:
            file.rename(file.with_suffix(".broken"))
        return checkpoint["state"]

    def _newest_readable(self) -> tuple[dict[str, Any], list[Path]]:
        """Read the newest undamaged checkpoint; list the damaged ones that are newer."""
        damaged: dict[Path, str] = {}
        for file in self.checkpoints():
            try:
                with zipfile.ZipFile(file) as archive:  # torch.load itself checks no checksums
                    if archive.testzip() is not None:
                        raise ValueError("a checksum is wrong")
                checkpoint = torch.load(file, map_location="cpu", weights_only=True)
            except Exception as error:  # a damaged file may raise any exception
                damaged[file] = type(error).__name__
                continue
            saved = json.loads(checkpoint["config"])
            # A run may be extended after its newest checkpoint.
            differing = _differences(self.read_config(), saved, apart=("steps",))
            if differing:
                raise RunError(f"{file} belongs to another configuration: {differing}")
            for newer, kind in damaged.items():
                warnings.warn(f"{newer} is damaged ({kind})", stacklevel=3)
            return checkpoint, list(damaged)
        names = ", ".join(map(str, damaged)) or f"{self.path / 'checkpoints'} is empty"
        raise RunError(f"no readable checkpoint: {names}")

    def close(self) -> None:
        """Flush and close the files; a later `log` opens them again."""
        if self._metrics is not None:
            self._metrics.close()
        if self._tensorboard:
            self._tensorboard.close()
        self._metrics = self._tensorboard = None


def _tensorboard(folder: Path, first_new_step: int | None) -> Any:
    """Make a SummaryWriter, or False without the tensorboard package; the import is slow."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        warnings.warn("tensorboard is not installed: only metrics.jsonl is written", stacklevel=3)
        return False
    return SummaryWriter(str(folder), purge_step=first_new_step)


def _hyper_parameters(config: dict[str, Any]) -> dict[str, Any]:
    apart = DESCRIPTION + MAY_DIFFER + HISTORY
    return {key: value for key, value in config.items() if key not in apart}


def _differences(stored: dict[str, Any], given: dict[str, Any], apart: tuple[str, ...] = ()) -> str:
    """Describe every hyper-parameter that differs, as ``name (stored, not given)``."""
    stored, given = _hyper_parameters(stored), _hyper_parameters(given)
    return ", ".join(
        f"{key} ({stored.get(key)}, not {given.get(key)})"
        for key in sorted(stored | given)
        if stored.get(key) != given.get(key) and key not in apart
    )


def require_loadable(value: Any, name: str) -> None:
    """Check that ``torch.load(weights_only=True)`` can load a state.

    Raises:
        TypeError: it could not; the message names the entry.
    """
    if type(value) in (dict, OrderedDict):
        for key, item in value.items():
            require_loadable(key, f"the key {key!r} of {name}")
            require_loadable(item, f"{name}[{key!r}]")
    elif type(value) in (list, tuple):
        for index, item in enumerate(value):
            require_loadable(item, f"{name}[{index}]")
    elif not isinstance(value, torch.Tensor) and type(value) not in PLAIN_TYPES:
        raise TypeError(
            f"{name} is a {type(value).__name__}, which a checkpoint cannot hold: "
            "use tensors, numbers, strings, and dicts, lists or tuples of these"
        )
