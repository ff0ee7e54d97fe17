"""Audit a finished run: how many of its policies exceeded the budget, and how sure that is.

    python recipes/audit.py runs/cerl_full/SafetyHalfCheetahVelocity-v1/seed0-20250101-120000

Rolls out every policy of the run again, as deployed and without the budget guard, in new episodes
that count nowhere in the run. Writes audit.json, audit.md, audit.png and audit.jsonl into the run's
folder. Stopped, it goes on where it was. Runs of agents that are not in `recipes/` are audited from
Python, with `recipes.audits.audit(run, agent=...)`.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import rich
import tyro

from recipes.audits import audit
from recipes.audits.results import audit_table
from recipes.runs.errors import errors_in_one_line
from recipes.studies.processes import available_cores


@dataclass(frozen=True)
class Options:
    """What to audit."""

    run: tyro.conf.Positional[Path]
    """Folder of a finished run with snapshots."""
    rollouts: int = 20
    """Rollouts of each policy, at least 2."""
    share: float = 0.5
    """Claim also how many policies exceed the budget in at least this share of their episodes."""
    processes: int | None = None
    """Processes; default: one per core. Their number does not change the results."""


def main(arguments: list[str]) -> None:
    """Run the script; errors are printed in one line."""
    options = tyro.cli(Options, args=arguments)
    with errors_in_one_line():
        try:
            results = audit(
                options.run,
                rollouts=options.rollouts,
                share=options.share,
                processes=available_cores() if options.processes is None else options.processes,
            )
        except KeyboardInterrupt:
            print("\nstopped; the same command goes on", file=sys.stderr)
            sys.exit(130)
    rich.print(audit_table(results))
    print(f"the audit is in {options.run / 'audit.md'}")


if __name__ == "__main__":
    main(sys.argv[1:])
