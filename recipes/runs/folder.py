"""What a training run leaves behind, in one folder that survives a kill at any moment.

    config.json        every resolved hyper-parameter, with versions, commit and hardware
    metrics.jsonl      the truth: one JSON line per episode, update phase or evaluation
    tensorboard/       the same numbers for TensorBoard
    checkpoints/       the newest two, each written atomically
    summary.json       the headline figures, once the run has ended
    replay/            of images: all that was seen, which checkpoints count on
    filmstrip.png      of images: the newest episode, reconstructed and imagined
    profile.json, trace.json.gz    with --profile

A checkpoint remembers how long `metrics.jsonl` was, so a resumed run cuts the file back to exactly
what its checkpoint knew: no line is lost and none is there twice.
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
# Where and how a run is computed, not what.
MAY_DIFFER = ("out", "resume", "threads", "profile", "device")
KEPT_CHECKPOINTS = 2
PLAIN_TYPES = (type(None), bool, int, float, str, bytes)
NOT_FINITE = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


class RunFolder:
    """One run's folder: `create` starts a run, `open` resumes one, `RunFolder(path)` reads one.

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
        """Start a new run in `out`, or in `runs/<recipe>/<task>/seed<k>-<time>`."""
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
        """``runs/<recipe>/<task>/seed<k>-<time>``."""
        started = time.strftime("%Y%m%d-%H%M%S")
        return Path("runs") / recipe / task / f"seed{seed}-{started}"

    @classmethod
    def open(cls, path: Path, recipe: str | None = None) -> RunFolder:
        """Open a run that has a checkpoint; with `recipe`, only a run which that recipe made."""
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
        """Write config.json: `config` (resolved hyper-parameters) and what the run ran on."""
        described = {"recipe": self.recipe, "versions": installed_versions()}
        described |= {"commit": git_commit(), "hardware": hardware()}
        write_json(self.path / "config.json", config | described)

    def read_config(self) -> dict[str, Any]:
        return read_json(self.path / "config.json")

    def check_config(self, config: dict[str, Any]) -> None:
        """Raise RunError, naming the fields, if this run was made with another `config`."""
        differing = _differences(self.read_config(), json.loads(to_json(config)))
        if differing:
            raise RunError(f"{self.path} was made with another configuration: {differing}")

    def log(self, kind: str, step: int, **metrics: float | int | str | bool) -> None:
        """Append one line to metrics.jsonl, and the numbers to TensorBoard as `kind/name`."""
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
        """Every line of one kind, oldest first; a half-written last line is left out, and said."""
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
        """The checkpoints, newest first."""
        return sorted((self.path / "checkpoints").glob("step-*.pt"), reverse=True)

    def save_checkpoint(self, state: dict[str, Any], step: int) -> None:
        """Save `state` atomically: tensors, numbers, strings and dicts, lists, tuples of these."""
        _require_loadable(state, "state")
        metrics = self.path / "metrics.jsonl"
        if self._metrics is not None:
            os.fsync(self._metrics.fileno())
        known = {
            "state": state,
            "step": step,
            "metrics_bytes": metrics.stat().st_size,
            "config": to_json(_hyper_parameters(self.read_config())),
        }
        write_atomically(
            self.path / "checkpoints" / f"step-{step:012d}.pt", lambda file: torch.save(known, file)
        )
        for old in self.checkpoints()[KEPT_CHECKPOINTS:]:
            old.unlink()

    def read_checkpoint(self) -> dict[str, Any]:
        """The state in the newest good checkpoint; changes nothing in the folder."""
        return self._newest_good()[0]["state"]

    def load_checkpoint(self) -> dict[str, Any]:
        """The state to go on from; rewinds metrics.jsonl to what that checkpoint knew."""
        known, broken = self._newest_good()
        metrics = self.path / "metrics.jsonl"
        length = metrics.stat().st_size if metrics.exists() else 0
        if length < known["metrics_bytes"]:
            raise RunError(f"{metrics} is shorter than its checkpoint knew it: lines are lost")
        self.close()
        os.truncate(metrics, known["metrics_bytes"])
        self._first_new_step = known["step"] + 1
        for file in broken:
            file.rename(file.with_suffix(".broken"))
        return known["state"]

    def _newest_good(self) -> tuple[dict[str, Any], list[Path]]:
        broken: dict[Path, str] = {}
        for file in self.checkpoints():
            try:
                with zipfile.ZipFile(file) as archive:  # torch.load itself checks no checksums
                    if archive.testzip() is not None:
                        raise ValueError("a checksum is wrong")
                known = torch.load(file, map_location="cpu", weights_only=True)
            except Exception as error:  # whatever a damaged file makes the reader raise
                broken[file] = type(error).__name__
                continue
            differing = _differences(self.read_config(), json.loads(known["config"]))
            if differing:
                raise RunError(f"{file} belongs to another configuration: {differing}")
            for damaged, kind in broken.items():
                warnings.warn(f"{damaged} is damaged ({kind})", stacklevel=3)
            return known, list(broken)
        names = ", ".join(str(file) for file in broken) or f"{self.path / 'checkpoints'} is empty"
        raise RunError(f"no readable checkpoint: {names}")

    def close(self) -> None:
        """Flush and close the files; a later `log` opens them again."""
        if self._metrics is not None:
            self._metrics.close()
        if self._tensorboard:
            self._tensorboard.close()
        self._metrics = self._tensorboard = None


def _tensorboard(folder: Path, first_new_step: int | None) -> Any:
    """A SummaryWriter, or False without the tensorboard package; a slow import, so made late."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        warnings.warn("tensorboard is not installed: only metrics.jsonl is written", stacklevel=3)
        return False
    return SummaryWriter(str(folder), purge_step=first_new_step)


def _hyper_parameters(config: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key not in DESCRIPTION + MAY_DIFFER}


def _differences(stored: dict[str, Any], asked: dict[str, Any]) -> str:
    """Every hyper-parameter that differs, as `name (stored, asked)`."""
    stored, asked = _hyper_parameters(stored), _hyper_parameters(asked)
    return ", ".join(
        f"{key} ({stored.get(key)}, not {asked.get(key)})"
        for key in sorted(stored | asked)
        if stored.get(key) != asked.get(key)
    )


def _require_loadable(value: Any, name: str) -> None:
    """Raise now what `torch.load(weights_only=True)` would raise when the run is resumed."""
    if type(value) in (dict, OrderedDict):
        for key, item in value.items():
            _require_loadable(key, f"the key {key!r} of {name}")
            _require_loadable(item, f"{name}[{key!r}]")
    elif type(value) in (list, tuple):
        for index, item in enumerate(value):
            _require_loadable(item, f"{name}[{index}]")
    elif not isinstance(value, torch.Tensor) and type(value) not in PLAIN_TYPES:
        raise TypeError(
            f"{name} is a {type(value).__name__}, which a checkpoint cannot hold: "
            "use tensors, numbers, strings, and dicts, lists or tuples of these"
        )
