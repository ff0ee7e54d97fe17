"""Assemble, render and write a report: an HTML page with figures, Markdown tables and a CSV."""

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2

from recipes.reports import figures, tables
from recipes.reports.groups import COMPARED, Group, Pairs, compare, over_tasks
from recipes.reports.statistics import RESAMPLES
from recipes.runs.errors import RunError


def write_report(groups: dict[str, list[Group]], left_out: dict[Path, str], out: Path) -> Path:
    """Write report.html, report.md and runs.csv; return the path of the HTML page.

    Raises:
        RunError: if the folder cannot be written.
    """
    pages = jinja2.Environment(
        loader=jinja2.PackageLoader("recipes.reports"),
        autoescape=lambda name: name is not None and ".html" in name,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    pages.filters["markdown"] = tables.markdown
    content = _content(groups, left_out)
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name in ("report.html", "report.md"):
            (out / name).write_text(pages.get_template(f"{name}.jinja").render(content))
        tables.write_csv(out / "runs.csv", groups)
    except OSError as error:
        raise RunError(f"cannot write the report to {out}: {error.strerror}") from error
    return out / "report.html"


def run_tables(groups: dict[str, list[Group]]) -> str:
    """The Markdown tables of every run, each task's under its name if there are several."""
    parts = []
    for task, rows in groups.items():
        parts += [f"## {task}"] if len(groups) > 1 else []
        found = tables.runs_table(rows), tables.pessimism_table(rows)
        parts += [tables.markdown(table) for table in found if table]
    return "\n\n".join(parts)


def _content(groups: dict[str, list[Group]], left_out: dict[Path, str]) -> dict[str, Any]:
    """Everything the two pages show."""
    look = figures.styles([group.name for rows in groups.values() for group in rows])
    pooled = over_tasks(groups)
    pairs = compare(pooled)
    return {
        "runs": sum(len(group.runs) for rows in groups.values() for group in rows),
        "left_out": len(left_out),
        "notes": tables.notes(groups, left_out),
        "pooled": [tables.pooled_row(rows) for rows in pooled],
        "pooled_pairs": tables.pairs_table(pairs),
        "pooled_figures": _figures("all tasks", _of_pairs(pairs)),
        "tasks": [_task(task, rows, look) for task, rows in groups.items()],
        "resamples": RESAMPLES,
    }


def _task(task: str, groups: list[Group], look: dict[str, figures.Style]) -> dict[str, Any]:
    """One task's tables and figures."""
    budget, budget_rate = groups[0].runs[0].episode_budget, groups[0].runs[0].budget_rate
    pairs = compare([[group] for group in groups])
    drawn: dict[str, bytes] = {}
    if with_curves := [group for group in groups if all(run.curve for run in group.runs)]:
        for what in ("Return", "Cost"):
            png = figures.curves_figure(with_curves, look, what == "Cost", budget)
            drawn[f"{what} per episode while learning"] = png
    drawn["Final return against cost rate while learning"] = figures.scatter_figure(groups, look)
    return {
        "name": task,
        "budget": f"{budget:g}",
        "budget_rate": f"{budget_rate:g}",
        "groups": [tables.group_row(group, tables.any_audited(groups)) for group in groups],
        "runs": tables.runs_table(groups),
        "published": tables.published_table(task),
        "pairs": tables.pairs_table(pairs),
        "figures": _figures(task, drawn | _of_pairs(pairs)),
    }


def _of_pairs(pairs: Sequence[Pairs]) -> dict[str, bytes]:
    return {
        f"Probability of {better} after {same.steps:,} steps": figures.improvement_figure(
            same.names, same.better[figure], better
        )
        for same in pairs
        for figure, better in COMPARED.items()
    }


def _figures(task: str, drawn: dict[str, bytes]) -> list[dict[str, Any]]:
    """The figures for the template, with the pictures as data URLs."""
    return [
        {
            "title": title,
            "alt": f"{title}: {task}",
            "src": f"data:image/png;base64,{base64.b64encode(png).decode()}",
            "width": int.from_bytes(png[16:20], "big") * 96 // figures.DPI,  # from the PNG's header
        }
        for title, png in drawn.items()
    ]
