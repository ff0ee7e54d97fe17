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

    STATEFUL = (*LatentAgent.STATEFUL, "critics", "optimizer")

    def __init__(self, config: Config, environment: Environment, parts: Components) -> None:
        super().__init__(config, environment, parts)
        self.critics = Critics(config, parts, len(self.cost_names), self.device)
        self.optimizer = parts.optimizer(self.actor, config)
        self.margins = [parts.margin(config) for _ in self.cost_names]
        self.predicted_costs: list[float] | None = None  # of an episode, in budgets
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
        new = self.judge_newest_states("new") | {"new_cost": max(self.newest_costs())}
        fitted = self.fit_posterior(updates)
        learned = self.judge_newest_states("learned")
        self.iterate_row = self.replay.added
        improved = self.improve_policy(updates)
        return fitted | improved | self.disagreement() | new | learned

    def move_margin(self) -> None:
        """Compare the newest iterate's costs with what was predicted for its policy."""
        for margin, predicted, realised in zip(
            self.margins, self.predicted_costs or (), self.newest_costs(), strict=False
        ):
            margin.update(predicted, realised)

    def allowed(self) -> Tensor:
        """Return the cost that may be predicted, ``[constraint]`` in budgets."""
        allowed = [margin.allowed(1.0) for margin in self.margins]
        return torch.tensor(allowed, device=self.device)

    def improve_policy(self, updates: int) -> Metrics:
        """Ascend the log barrier of return and worst-case cost return."""
        weights, starts = self.sample_posterior(), self.start_states()
        old = [x.detach().clone() for x in self.actor.parameters()]
        costs_before, allowed = self.costs_ahead(starts, weights), self.allowed()
        metrics: list[Metrics] = []
        costs: list[Tensor] = []  # constrained, and of the worst member
        for _ in range(updates):
            estimate = self.evaluate(self.sample_starts(starts), weights)
            with record_function("policy step"):
                step = self.step(estimate, allowed)
            metrics.append(policy_metrics(step, estimate, self.cost_names))
            costs.append(torch.stack([estimate.by_constraint(), estimate.member_costs.amax(1)]))
        self.predicted_costs = torch.stack(costs[-LAST_UPDATES:]).mean(0).amin(0).tolist()
        kept = self.look_ahead(old, costs_before, starts, weights)
        return average(metrics) | {"allowed": float(allowed.min())} | kept

    def look_ahead(
        self, old: list[Tensor], costs_before: Tensor, starts: State, weights: Weights
    ) -> Metrics:
        """Go back towards the old policy while the new one costs more ahead than is allowed.

        It may cost as much as the old one, ``costs_before``: model and data have changed since that
        was accepted.
        """
        if not self.config.policy.check_horizon:
            return {}
        limits = torch.maximum(self.allowed(), costs_before)
        costs: list[Tensor] = []

        def accepts() -> bool:
            costs.append(self.costs_ahead(starts, weights))
            return bool((costs[-1] <= limits).all())

        kept = backtrack(self.actor.parameters(), old, accepts)
        return {
            "cost_ahead": float(costs[0].max()),
            "cost_ahead_before": float(costs_before.max()),
            "step_kept": kept,
        }

    @torch.no_grad()
    def costs_ahead(self, starts: State, weights: Weights) -> Tensor:
        """Imagine the policy over the check's horizon and return its costs in the second half.

        Each is that of the worst member, in budgets of an episode at this rate. The noise is the
        same at each call, so that policies differ only by what they do.
        """
        horizon = self.config.policy.check_horizon
        if not horizon:
            return torch.zeros_like(self.budgets)
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
        return self.model.cost(late, weights).mean((1, 2)).amax(0) / self.cost_rates

    def step(self, estimate: Estimate, allowed: Tensor) -> ConstrainedStep:
        """Step so that the costs stay below ``allowed`` budgets, under every member if LBSGD."""
        gain, cost = estimate.differentiable(self.actor)
        limits = estimate.limits(allowed)
        if not isinstance(self.optimizer, LBSGD):
            return self.optimizer.step(gain, cost, limits)
        return self.optimizer.step(
            gain,
            cost,
            limits,
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
                cost=lambda: self.model.cost(arrived, weights) / self.budgets,
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
        """Collect the state, with the predictions that the next episodes are compared with."""
        margins = [margin.state_dict() for margin in self.margins]
        return super().state_dict() | {"predicted_costs": self.predicted_costs, "margins": margins}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.predicted_costs = state["predicted_costs"]
        for margin, saved in zip(self.margins, state["margins"], strict=True):
            margin.load_state_dict(saved)


@dataclass(frozen=True, kw_only=True)
class CERL(Components):
    """CERL's parts. An ablation exchanges one: ``CERL(aggregate=of_policy(mean))``."""

    agent: MakeAgent = CERLAgent


if __name__ == "__main__":
    run("cerl_full", CERL())
