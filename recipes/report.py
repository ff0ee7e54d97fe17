"""A report on any set of runs: one HTML page with everything in it, Markdown tables, and a CSV.

    python recipes/report.py runs/ --out report/

Reads run folders, however deep beneath what is named, and averages runs that differ in nothing but
the seed. Unfinished and damaged runs are named in the report and left out of its averages; mixed
budgets and runs that are there twice are refused.
"""

import base64
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import tyro

from recipes.reports.data import LeftOut, read_runs
from recipes.reports.figures import (
    DPI,
    Style,
    curves_figure,
    improvement_figure,
    scatter_figure,
    styles,
)
from recipes.reports.groups import Group, check, group_runs, over_tasks
from recipes.reports.notes import notes
from recipes.reports.pairs import COMPARED, Pairs, compare
from recipes.reports.references import SG6
from recipes.reports.statistics import RESAMPLES
from recipes.reports.tables import pooled_table, published_table, task_table, write_csv
from recipes.runs.errors import RunError, errors_in_one_line

TEMPLATES = Path(__file__).parent / "reports" / "templates"


@dataclass(frozen=True)
class Options:
    """What to report on."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Run folders, folders that hold some, or summary files."""
    out: Path = Path("report")
    """Folder for report.html, report.md and runs.csv."""
    by_commit: bool = False
    """Runs of different commits of the code get rows of their own."""


def write_report(options: Options) -> Path:
    """Read, average, draw and write; returns the page.

    Raises:
        RunError: if there is nothing to report, or what must not be averaged.
    """
    runs, left_out = read_runs(options.runs, options.by_commit)
    if not runs:
        reasons = "; ".join(f"{path}: {reason}" for path, reason in left_out)
        raise RunError(f"no finished run to report on: {reasons or 'no path was given'}")
    check(runs)
    groups = group_runs(runs)
    content = _content(groups, left_out)
    try:
        options.out.mkdir(parents=True, exist_ok=True)
        for name in ("report.html", "report.md"):
            page = _environment().get_template(f"{name}.jinja").render(content)
            (options.out / name).write_text(page)
        write_csv(options.out / "runs.csv", groups)
    except OSError as error:
        raise RunError(f"cannot write the report to {options.out}: {error.strerror}") from error
    return options.out / "report.html"


def _content(groups: dict[str, list[Group]], left_out: Sequence[LeftOut]) -> dict[str, Any]:
    """Everything the two pages show."""
    look = styles([group.name for rows in groups.values() for group in rows])
    pairs = compare(over_tasks(groups))
    return {
        "runs": sum(len(group.runs) for rows in groups.values() for group in rows),
        "left_out": len(left_out),
        "notes": notes(groups, left_out),
        "pooled": pooled_table(groups),
        "pooled_improvements": [row for same in pairs for row in same.table()],
        "pooled_figures": _pair_figures(pairs, "all tasks"),
        "tasks": [_task(task, rows, look) for task, rows in groups.items()],
        "sg6": ", ".join(task.removeprefix("Safety").removesuffix("-v0") for task in SG6),
        "resamples": RESAMPLES,
    }


def _task(task: str, groups: list[Group], look: dict[str, Style]) -> dict[str, Any]:
    """One task's tables and figures; recipes are compared only at the same length."""
    first = groups[0].runs[0]
    pairs = compare([[group] for group in groups])
    return {
        "name": task,
        "budget": f"{first.episode_budget:g}",
        "budget_rate": f"{first.budget_rate:g}",
        "table": task_table(groups),
        "published": published_table(task),
        "improvements": [row for same in pairs for row in same.table()],
        "figures": _figures(task, groups, look) + _pair_figures(pairs, task),
    }


def _figures(task: str, groups: list[Group], look: dict[str, Style]) -> list[dict[str, str]]:
    budget = groups[0].runs[0].episode_budget
    with_curves = [group for group in groups if all(run.curve for run in group.runs)]
    figures = []
    if with_curves:
        for of_cost, what in ((False, "Return"), (True, "Cost")):
            png = curves_figure(with_curves, look, of_cost, budget)
            figures.append(_figure(f"{what} per episode while learning", task, png))
    title = "Final return against cost rate while learning"
    return [*figures, _figure(title, task, scatter_figure(groups, look))]


def _pair_figures(pairs: Sequence[Pairs], task: str) -> list[dict[str, str]]:
    return [
        _figure(
            f"Probability of {COMPARED[figure]} after {same.steps:,} steps",
            task,
            improvement_figure(same.names, found, COMPARED[figure]),
        )
        for same in pairs
        for figure, found in same.better.items()
    ]


def _figure(title: str, task: str, png: bytes) -> dict[str, str]:
    """A figure as the template takes it, the picture in its address."""
    address = f"data:image/png;base64,{base64.b64encode(png).decode()}"
    width = int.from_bytes(png[16:20], "big")  # from the PNG's header
    return {
        "title": title,
        "alt": f"{title}: {task}",
        "src": address,
        "width": str(width * 96 // DPI),
    }


def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=lambda name: bool(name) and ".html" in name,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )


def main(arguments: list[str]) -> None:
    """Entry point: answers errors in one line."""
    with errors_in_one_line():
        page = write_report(tyro.cli(Options, args=arguments))
    print(f"the report is in {page}")


if __name__ == "__main__":
    main(sys.argv[1:])
