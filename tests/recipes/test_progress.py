"""The progress bar, in a terminal and elsewhere, and the table of results."""

import io

import pytest
from rich.console import Console

from recipes.training.progress import Progress, headline_table

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


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    """Replaces tqdm's clock; tests set the time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr("tqdm.std.time", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def test_the_line_shows_all_values(clock: Clock) -> None:
    with Progress(10_000, episode_budget=25.0, file=io.StringIO()) as bar:
        clock.now += 10
        bar.show(1000, "prefill", episode_return=-12.34, episode_cost=5.0, slack=0.8, violations=0)
        assert str(bar) == (
            "prefill: 1000/10000 steps, return -12.3, cost 5.0/25, violations 0, slack 0.80"
            " [01:30 left, 100.00 steps/s]"
        )
        clock.now += 10
        bar.show(2000, episode_return=-10.0, episode_cost=30.0)
        assert str(bar).startswith("2000/10000 steps, return -10.0, cost 30.0/25 [")


def test_the_speed_of_a_resumed_run_ignores_earlier_steps(clock: Clock) -> None:
    with Progress(10_000, episode_budget=25.0, first_step=8000, file=io.StringIO()) as bar:
        clock.now += 10
        bar.show(9000, episode_return=0.0, episode_cost=0.0)
        assert "[00:10 left, 100.00 steps/s]" in str(bar)


def test_the_speed_is_that_of_the_last_episodes(clock: Clock) -> None:
    with Progress(1_000_000, episode_budget=25.0, file=Terminal()) as bar:
        for step in range(1000, 11_000, 1000):  # a fast prefill
            clock.now += 1
            bar.show(step, episode_return=0.0, episode_cost=0.0)
        for step in range(11_000, 31_000, 1000):  # slow training
            clock.now += 100
            bar.show(step, episode_return=0.0, episode_cost=0.0)
        assert ", 10.0" in str(bar)


def test_outside_a_terminal_a_line_is_printed_every_half_minute(clock: Clock) -> None:
    file = io.StringIO()
    with Progress(10_000, episode_budget=25.0, file=file) as bar:
        for step in range(100, 10_100, 100):
            clock.now += 1
            bar.show(step, episode_return=0.0, episode_cost=30.0)
    steps = [line.split("/")[0] for line in file.getvalue().splitlines()]
    assert steps == ["0", "3000", "6000", "9000", "10000"]
    assert not {"\x1b", "\r"} & set(file.getvalue())


def test_in_a_terminal_one_line_is_updated_and_a_cost_above_the_budget_is_red(clock: Clock) -> None:
    file = Terminal()
    with Progress(10_000, episode_budget=25.0, file=file) as bar:
        for step, cost in ((5000, 0.0), (10_000, 30.0)):
            clock.now += 1
            assert "\x1b[31m" not in file.getvalue()
            bar.show(step, episode_return=0.0, episode_cost=cost, violations=1)
    assert "\x1b[31m" in file.getvalue()
    assert "cost 30.0/25, violations 1" in file.getvalue()
    assert file.getvalue().count("\n") == 1
    assert file.getvalue().count("\r") >= 3


def test_headline_table() -> None:
    file = io.StringIO()
    Console(file=file, width=200).print(headline_table(SUMMARY))
    shown = file.getvalue()
    for words in (
        "SafetyHalfCheetahVelocity-v1, seed 7",
        "policy violations",
        "0.0123",
        "2,010.3",
        "final cost (budget 25)",
        "100,000",
        "0:12:34",
    ):
        assert words in shown
    assert max(len(line) for line in shown.splitlines()) < 80
