"""Report on any set of runs: one self-contained HTML page, Markdown tables, and a CSV.

    python recipes/report.py runs/ --out report/
    python recipes/report.py docs/results/cerl_full-seed*.json --markdown

Finds run folders at any depth and averages runs that differ only in the seed. Lists unfinished and
damaged runs and leaves them out of all averages; mixed budgets and duplicate runs are errors.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import tyro

from recipes.reports.groups import read_groups
from recipes.reports.page import run_tables, write_report
from recipes.runs.errors import errors_in_one_line


@dataclass(frozen=True)
class Options:
    """What to report on."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Run folders, folders that contain them, or summary files."""
    out: Path = Path("report")
    """Folder for report.html, report.md and runs.csv."""
    by_commit: bool = False
    """Separate rows for runs of different commits of the code."""
    markdown: bool = False
    """Print a Markdown table of every run, and write nothing."""


def main(arguments: list[str]) -> None:
    """Run the script; errors are printed in one line."""
    options = tyro.cli(Options, args=arguments)
    with errors_in_one_line():
        groups, left_out = read_groups(options.runs, options.by_commit)
        if options.markdown:
            print(run_tables(groups))
            for path, reason in left_out.items():
                print(f"left out: {path}: {reason}", file=sys.stderr)
        else:
            print(f"the report is in {write_report(groups, left_out, options.out)}")


if __name__ == "__main__":
    main(sys.argv[1:])
