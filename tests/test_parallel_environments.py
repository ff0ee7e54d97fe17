"""Environments in processes: the same episodes as in one, whatever happens to the processes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from own_task import Walk

from blocks import ParallelEnvironments, make_environment
from blocks.environments.constrained import constrained
from blocks.environments.episodes import ConstrainedEnvironment
from blocks.environments.parallel import ATTEMPTS, Steps

TASK = "SafetyPointCircle1-v0"  # 500 environment steps, and cheap
OPTIONS = {"seed": 3, "action_repeat": 50}
PUSH = np.array((1.0, 0.3), np.float32)  # out of the circle: it costs


def make_walk(seed: int) -> ConstrainedEnvironment:
    """A user's own environment; processes import it from here."""
    costs = {"left": "cost_left", "push": "cost_push"}
    return constrained(Walk(), costs, episode_length=12, action_repeat=2, seed=seed)


def play(environments: ParallelEnvironments, actions: int) -> list[Steps]:
    return [environments.step([PUSH] * len(environments)) for _ in range(actions)]


def assert_same(first: list[Steps], second: list[Steps]) -> None:
    assert len(first) == len(second)
    for one, other in zip(first, second, strict=True):
        for name, a, b in zip(Steps._fields, one, other, strict=True):
            np.testing.assert_array_equal(a, b, err_msg=name)


def test_plays_the_episodes_of_a_single_environment_and_keeps_every_cost() -> None:
    single = make_environment(TASK, **OPTIONS)
    with ParallelEnvironments(TASK, 2, **OPTIONS) as environments:
        assert len(environments) == 2
        assert environments.over.all()
        for first in (0, 2):  # episodes 0 and 1, then 2 and 3
            observations = environments.reset()
            steps = play(environments, 10)
            assert environments.over.all()
            assert sum(step.inner_steps for step in steps).tolist() == [500, 500]
            total = 0.0
            for place in range(2):
                observation, _ = single.reset(options={"episode": first + place})
                np.testing.assert_array_equal(observations[place], observation)
                for step in steps:
                    observation, reward, _, truncated, info = single.step(PUSH)
                    np.testing.assert_array_equal(step.observations[place], observation)
                    assert step.rewards[place] == reward
                    assert step.costs[place] == info["cost"]
                    assert step.costs_each[place].tolist() == [info["cost"]]
                    assert step.truncated[place] == truncated
                    total += info["cost"]
            assert total > 0
        assert environments.episode_index == 4


def test_plays_a_user_s_own_environment_and_keeps_each_of_its_costs() -> None:
    single = make_walk(seed=8)
    push = np.array([-0.6], np.float32)
    with ParallelEnvironments(make_walk, 2, seed=8) as environments:
        assert environments.cost_names == ("left", "push")
        assert environments.episode_length == 12
        environments.reset()  # episodes 0 and 1
        observations = environments.reset()
        steps = [environments.step([push] * 2) for _ in range(6)]
        assert environments.over.all()
    for place in range(2):
        observation, _ = single.reset(options={"episode": 2 + place})
        np.testing.assert_array_equal(observations[place], observation)
        for step in steps:
            observation, _, _, _, info = single.step(push)
            np.testing.assert_array_equal(step.observations[place], observation)
            np.testing.assert_array_equal(step.costs_each[place], info["costs"])
            assert step.costs[place] == info["cost"]
    assert (sum(step.costs_each for step in steps) > 0).all()


def test_names_the_costs_of_a_task() -> None:
    with ParallelEnvironments(TASK, 1, **OPTIONS, cost={"wall": "cost_sum"}) as environments:
        assert environments.cost_names == ("wall",)
        environments.reset()
        assert sum(step.costs_each.sum() for step in play(environments, 10)) > 0


def test_a_process_that_is_killed_changes_nothing() -> None:
    with ParallelEnvironments(TASK, 2, **OPTIONS) as environments:
        environments.reset()
        undisturbed = play(environments, 10)
    with ParallelEnvironments(TASK, 2, **OPTIONS) as environments:
        environments.reset()
        steps = []
        for action in range(10):
            if action in (0, 4, 5):
                process = environments._workers[action % 2].process
                assert process is not None
                process.kill()
                if action == 4:  # once known to be dead, otherwise perhaps not yet
                    process.join()
            steps += play(environments, 1)
    assert_same(steps, undisturbed)


