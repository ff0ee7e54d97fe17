"""The pass through the task families: it fails if a task fails that should work."""

from typing import Any

import pytest
import task_families
from own_task import Walk
from task_families import Family, go_through, main

from blocks import constrained


class NegativeCost(Walk):
    def step(self, action: Any) -> Any:
        *outcome, info = super().step(action)
        return *outcome, info | {"cost": -1.0}


def make_wrong() -> Any:
    return constrained(NegativeCost(), episode_length=100)


def test_own_environment_and_pendulum_pass() -> None:
    assert main(["a user's own", "Pendulum"]) == 0


def test_an_environment_that_is_wrong_is_built_but_not_checked() -> None:
    builds, checked, reason = go_through(Family("wrong", make_wrong))
    assert (builds, checked) == ("yes", "no")
    assert "-1" in reason


@pytest.mark.parametrize(("known", "code"), [("", 1), ("never worked", 0)])
def test_only_a_failure_that_is_not_known_counts(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], known: str, code: int
) -> None:
    rows = [Family("right", task_families.make_own), Family("wrong", make_wrong, known)]
    monkeypatch.setattr(task_families, "families", lambda: rows)
    assert main([]) == code
    printed = capsys.readouterr().out
    assert "| right | yes | yes |" in printed
    assert ("known: never worked" in printed) == bool(known)


def test_every_family_has_a_row() -> None:
    from blocks.environments.compatibility import import_safety_gymnasium

    names = import_safety_gymnasium().utils.registration.safe_registry
    shown = "Vision-", "Debug-"
    kinds = {kind(name) for name in names if not any(part in name for part in shown)}
    assert kinds == {kind(f.name) for f in task_families.families() if f.name.startswith("Safety")}


def kind(name: str) -> str:
    """Return the task's name without robot, level and version."""
    name = name.split()[0].removeprefix("Safety").rpartition("-")[0]
    if "Velocity" in name:
        return name
    for robot in task_families.ROBOTS:
        name = name.removeprefix(robot)
    return name.rstrip("012")
