"""The rollouts of each policy, and their file ``audit.jsonl``: one line per iterate."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from recipes.audits.statistics import mean_interval, share_interval
from recipes.runs.atomic_files import to_json, write_atomically
from recipes.runs.errors import RunError


class Rollouts(NamedTuple):
    """Episodes of one policy, one entry per episode."""

    costs: list[float]
    """Undiscounted sums."""
    budgets: list[float]
    """The episode budget, or its share for an episode that ended early; see ``safety_summary``."""
    returns: list[float]
    """Undiscounted sums."""
    steps: list[int]
    """Environment steps."""
    fallback_steps: list[int]
    """Steps after the guard refused."""

    @property
    def excesses(self) -> list[float]:
        """Costs beyond the budgets; negative within them."""
        return [cost - budget for cost, budget in zip(self.costs, self.budgets, strict=True)]

    @property
    def violations(self) -> int:
        """Number of episodes over their budgets."""
        return sum(excess > 0 for excess in self.excesses)

    def estimates(self) -> dict[str, Any]:
        """Estimate the expected cost and the probability of exceeding the budget.

        The interval is for the expected excess, shifted by the mean budget.
        """
        interval, budget = mean_interval(self.excesses), float(np.mean(self.budgets))
        return {
            "mean_cost": float(np.mean(self.costs)),
            "interval": interval and [budget + bound for bound in interval],
            "over_budget": self.violations / len(self.costs),
            "over_budget_interval": share_interval(self.violations, len(self.costs)),
        }


class AuditedPolicy(NamedTuple):
    """One iterate's rollouts."""

    iterate: int
    rollouts: int
    """Number of rollouts in each way."""
    snapshot: str
    """Hash of the snapshot's file."""
    exploration_scale: float
    deployed: Rollouts
    """Behind the run's guard, if it has one."""
    unguarded: Rollouts
    """From the same seeds, without the guard."""


def read_audited(file: Path) -> list[AuditedPolicy]:
    """Read the finished iterates; leave out a half-written last line.

    Raises:
        RunError: another line is damaged.
    """
    lines = file.read_bytes().splitlines(keepends=True) if file.exists() else []
    return [
        _parse(line, f"{file}, line {number}")
        for number, line in enumerate(lines, start=1)
        if line.endswith(b"\n")
    ]


def append_audited(file: Path, policy: AuditedPolicy) -> None:
    """Append one line.

    Raises:
        RunError: the file cannot be written.
    """
    try:
        with file.open("ab") as stream:
            stream.write(_line(policy))
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        raise RunError(f"cannot write {file}: {error.strerror}") from error


def write_audited(file: Path, policies: Sequence[AuditedPolicy]) -> None:
    """Replace the file by these iterates in order, atomically."""
    ordered = sorted(policies, key=lambda policy: policy.iterate)
    write_atomically(file, lambda stream: stream.write(b"".join(map(_line, ordered))))


def _line(policy: AuditedPolicy) -> bytes:
    ways = {
        name: rollouts.estimates() | rollouts._asdict()
        for name, rollouts in (("deployed", policy.deployed), ("unguarded", policy.unguarded))
    }
    return to_json(policy._asdict() | ways).encode() + b"\n"


def _parse(line: bytes, where: str) -> AuditedPolicy:
    try:
        row = json.loads(line)
        for name in ("deployed", "unguarded"):
            row[name] = Rollouts(*(row[name][column] for column in Rollouts._fields))
        return AuditedPolicy(*(row[name] for name in AuditedPolicy._fields))
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(f"{where} is damaged; delete the file to audit anew") from error
