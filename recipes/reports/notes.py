"""What a reader of a report must know before believing an average."""

from collections.abc import Sequence
from itertools import groupby

from recipes.reports.data import LeftOut, Run
from recipes.reports.groups import Group, differing, over_tasks


def notes(groups: dict[str, list[Group]], left_out: Sequence[LeftOut]) -> list[str]:
    """What was left out, what differs between rows, and what a row pools or lacks."""
    found = [f"Left out of every figure: {path}: {reason}." for path, reason in left_out]
    for task, rows in groups.items():
        found += _lengths(task, rows)
        found += _settings(task, [run for group in rows for run in group.runs])
        for group in rows:
            found += _commits(f"{task}: {group.name}", group.runs)
            if len(group.runs) == 1:
                found.append(f"{task}: {group.name} has one seed, so averages lack intervals.")
    for rows in over_tasks(groups):
        keys = differing(run for group in rows for run in group.runs)
        if keys:
            found.append(
                f"All tasks together: {rows[0].recipe} has other settings on other tasks: "
                f"{', '.join(keys)}."
            )
    return found + _summaries([run for rows in groups.values() for g in rows for run in g.runs])


def _lengths(task: str, rows: Sequence[Group]) -> list[str]:
    lengths = sorted({group.steps for group in rows})
    if len(lengths) == 1:
        return []
    text = ", ".join(f"{steps:,}" for steps in lengths)
    return [
        f"{task} has runs of different lengths ({text} steps): each length has rows of its own, "
        "and recipes are compared pairwise only at the same length."
    ]


def _settings(task: str, runs: Sequence[Run]) -> list[str]:
    """In what the rows of one recipe differ; a summary alone knows too little to be compared."""

    def family(run: Run) -> tuple[str, bool]:
        return run.recipe, run.curve is None

    found = []
    for (recipe, _), same in groupby(sorted(runs, key=family), family):
        keys = differing(same)
        if keys:
            found.append(f"{task}: the rows of {recipe} differ in {', '.join(keys)}.")
    return found


def _commits(name: str, runs: Sequence[Run]) -> list[str]:
    commits = sorted({run.commit or "unknown" for run in runs})
    return [f"{name} pools runs of several commits: {', '.join(commits)}."] * (len(commits) > 1)


def _summaries(runs: Sequence[Run]) -> list[str]:
    bare = [run.path for run in runs if run.curve is None]
    if not bare:
        return []
    return [
        f"Given as summaries alone: {len(bare)}, from {bare[0]} on. These have no curve, and their "
        "settings other than members and guard_share are unknown."
    ]
