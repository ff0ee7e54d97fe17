"""CERL: Safe Exploration Using Bayesian World Models and Log-Barrier Optimization.

The method of arXiv 2405.05890 on a Safety-Gymnasium task:

    python recipes/cerl_full.py --task SafetyHalfCheetahVelocity-v1 --seed 0

``recipes.training`` runs this loop until the run has all its steps:

1. **Collect**: the policy acts for one episode, behind the guard; the margin between predicted cost
   and budget learns from what the episode cost (``move_margin``).
2. **Fit** the posterior over world models to all data (``fit_posterior``).
3. **Evaluate** the policy in imagination under every posterior sample: its return, and the cost
   return under the worst sample (``evaluate``).
4. **Step**: LBSGD ascends the log barrier, with steps that keep the policy inside the pessimistic
   safe set (``optimizer.step``). Repeat 3 and 4.
5. **Look ahead**: imagine the new policy for longer than it was trained on; go back towards the old
   one while it costs more than both that one and what is allowed (``look_ahead``). Collect again.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.profiler import record_function

from blocks import LBSGD, Environment, State, Weights, backtrack, imagine, stack_parameters
from blocks.actor import ActionSample
from blocks.optimizers.protocol import ConstrainedStep
from recipes.agents import Components, Config, LatentAgent, Metrics
from recipes.agents.components import MakeAgent
from recipes.agents.config import ERROR_GROUPS
from recipes.agents.critics import Critics
from recipes.agents.diagnostics import average, policy_metrics
from recipes.agents.estimates import Estimate, Rollouts, estimate, reach_weights
from recipes.agents.recording import record_updates
from recipes.training import run

LAST_UPDATES = 10
"""Updates before an episode whose estimates predict its cost."""
CHECKED_STARTS = 64
"""Start states from which a new policy is imagined before it acts."""


class CERLAgent(LatentAgent):
    """Acts in its latent state, fits world models, improves its policy in the safe set."""

    STATEFUL = (*LatentAgent.STATEFUL, "critics", "optimizer", "margin")

    def __init__(self, config: Config, environment: Environment, parts: Components) -> None:
        super().__init__(config, environment, parts)
        self.critics = Critics(config, parts, self.budget, self.device)
        self.optimizer = parts.optimizer(self.actor, config)
        self.margin = parts.margin(config)
        self.predicted_cost: float | None = None  # of an episode, in budgets
        if self.device.type == "cuda":
            record_updates(self)

    def begin(self) -> Metrics:
        """After the prefill: fit the models and the critics, then improve the first policy."""
        updates = self.config.model.prefill_updates
        self.fit_posterior(updates)
        self.fit_critics(updates // 3)
        return self.learn(0.0)

    def learn(self, progress: float) -> Metrics:
        """After an episode: fit the posterior, then improve the policy."""
        c, updates = self.config.policy, self.config.model.updates_per_episode
        self.optimizer.learning_rate = c.actor_learning_rate + progress * (
            c.actor_learning_rate_end - c.actor_learning_rate
        )
        self.move_margin()
        new = self.judge_newest_states("new") | {"new_cost": self.newest_cost()}
        fitted = self.fit_posterior(updates)
        learned = self.judge_newest_states("learned")
        self.iterate_row = self.replay.added
        improved = self.improve_policy(updates)
        return fitted | improved | self.disagreement() | new | learned

    def move_margin(self) -> None:
        """Compare the newest episode's cost with what was predicted for its policy."""
        if self.predicted_cost is not None:
            self.margin.update(self.predicted_cost, self.newest_cost())

    def improve_policy(self, updates: int) -> Metrics:
        """Ascend the log barrier of return and worst-case cost return."""
        weights, starts = self.sample_posterior(), self.start_states()
        old = [x.detach().clone() for x in self.actor.parameters()]
        cost_before = self.cost_ahead(starts, weights)
        metrics: list[Metrics] = []
        for _ in range(updates):
            estimate = self.evaluate(self.sample_starts(starts), weights)
            with record_function("policy step"):
                step = self.step(estimate, allowed=self.margin.allowed(1.0))
            metrics.append(policy_metrics(step, estimate))
        last = average(metrics[-LAST_UPDATES:])
        self.predicted_cost = min(last["cost"], last["cost_worst"])
        kept = self.look_ahead(old, cost_before, starts, weights)
        return average(metrics) | {"allowed": self.margin.allowed(1.0)} | kept

    def look_ahead(
        self, old: list[Tensor], cost_before: float, starts: State, weights: Weights
    ) -> Metrics:
        """Go back towards the old policy while the new one costs more ahead than is allowed.

        It may cost as much as the old one, ``cost_before``: model and data have changed since that
        was accepted.
        """
        if not self.config.policy.check_horizon:
            return {}
        limit = max(self.margin.allowed(1.0), cost_before)
        costs: list[float] = []

        def accepts() -> bool:
            costs.append(self.cost_ahead(starts, weights))
            return costs[-1] <= limit

        kept = backtrack(self.actor.parameters(), old, accepts)
        return {"cost_ahead": costs[0], "cost_ahead_before": cost_before, "step_kept": kept}

    @torch.no_grad()
    def cost_ahead(self, starts: State, weights: Weights) -> float:
        """Imagine the policy over the check's horizon and return its cost in the second half.

        It is that of the worst member, in budgets of an episode at this rate. The noise is the same
        at each call, so that policies differ only by what they do.
        """
        horizon = self.config.policy.check_horizon
        if not horizon:
            return 0.0
        source = torch.Generator(self.device).manual_seed(0)
        chosen = torch.randint(
            len(starts.deter), (CHECKED_STARTS,), generator=source, device=self.device
        )
        imagined = imagine(
            self.model.transition(weights),
            self.actor.sample,
            State(*(x[chosen].expand(self.model.members, -1, -1) for x in starts)),
            horizon,
            action_size=self.actor.action_size,
            generator=source,
        )
        late = imagined.state.feat[:, horizon // 2 + 1 :]
        costs = self.model.cost(late, weights).mean((1, 2)) / self.cost_rate
        return float(costs.max())

    def step(self, estimate: Estimate, allowed: float) -> ConstrainedStep:
        """Step so that the cost stays below ``allowed`` budgets, under every member if LBSGD."""
        gain, cost = estimate.differentiable(self.actor)
        if not isinstance(self.optimizer, LBSGD):
            return self.optimizer.step(gain, cost, allowed)
        return self.optimizer.step(
            gain,
            cost,
            allowed,
            slack_error=estimate.slack_error,
            slope_error=estimate.slope_error,
            watched=estimate.watched(allowed),
        )

    def fit_critics(self, updates: int) -> None:
        """Learn the values of the present policy."""
        weights, starts = self.sample_posterior(), self.start_states()
        for _ in range(updates):
            with torch.no_grad():
                rollouts = self.roll_out(self.sample_starts(starts), weights, self.actor.sample)
            self.critics.learn(rollouts)

    def evaluate(self, starts: State, weights: Weights) -> Estimate:
        """Estimate the policy's return and cost under every posterior sample, with gradients."""
        level = self.config.safety.confidence_level
        copies = stack_parameters(self.actor, self.model.members * (ERROR_GROUPS if level else 1))
        rollouts = self.roll_out(starts, weights, partial(self.actor.sample, weights=copies))
        self.update_return_scale(rollouts.returns)
        with record_function("policy gradients"):
            estimated = estimate(
                self.objective(rollouts.returns * rollouts.weight, rollouts.entropy),
                rollouts,
                copies,
                self.parts.aggregate,
                budget=self.budget,
                level=level,
            )
        self.critics.learn(rollouts)
        return estimated

    def roll_out(
        self, starts: State, weights: Weights, policy: Callable[..., ActionSample]
    ) -> Rollouts:
        """Imagine a policy under every posterior sample; compute its lambda-returns."""
        with record_function("imagination"):
            imagined = imagine(
                self.model.transition(weights),
                policy,
                State(*(x.expand(self.model.members, -1, -1) for x in starts)),
                self.config.policy.horizon,
                action_size=self.actor.action_size,
                generator=self.generator,
            )
        feat = imagined.state.feat
        with record_function("returns"):
            arrived = feat[:, 1:]
            cont = self.model.cont(arrived)
            returns, cost_returns = self.critics.returns(
                feat,
                reward=lambda: self.model.reward(arrived),
                cost=lambda: self.model.cost(arrived, weights),
                cont=cont,
            )
        weight = reach_weights(cont)
        entropy = -(imagined.log_prob * weight).mean()
        return Rollouts(feat[:, :-1], returns, cost_returns, weight, entropy)

    def objective(self, returns: Tensor, entropy: Tensor) -> Tensor:
        """Compute the objective: J in units of the returns' range, plus weighted entropy."""
        scale = self.return_scale.clamp_min(self.config.model.reward_unit).float()
        return self.parts.objective(returns) / scale + self.config.policy.entropy * entropy

    def update_return_scale(self, returns: Tensor) -> None:
        """Average the 5-95 percentile range of the returns (Hafner et al. 2023)."""
        low, high = (torch.quantile(returns.detach().flatten(), share) for share in (0.05, 0.95))
        self.return_scale += 0.02 * ((high - low).double() - self.return_scale)

    def state_dict(self) -> dict[str, Any]:
        """Collect the state, with the prediction that the next episode is compared with."""
        return super().state_dict() | {"predicted_cost": self.predicted_cost}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.predicted_cost = state["predicted_cost"]


@dataclass(frozen=True, kw_only=True)
class CERL(Components):
    """CERL's parts. An ablation exchanges one: ``CERL(aggregate=of_policy(mean))``."""

    agent: MakeAgent = CERLAgent


if __name__ == "__main__":
    run("cerl_full", CERL())
