"""CERL: Safe Exploration Using Bayesian World Models and Log-Barrier Optimization.

The method of arXiv 2405.05890 on a Safety-Gymnasium task:

    python recipes/cerl_full.py --task SafetyHalfCheetahVelocity-v1 --seed 0

``recipes.training`` runs this loop until the run has all its steps:

1. **Collect**: the policy acts for one episode, behind the guard.
2. **Fit** the posterior over world models to all data (``fit_posterior``).
3. **Evaluate** the policy in imagination under every posterior sample: its return, and the cost
   return under the worst sample (``evaluate``).
4. **Step**: LBSGD ascends the log barrier, with steps that keep the policy inside the pessimistic
   safe set (``optimizer.step``). Repeat 3 and 4, then collect again.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.profiler import record_function

from blocks import Environment, State, Weights, imagine
from recipes.agents import Components, Config, LatentAgent, Metrics
from recipes.agents.components import MakeAgent
from recipes.agents.critics import Critics
from recipes.agents.diagnostics import Estimate, Rollouts, average, policy_metrics
from recipes.agents.recording import record_updates
from recipes.training import run


class CERLAgent(LatentAgent):
    """Acts in its latent state, fits world models, improves its policy in the safe set."""

    STATEFUL = (*LatentAgent.STATEFUL, "critics", "optimizer")

    def __init__(self, config: Config, environment: Environment, parts: Components) -> None:
        super().__init__(config, environment, parts)
        self.critics = Critics(config, parts, self.budget, self.device)
        self.optimizer = parts.optimizer(self.actor, config)
        record_updates(self)  # on a GPU

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
        new = self.disagreement_on_newest_episode()
        fitted = self.fit_posterior(updates)
        learned = self.disagreement_on_newest_episode()
        improved = self.improve_policy(updates)
        shown = {"disagreement_new": new, "disagreement_learned": learned}
        return fitted | improved | self.disagreement() | shown

    def improve_policy(self, updates: int) -> Metrics:
        """Ascend the log barrier of return and worst-case cost return."""
        weights, starts = self.sample_posterior(), self.start_states()
        budget_share = self.config.safety.budget_share
        metrics: list[Metrics] = []
        for _ in range(updates):
            estimate = self.evaluate(self.sample_starts(starts), weights)
            with record_function("policy gradients and step"):
                step = self.optimizer.step(estimate.gain, estimate.cost, budget_share)
            metrics.append(policy_metrics(step, estimate))
            self.critics.learn(estimate.rollouts)
        return average(metrics)

    def fit_critics(self, updates: int) -> None:
        """Learn the values of the present policy."""
        weights, starts = self.sample_posterior(), self.start_states()
        for _ in range(updates):
            estimate = self.evaluate(self.sample_starts(starts), weights, update_scale=False)
            self.critics.learn(estimate.rollouts)

    def evaluate(self, starts: State, weights: Weights, *, update_scale: bool = True) -> Estimate:
        """Estimate the policy's return and cost under every posterior sample."""
        with record_function("imagination"):
            members = self.config.posterior.members
            imagined = imagine(
                self.model.transition(weights),
                self.actor.sample,
                State(*(x.expand(members, -1, -1) for x in starts)),
                self.config.policy.horizon,
                action_size=self.actor.action_size,
                generator=self.generator,
            )
        feat = imagined.state.feat
        with record_function("returns"):
            arrived = feat[:, 1:]
            returns, cost_returns = self.critics.returns(
                feat,
                reward=lambda: self.model.reward(arrived),
                cost=lambda: self.model.cost(arrived, weights),
            )
        if update_scale:
            self.update_return_scale(returns)
        entropy = -imagined.log_prob.mean()
        return Estimate(
            gain=self.objective(returns, entropy),
            cost=self.parts.aggregate(cost_returns) / self.budget,  # Jc, in budgets
            mean_return=returns.detach().mean(),
            member_costs=cost_returns.detach().mean((1, 2)) / self.budget,
            entropy=entropy,
            rollouts=Rollouts(feat[:, :-1], returns, cost_returns),
        )

    def objective(self, returns: Tensor, entropy: Tensor) -> Tensor:
        """Compute the objective: J in units of the returns' range, plus weighted entropy."""
        scale = self.return_scale.clamp_min(self.config.model.reward_unit).float()
        return self.parts.objective(returns) / scale + self.config.policy.entropy * entropy

    def update_return_scale(self, returns: Tensor) -> None:
        """Average the 5-95 percentile range of the returns (Hafner et al. 2023)."""
        low, high = (torch.quantile(returns.detach().flatten(), share) for share in (0.05, 0.95))
        self.return_scale += 0.02 * ((high - low).double() - self.return_scale)


@dataclass(frozen=True, kw_only=True)
class CERL(Components):
    """CERL's parts. An ablation exchanges one: ``CERL(aggregate=of_policy(mean))``."""

    agent: MakeAgent = CERLAgent


if __name__ == "__main__":
    run("cerl_full", CERL())
