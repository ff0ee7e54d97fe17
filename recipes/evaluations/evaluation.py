"""Evaluate a policy without exploration; write evaluation.json, a video and the policy itself."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from blocks import Environment, EpisodeRecord, safety_summary, save_policy
from recipes.agents import Config
from recipes.agents.budgets import episode_budgets
from recipes.evaluations.acting import SETTINGS, Acting, of_run, of_saved_policy
from recipes.runs.atomic_files import write_json
from recipes.runs.errors import RunError
from recipes.runs.folder import RunFolder
from recipes.runs.run import Run
from recipes.training.episode import run_episode
from recipes.training.loop import MakeAgent, MakeEnvironment
from recipes.training.results import EVALUATION_SEED, record_video


def evaluate(
    run: Run | str | Path,
    agent: MakeAgent | None = None,
    environment: Environment | MakeEnvironment | None = None,
    *,
    config: type[Config] | None = None,
    episodes: int | None = None,
    task: str | None = None,
    seed: int | None = None,
    guard: bool = False,
    video: bool = False,
    save_to: str | Path | None = None,
) -> dict[str, Any]:
    """Evaluate the policy of a run's last checkpoint, or of a saved policy's folder.

    With the defaults it repeats the evaluation at the end of the run. The policy takes the mode of
    latent and action, so seed and task determine the results. Writes ``evaluation.json`` into the
    folder.

    Args:
        run: a run, finished or not, or its folder; or a folder that ``save_policy`` wrote.
        agent: what ``train`` was given; by default the agent of the recipe that made the run.
        environment: likewise; by default the run's task.
        config: class of the settings, if the agent has more than others.
        episodes: their number; by default that of the run's own evaluation.
        task: another task with the same observations and actions.
        seed: chooses the episodes; by default the run's.
        guard: whether the run's guard ends the policy's part of an episode.
        video: whether to write ``evaluation.mp4``, the first episode at the task's real speed.
        save_to: folder for the policy, see ``blocks.save_policy``.

    Returns:
        The content of ``evaluation.json``.

    Raises:
        ValueError: an argument is not allowed (a RunError: the run has no readable checkpoint, or
            another version made it).

    >>> evaluate("runs/mine", episodes=20)  # doctest: +SKIP
    """
    if episodes is not None and episodes < 1:
        raise ValueError(f"episodes: got {episodes}; allowed 1 and above; take 10")
    if seed is not None and seed < 0:
        raise ValueError(f"seed: got {seed}; allowed 0 and above; take 0")
    if save_to is not None and task is not None:
        raise ValueError(
            "save_to: got a folder and another task; allowed one of the two; save without a task"
        )
    path = run.path if isinstance(run, Run) else Path(run)
    saved = (path / "policy.json").is_file()
    if not saved and not (path / "config.json").is_file():
        raise RunError(
            f"run: got {path}, which holds neither config.json nor policy.json; allowed the folder "
            "of a run or of a saved policy; check the path"
        )
    folder = RunFolder(path)
    if saved:
        acting = of_saved_policy(path, task)
    else:
        acting = of_run(folder, agent, environment, config, task)
    threads = acting.config.threads if acting.config.observation == "image" else 1
    torch.set_num_threads(threads)  # as in training: sums in another order differ by rounding
    seed = acting.config.seed if seed is None else seed
    episodes = acting.config.evaluation_episodes if episodes is None else episodes
    results = _figures(acting, _run_episodes(acting, seed, episodes, guard), seed, guard)
    if video:
        shown = acting.make_environment(EVALUATION_SEED + seed)
        results["video"] = record_video(
            folder, acting.agent, shown, name="evaluation.mp4", actions=None
        )
    write_json(path / "evaluation.json", results)
    if save_to is not None:
        _save(acting, folder, results, Path(save_to))
    return results


def _run_episodes(acting: Acting, seed: int, episodes: int, guard: bool) -> list[EpisodeRecord]:
    environment = acting.make_environment(EVALUATION_SEED + seed)
    if guard and acting.parts.guard(acting.config, environment) is None:
        raise ValueError("guard: got on, but the run has no guard (guard_share 0); allowed off")
    return [
        run_episode(
            acting.agent,
            environment,
            0.0,
            guard=acting.parts.guard(acting.config, environment) if guard else None,
            fallback=acting.parts.fallback(environment),
            remember=False,
        )
        for _ in range(episodes)
    ]


def _figures(
    acting: Acting, records: list[EpisodeRecord], seed: int, guard: bool
) -> dict[str, Any]:
    config, environment = acting.config, acting.make_environment(seed)
    budgets = episode_budgets(config, environment)
    safety = safety_summary(
        records, episode_budget=budgets, episode_length=environment.episode_length
    )
    return {
        "recipe": acting.recipe,
        "task": config.task,
        "seed": seed,
        "guard": guard,
        "deterministic": acting.policy is not None,
        "trained_steps": acting.trained_steps,
        "episode_budget": sum(budgets),  # of several costs, as "costs" are their sums
        "violations": safety.episode_violations,
        "return_mean": float(np.mean([record.episode_return for record in records])),
        "cost_mean": float(np.mean([record.cost for record in records])),
        "steps_mean": float(np.mean([record.steps for record in records])),
        "returns": [record.episode_return for record in records],
        "costs": [record.cost for record in records],
        "steps": [record.steps for record in records],
        "fallback_steps": [record.fallback_steps for record in records],
    }


def _save(acting: Acting, folder: RunFolder, results: dict[str, Any], target: Path) -> None:
    if acting.policy is None:
        raise ValueError(
            f"save_to: got {target}, for an agent that is no LatentAgent; allowed a LatentAgent; "
            "save your agent's state_dict"
        )
    settings = {k: v for k, v in acting.config.to_json().items() if k in SETTINGS}
    settings |= {"recipe": acting.recipe, "steps": acting.trained_steps}
    figures = {
        "return of an episode": results["return_mean"],
        "cost of an episode": results["cost_mean"],
        "evaluated episodes": len(results["costs"]),
        "episodes over the budget": results["violations"],
    }
    if (folder.path / "summary.json").exists():
        summary = folder.read_summary()
        figures["policy violations in training"] = summary["policy_violations"]
    save_policy(
        target,
        acting.policy,
        task=acting.config.task,
        seed=acting.config.seed,
        settings=settings,
        results=figures,
    )
