"""The progress line, in a terminal and elsewhere, and the table of results."""

import io

import pytest
from rich.console import Console

from recipes.training import progress
from recipes.training.progress import Progress, clock, headline_table

SUMMARY = {
    "task": "SafetyHalfCheetahVelocity-v1",
    "seed": 7,
    "environment_steps": 100_000,
    "wall_seconds": 754.2,
    "policy_violations": 0,
    "episode_violations": 2,
    "cost_rate": 0.01234,
    "cost_regret": 12.5,
    "final_return": 2010.34,
    "final_cost": 4.25,
    "episode_budget": 25.0,
}


class Clock:
    """Replaces the clock; tests set the time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(progress.time, "monotonic", lambda: self.now)


@pytest.fixture
def clock_(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def plain_console() -> Console:
    return Console(file=io.StringIO(), force_terminal=False, width=200)


def text(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_line_shows_all_values(clock_: Clock) -> None:
    bar = Progress(10_000, episode_budget=25.0, console=plain_console())
    clock_.now += 10
    bar.update(1000, "prefill", episode_return=-12.34, episode_cost=5.0, slack=0.8, violations=0)
    assert bar.line().plain == (
        "1,000/10,000 steps prefill  return -12.3  cost 5.0/25  slack 0.80  violations 0"
        "  100 steps/s  1 min 30 s left"
    )
    clock_.now += 10
    bar.update(2000)  # values stay until they change
    assert "return -12.3  cost 5.0/25" in bar.line().plain
    assert "prefill" not in bar.line().plain


def test_unknown_values_are_shown_as_dashes(clock_: Clock) -> None:
    line = Progress(10_000, episode_budget=25.0, console=plain_console()).line().plain
    assert "return -  cost -/25  slack -  violations -  0 steps/s  ? left" in line


def test_the_speed_of_a_resumed_run_ignores_earlier_steps(clock_: Clock) -> None:
    bar = Progress(10_000, episode_budget=25.0, first_step=8000, console=plain_console())
    clock_.now += 10
    bar.update(9000)
    assert "100 steps/s  10 s left" in bar.line().plain


def test_the_speed_is_that_of_the_last_minute(clock_: Clock) -> None:
    bar = Progress(1_000_000, episode_budget=25.0, console=plain_console())
    for step in range(1000, 11_000, 1000):  # a fast prefill
        clock_.now += 1
        bar.update(step)
    for step in range(10_100, 12_100, 100):  # slow training
        clock_.now += 10
        bar.update(step)
    assert "  10 steps/s" in bar.line().plain


def test_outside_a_terminal_a_line_is_printed_every_half_minute(clock_: Clock) -> None:
    console = plain_console()
    with Progress(10_000, episode_budget=25.0, console=console) as bar:
        for step in range(100, 10_100, 100):
            clock_.now += 1
            bar.update(step, episode_cost=0.0)
        bar.print("a [note]")
    lines = text(console).splitlines()
    assert [line.split("/")[0] for line in lines] == [
        "100",
        "3,100",
        "6,100",
        "9,100",
        "a [note]",
        "10,000",
    ]
    assert "\x1b" not in text(console)


def test_in_a_terminal_one_line_is_updated_and_violations_are_red(clock_: Clock) -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=200, color_system="standard")
    with Progress(10_000, episode_budget=25.0, console=console) as bar:
        for step in range(100, 1100, 100):
            clock_.now += 1
            bar.update(step, episode_cost=30.0, violations=1)
    assert "\x1b[1;31m  cost 30.0" in text(console)
    assert "\x1b[1;31m  violations 1" in text(console)
    assert text(console).count("\x1b[2K") >= 10, "the line must be erased before it is redrawn"


def test_headline_table() -> None:
    console = plain_console()
    console.print(headline_table(SUMMARY))
    shown = text(console)
    for words in (
        "SafetyHalfCheetahVelocity-v1, seed 7",
        "policy violations",
        "0.0123",
        "2,010.3",
        "final cost (budget 25)",
        "100,000",
        "12 min 34 s",
    ):
        assert words in shown
    assert max(len(line) for line in shown.splitlines()) < 80


def test_headline_table_of_an_interrupted_run() -> None:
    console = plain_console()
    console.print(headline_table({**SUMMARY, "final_return": None, "final_cost": None}))
    assert text(console).count(" - │") == 2


def test_clock() -> None:
    assert [clock(s) for s in (0, 59.6, 754, 7384)] == [
        "0 s",
        "1 min 00 s",
        "12 min 34 s",
        "2 h 03 min",
    ]
