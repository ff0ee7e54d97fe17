"""Roll out the policies of a finished run again, many episodes side by side."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from blocks import Environment
from blocks.environments.costs import cost_names_of
from recipes.agents import Agent, Auditable, Config, Guard, Policy
from recipes.audits.records import AuditedPolicy, Rollouts
from recipes.runs.errors import RunError
from recipes.runs.folder import RunFolder
from recipes.runs.snapshots import read_snapshot
from recipes.training.episode import within_bounds
from recipes.training.loop import MakeAgent, MakeEnvironment, as_components, environment_maker

TOGETHER = 20  # episodes side by side at most; each has an environment
AUDIT_SEED = 2_000_000  # keeps the seeds apart from those of training


class Job(NamedTuple):
    """What to audit; another process gets it by pickle."""

    run: Path
    agent: MakeAgent
    environment: Environment | MakeEnvironment | None
    """As for ``train``."""
    config: type[Config]
    rollouts: int


class Auditor:
    """Rolls out any iterate of a run; the episodes depend on run seed, iterate and index only.

    Raises:
        ValueError: the agent is not ``Auditable``.
    """

    def __init__(self, job: Job) -> None:
        self._job = job
        self._config = job.config.of_run(RunFolder(job.run))
        self._parts = as_components(job.agent)
        # Acting needs no replay, so it gets the smallest one, in memory.
        acting = self._config.replace(steps=1, out=None, device="cpu", compile=False)
        make_environment = environment_maker(job.environment, acting, self._parts)
        # An environment that was given is a single object.
        single = isinstance(job.environment, Environment)
        count = 1 if single else min(job.rollouts, TOGETHER)
        self._environments = [make_environment(self._config.seed) for _ in range(count)]
        if len(names := cost_names_of(self._environments[0])) > 1:
            raise ValueError(
                f"environment: got one with the costs {', '.join(names)}; allowed one with a "
                "single cost; an audit of several is not built yet"
            )
        self._agent = _auditable(self._parts(acting, self._environments[0]))

    def audit(self, iterate: int) -> AuditedPolicy:
        """Roll out one iterate's policy.

        Raises:
            RunError: the snapshot is damaged, or does not fit the agent.
            ValueError: the environment returned a cost or reward that is not allowed.
        """
        snapshot = read_snapshot(self._job.run, iterate)
        try:
            self._agent.load_policy_state(snapshot.policy)
        except (RuntimeError, KeyError, TypeError, ValueError, AttributeError) as error:
            raise RunError(
                f"agent: got one that the snapshots of {self._job.run} do not fit; allowed the "
                "agent that was trained; from Python, pass it as audit(run, agent=...)"
            ) from error
        scale = snapshot.exploration_scale
        deployed = self._roll_out(iterate, scale, guarded=True)
        # The same seeds give the same episodes up to the first refusal.
        intervened = any(deployed.fallback_steps)
        unguarded = self._roll_out(iterate, scale, guarded=False) if intervened else deployed
        return AuditedPolicy(
            iterate, self._job.rollouts, snapshot.digest, scale, deployed, unguarded
        )

    def _roll_out(self, iterate: int, scale: float, *, guarded: bool) -> Rollouts:
        episodes: list[_Episode] = []
        count = len(self._environments)
        for first in range(0, self._job.rollouts, count):
            numbers = range(first, min(first + count, self._job.rollouts))
            environment = self._environments[0]
            guards = [
                self._parts.guard(self._config, environment) if guarded else None for _ in numbers
            ]
            seeds = [_seeds(self._config.seed, iterate, number) for number in numbers]
            names = [f"rollout {number} of iterate {iterate}" for number in numbers]
            episodes += self._side_by_side(names, seeds, guards, scale)
        length, budget = self._environments[0].episode_length, self._config.safety.episode_budget
        return Rollouts(
            costs=[episode.cost for episode in episodes],
            budgets=[episode.budget(budget, length) for episode in episodes],
            returns=[episode.total for episode in episodes],
            steps=[episode.steps for episode in episodes],
            fallback_steps=[episode.fallback_steps for episode in episodes],
        )

    def _side_by_side(
        self,
        names: Sequence[str],
        seeds: Sequence[tuple[int, int]],
        guards: Sequence[Guard | None],
        scale: float,
    ) -> list[_Episode]:
        """Run one episode for each name, seeds (environment, policy) and guard."""
        fallback = self._parts.fallback(self._environments[0])
        self._agent.start_together([policy_seed for _, policy_seed in seeds])
        episodes = [
            _Episode(name, environment, seed, guard, fallback)
            for name, environment, (seed, _), guard in zip(
                names, self._environments, seeds, guards, strict=False
            )
        ]
        while not all(episode.over for episode in episodes):
            observations = np.stack([episode.observation for episode in episodes])
            actions = self._agent.act_together(observations, scale)
            for episode, action in zip(episodes, actions, strict=True):
                if not episode.over:
                    episode.step(action)
        return episodes


class _Episode:
    """An episode under way, behind its guard, as ``run_episode`` runs it."""

    def __init__(
        self,
        name: str,
        environment: Environment,
        seed: int,
        guard: Guard | None,
        fallback: Policy,
    ) -> None:
        self.name, self.environment, self.guard, self.fallback = name, environment, guard, fallback
        self.observation, _ = environment.reset(seed=seed)
        self.cost = self.total = 0.0
        self.steps = self.fallback_steps = 0
        self.over = self.terminated = False

    def budget(self, episode_budget: float, episode_length: int) -> float:
        """Return the cost it may have: all of the budget, or its share if it was cut off."""
        return episode_budget * (1.0 if self.terminated else self.steps / episode_length)

    def step(self, action: np.ndarray) -> None:
        trusted = self.guard is None or self.guard.allows([self.cost])
        action = action if trusted else self.fallback(self.observation)
        bounded = within_bounds(action, self.environment.action_space)
        self.observation, reward, terminated, truncated, info = self.environment.step(bounded)
        cost: Any = info["cost"]
        if not (math.isfinite(cost) and cost >= 0 and math.isfinite(reward)):
            raise ValueError(
                f"cost and reward: got {cost} and {reward} in {self.name}; allowed finite numbers "
                "and a cost >= 0; check the environment"
            )
        self.cost, self.total = self.cost + float(cost), self.total + float(reward)
        self.steps += info["inner_steps"]
        self.fallback_steps += 0 if trusted else info["inner_steps"]
        self.terminated, self.over = bool(terminated), bool(terminated or truncated)


def _seeds(run_seed: int, iterate: int, rollout: int) -> tuple[int, int]:
    """Return the seeds of an episode's environment and policy."""
    states = np.random.SeedSequence((AUDIT_SEED, run_seed, iterate, rollout)).generate_state(2)
    return int(states[0]), int(states[1])


def _auditable(agent: Agent) -> Auditable:
    if not isinstance(agent, Auditable):
        raise ValueError(
            f"agent: got {type(agent).__name__}; allowed an agent with the methods of "
            "recipes.agents.Auditable; add them"
        )
    return agent