@pytest.mark.parametrize("killed", [False, True])
def test_each_at_its_own_pace_plays_the_same_episodes(killed: bool) -> None:
    with ParallelEnvironments(TASK, 2, **OPTIONS) as environments:
        environments.reset()
        together = play(environments, 10)
        environments.episode_index = 0
        environments.reset()
        alone: dict[int, list[Steps]] = {0: [], 1: []}
        environments.send(1, PUSH)
        while not environments.over.all():
            for place in (0, 1):
                worker = environments._workers[place]
                # The first runs ahead by up to three actions.
                ahead = len(alone[0]) - len(alone[1]) >= 3 and place == 0
                if not (worker.over or worker.asked or ahead):
                    environments.send(place, PUSH)
                    if killed and len(alone[place]) == 4:
                        worker.process.kill()
            places, steps = environments.receive()
            for row, place in enumerate(places):
                alone[place].append(Steps(*(column[row] for column in steps)))
    for place, steps in alone.items():
        assert_same(steps, [Steps(*(column[place] for column in step)) for step in together])


def test_an_action_is_answered_before_the_next() -> None:
    with ParallelEnvironments(TASK, 2, **OPTIONS) as environments:
        with pytest.raises(RuntimeError, match=r"environment 1: its episode is over"):
            environments.send(1, PUSH)
        environments.reset()
        with pytest.raises(RuntimeError, match=r"no action is under way; call send"):
            environments.receive()
        environments.send(1, PUSH)
        with pytest.raises(RuntimeError, match=r"environment 1: it still has an action"):
            environments.send(1, PUSH)
        for begin in (environments.reset, lambda: play(environments, 1)):
            with pytest.raises(RuntimeError, match=r"an action is under way; call receive"):
                begin()
        assert environments.receive()[0] == [1]
        assert play(environments, 1)[0].inner_steps.tolist() == [50, 50]


def test_processes_that_always_die_are_an_error_that_says_where(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with ParallelEnvironments(TASK, 1, **OPTIONS) as environments:
        environments.reset()
        play(environments, 1)
        started = 0
        start = environments._start

        def start_and_kill(worker) -> None:
            nonlocal started
            started += 1
            start(worker)
            worker.process.kill()

        monkeypatch.setattr(environments, "_start", start_and_kill)
        environments._workers[0].process.kill()
        environments._workers[0].process.join()
        with pytest.raises(RuntimeError, match=r"episode 0 died 3 times at its step 2 .*-9"):
            play(environments, 1)
        assert started == ATTEMPTS - 1


def test_what_an_environment_raises_is_raised_here_and_it_goes_on() -> None:
    with ParallelEnvironments(TASK, 2, **OPTIONS) as environments:
        environments.reset()
        with pytest.raises(RuntimeError, match=r"environment 1: ValueError: action: got shape"):
            environments.step([PUSH, np.zeros(5)])
        environments.reset()
        assert play(environments, 1)[0].inner_steps.tolist() == [50, 50]


KILLED = f"""
import os, signal
from blocks import ParallelEnvironments
if __name__ == "__main__":
    environments = ParallelEnvironments({TASK!r}, 2)
    environments.reset()
    print(*(worker.process.pid for worker in environments._workers), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_processes_end_with_the_one_that_started_them_even_if_it_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(KILLED)
    ended = subprocess.run(
        [sys.executable, script],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[1],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])},
    )
    assert ended.returncode == -signal.SIGKILL
    pids = [int(pid) for pid in ended.stdout.split()]
    assert len(pids) == 2
    last = time.monotonic() + 20
    while any(map(running, pids)) and time.monotonic() < last:
        time.sleep(0.1)
    assert not any(map(running, pids))


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except OSError:
        return False


def test_an_episode_that_is_over_stays_as_it_is() -> None:
    with ParallelEnvironments(TASK, 1, **OPTIONS) as environments:
        with pytest.raises(RuntimeError, match=r"every episode is over, or none begun"):
            environments.step([PUSH])
        environments.reset()
        last = play(environments, 10)[-1]
        assert last.truncated.tolist() == [True]
        with pytest.raises(RuntimeError, match=r"every episode is over"):
            environments.step([PUSH])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((TASK, 0), r"count: got 0; allowed an integer >= 1"),
        ((TASK, True), r"count: got True"),
        (("SafetyPointNowhere1-v0", 2), r"task: got 'SafetyPointNowhere1-v0'"),
    ],
)
def test_refuses(arguments: tuple[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ParallelEnvironments(*arguments)


def test_a_function_sets_the_environment_s_arguments_itself() -> None:
    with pytest.raises(ValueError, match=r"action_repeat: got 2 beside a function"):
        ParallelEnvironments(make_walk, 2, action_repeat=2)


def test_one_action_for_each() -> None:
    environments = ParallelEnvironments(TASK, 2, **OPTIONS)
    with pytest.raises(ValueError, match=r"actions: got 1; allowed one for each of 2 "):
        environments.step([PUSH])
