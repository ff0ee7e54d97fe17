"""Start a new run with what another one has learned: model, policy, replay."""

from typing import Any

import torch

from blocks import Environment, SequenceReplay
from recipes.agents import Agent, Components, Config, LatentAgent
from recipes.runs.errors import RunError
from recipes.runs.folder import RunFolder

ROWS = 1000  # of the other replay in memory at once
SIZES = ("observation", "members", "deter_size", "stoch_size", "hidden_size", "image_depth")


def check_start(config: Config) -> None:
    """Check that there is a run to start from, with a model of the same sizes if that is taken.

    Raises:
        RunError: there is not.
    """
    if config.start_from is None:
        return
    folder = RunFolder(config.start_from)
    if not folder.checkpoints():
        raise RunError(
            f"start_from: got {folder.path}, which holds no checkpoint; allowed a run after its "
            "first episode; name another one"
        )
    theirs, ours = type(config).of_run(folder).to_json(), config.to_json()
    compared = SIZES if "model" in config.start_with else ("observation",)
    differing = [f"{k} ({theirs[k]}, not {ours[k]})" for k in compared if theirs[k] != ours[k]]
    if differing:
        raise RunError(
            f"start_from: got {folder.path}, made with another {', '.join(differing)}; allowed a "
            "run with the same; change these settings, or start with less"
        )


def warm_start(agent: Agent, parts: Components, config: Config, environment: Environment) -> None:
    """Take the parts ``config.start_with`` from the last checkpoint of ``config.start_from``.

    Weights and data only: optimisers, critics, margin and random numbers are the new run's. The new
    run has its own prefill, in which the policy that was taken acts. Without the replay, vectors
    are normalised anew, by the data of the new run.

    Args:
        agent: of the new run, before its first episode.
        parts: its parts; the other run's replay is built by them.
        config: of the new run.
        environment: of the new run; the other run's has the same observations and actions.

    Raises:
        RunError: the other run has no readable checkpoint, or its parts do not fit.
        ValueError: the agent is no ``LatentAgent``.
    """
    if config.start_from is None:
        return
    if not isinstance(agent, LatentAgent):
        raise ValueError(
            f"start_from: got an agent of class {type(agent).__name__}; allowed a LatentAgent; "
            "load the other agent's state in your own code"
        )
    folder = RunFolder(config.start_from)
    saved = folder.read_checkpoint()["agent"]
    other = type(config).of_run(folder).replace(out=folder.path)
    for part in config.start_with:
        try:
            if part == "model":
                agent.model.load_state_dict(saved["model"])
            elif part == "policy":
                agent.actor.load_state_dict(saved["actor"])
            else:  # images are in a file of the other run's folder
                source = parts.replay(other, environment)
                source.load_state_dict(saved["replay"])
                copy_rows(source, agent.replay)
                agent.iterate_row = agent.replay.added  # the new run's episodes begin here
        except (RuntimeError, KeyError, ValueError) as error:
            raise RunError(
                f"start_from: got {folder.path}, whose {part} does not fit ({error}); allowed a "
                "run with the same observations, actions and parts; name another one"
            ) from error


def copy_rows(source: SequenceReplay, target: SequenceReplay) -> None:
    """Add all rows of a replay to another one, from its first whole episode on."""
    begun = False
    for first in range(source.added - len(source), source.added, ROWS):
        count = min(ROWS, source.added - first)
        rows = source.gather(torch.tensor([first]), count)
        for row in range(count):
            begun = begun or bool(rows.is_first[0, row])
            if begun:
                cost: Any = rows.cost[0, row].tolist()  # one number, or one for each constraint
                target.add(
                    rows.observation[0, row],
                    rows.action[0, row],
                    reward=float(rows.reward[0, row]),
                    cost=cost,
                    is_first=bool(rows.is_first[0, row]),
                    terminated=bool(rows.terminated[0, row]),
                )
