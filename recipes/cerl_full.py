"""CERL: Safe Exploration Using Bayesian World Models and Log-Barrier Optimization.

Wires the blocks into the method of arXiv 2405.05890 and trains it on a Safety-Gymnasium task:

    python recipes/cerl_full.py --task SafetyHalfCheetahVelocity-v1 --seed 0
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from blocks import (
    LBSGD,
    Actor,
    Critic,
    Graphed,
    Particles,
    State,
    discounted_budget,
    imagine,
    of_policy,
    side_by_side,
    worst_case,
)
from blocks.environments.safety_gymnasium import SafetyEnvironment
from blocks.imagination import Imagined
from blocks.optimizers.smoothness import Smoothness
from blocks.posteriors.ensemble import MakeFamily
from blocks.types import Weights
from recipes.agents.builders import (
    build_replay,
    build_world_model,
    critic_optimizer,
    member_returns,
    model_optimizer,
    model_update,
    sizes,
)
from recipes.agents.config import Config
from recipes.agents.diagnostics import (
    Estimate,
    average,
    cost_disagreement,
    disagreement_on,
    policy_metrics,
)
from recipes.agents.graphed_policy import GraphedPolicy
from recipes.agents.latent_agent import LatentAgent
from recipes.training.loop import run

Lesson = Callable[[], None]


def lbsgd(actor: Actor, config: Config, smoothness: Smoothness | None = None) -> LBSGD:
    return LBSGD(
        actor.parameters(),
        eta=config.eta,
        eta_decay=config.eta_decay,
        eta_min=config.eta_min,
        objective_smoothness=0.0,
        constraint_smoothness=smoothness or config.constraint_smoothness,
        direction="adam",
        learning_rate=config.actor_learning_rate,
        recovery_learning_rate=config.actor_learning_rate,
    )


pessimistic = of_policy(worst_case)


@dataclass(frozen=True)
class Blocks:
    """The blocks that ablations exchange."""

    aggregate: Callable[[Tensor], Tensor] = pessimistic
    """From the members' cost returns ``[member, horizon, batch]`` to one, in the same unit."""
    objective: Callable[[Tensor], Tensor] = torch.mean
    """From their returns to what is maximised, likewise."""
    optimizer: Callable[[Actor, Config], Any] = lbsgd
    family: MakeFamily = Particles


CERL_BLOCKS = Blocks()


class CERL(LatentAgent):
    """The agent: acts in its latent state, learns its world model, learns its policy."""

    STATEFUL = (
        *("model", "actor", "critic", "cost_critic", "replay"),
        *("model_optimizer", "critic_optimizer", "optimizer"),
    )

    def __init__(
        self, config: Config, environment: SafetyEnvironment, blocks: Blocks = CERL_BLOCKS
    ) -> None:
        c, self.config, self.blocks = config, config, blocks
        _, action = sizes(environment)
        torch.manual_seed(c.seed)  # of the initial weights; all later noise is from the generator
        self.device = torch.device(c.device)
        self.generator = torch.Generator(self.device).manual_seed(c.seed)
        self.replay = build_replay(c, environment)
        self.model = build_world_model(c, environment, blocks.family)
        feat = c.deter + c.stoch
        self.actor = Actor(feat, action, hidden_size=c.hidden)
        self.budget = discounted_budget(
            c.episode_budget, environment.episode_length, c.cost_discount, c.action_repeat
        )
        critic = partial(
            Critic, feat, members=c.members, hidden_size=c.hidden, target_rate=c.target_rate
        )
        self.critic = critic(unit=c.reward_unit / (1 - c.discount))
        self.cost_critic = critic(unit=self.budget)
        for network in (self.model, self.actor, self.critic, self.cost_critic):
            network.to(self.device)
        if c.compile:
            self.model.compile(dynamic=False)  # few sizes, each for ever
            self.actor.compile(dynamic=False)
        self.optimizer = blocks.optimizer(self.actor, c)
        self.model_optimizer = model_optimizer(c, self.model)
        self.critic_optimizer = critic_optimizer(c, self.critic, self.cost_critic)
        self.return_scale = torch.tensor(c.reward_unit, dtype=torch.float64, device=self.device)
        update = partial(model_update, self.model, self.model_optimizer, self.generator)
        self.update_model = Graphed(update, self.generator)
        self.graphed = GraphedPolicy(self) if self.device.type == "cuda" else None

    def begin(self) -> dict[str, float]:
        """After the prefill: learn the model and the first policy's values, then improve it."""
        self.learn_model(self.config.prefill_updates)
        self.learn_policy(self.config.prefill_updates // 3, improve=False)
        return self.learn(0.0)

    def learn(self, done: float) -> dict[str, float]:
        """One phase of model learning and one of policy learning; returns their metrics.

        The policy's learning rate falls linearly with the share ``done`` of the run.
        """
        c = self.config
        self.optimizer.learning_rate = c.actor_learning_rate + done * (
            c.actor_learning_rate_end - c.actor_learning_rate
        )
        rate = self.budget * (1 - c.cost_discount)
        newest = self.on_device(self.replay.newest_episode())
        new = disagreement_on(self.model, newest, rate)
        model = self.learn_model(c.updates_per_episode)
        learned = disagreement_on(self.model, newest, rate)
        policy = self.learn_policy(c.updates_per_episode)
        recent = State(*(x[:256] for x in self.start_states()))
        spread = cost_disagreement(
            self.model, self.weights(), recent, self.actor.action_size, rate, self.generator
        )
        return model | policy | spread | {"disagreement_new": new, "disagreement_learned": learned}

    def learn_policy(self, updates: int, *, improve: bool = True) -> dict[str, float]:
        """Improve the policy on imagined rollouts, inside the pessimistic safe set."""
        weights, starts = self.weights(), self.start_states()
        metrics: list[dict[str, float]] = []
        lessons: Sequence[Lesson] = ()
        for _ in range(updates):
            some = self.some(starts)
            update, lessons = self.update_policy(some, weights, lessons, improve=improve)
            metrics.append(update)
        side_by_side(*lessons)
        return average(metrics)

    def update_policy(
        self, starts: State, weights: Weights, lessons: Sequence[Lesson], *, improve: bool
    ) -> tuple[dict[str, float], Sequence[Lesson]]:
        """One step; returns its metrics, and what the critics have yet to learn.

        Nothing of its autograd graph may outlive it: a recording does not bear an earlier one.
        """
        if self.graphed:
            estimate, lessons = self.graphed.estimate(starts, improve=improve), ()
        else:
            estimate, *lessons = self.estimate(starts, weights, lessons, improve=improve)
        if not improve:
            return {}, lessons
        step = self.optimizer.step(estimate.gain, estimate.cost, self.config.budget_share)
        return policy_metrics(step, estimate), lessons

    def estimate(
        self, starts: State, weights: Weights, lessons: Sequence[Lesson] = (), *, improve: bool
    ) -> tuple[Estimate, Lesson]:
        """Return and cost of the policy from the start states, and what critics learn of them."""
        # The critics learn from the last rollouts while the next ones are imagined.
        imagined, *_ = side_by_side(partial(self.imagine, starts, weights), *lessons)
        feat = imagined.state.feat
        returns, cost_returns = self.imagined_returns(feat, weights)
        if improve:
            self.update_scale(returns)
        scale = self.return_scale.clamp_min(self.config.reward_unit).float()
        entropy = -imagined.log_prob.mean()
        estimate = Estimate(
            gain=self.blocks.objective(returns) / scale + self.config.entropy * entropy,
            cost=self.blocks.aggregate(cost_returns) / self.budget,  # Jc, in budgets
            mean_return=returns.detach().mean(),
            member_costs=cost_returns.detach().mean((1, 2)) / self.budget,
            entropy=entropy,
        )
        return estimate, partial(self.learn_critics, feat[:, :-1], returns, cost_returns)

    def imagine(self, starts: State, weights: Weights) -> Imagined:
        """Roll the policy out from the start states, under every member."""
        c = self.config
        return imagine(
            self.model.transition(weights),
            self.actor.sample,
            State(*(x.expand(c.members, -1, -1) for x in starts)),
            c.horizon,
            action_size=self.actor.action_size,
            generator=self.generator,
        )

    def learn_critics(self, feat: Tensor, returns: Tensor, cost_returns: Tensor) -> None:
        self.critic_optimizer.zero_grad()
        side_by_side(
            lambda: self.critic.loss(feat, returns).backward(),
            lambda: self.cost_critic.loss(feat, cost_returns).backward(),
        )
        self.critic_optimizer.step()
        self.critic.update_target()
        self.cost_critic.update_target()

    def weights(self) -> Weights:
        """Posterior samples of the transition and the cost head, one for each member."""
        return {
            name: value.detach() for name, value in self.model.parameter_posterior.sample().items()
        }

    def imagined_returns(self, feat: Tensor, weights: Weights) -> tuple[Tensor, Tensor]:
        """Returns and cost returns of imagined states, ``[member, horizon, batch]``."""
        c, arrived = self.config, feat[:, 1:]

        def returns() -> Tensor:
            reward = self.model.reward(arrived)
            return member_returns(reward, self.critic, feat, c.discount, c.lambda_)

        def cost_returns() -> Tensor:
            cost = self.model.cost(arrived, weights)
            return member_returns(cost, self.cost_critic, feat, c.cost_discount, c.lambda_)

        return side_by_side(returns, cost_returns)

    def update_scale(self, returns: Tensor) -> None:
        """Running 5-95 percentile range of the returns (Hafner et al. 2023)."""
        low, high = (torch.quantile(returns.detach().flatten(), share) for share in (0.05, 0.95))
        self.return_scale += 0.02 * ((high - low).double() - self.return_scale)


if __name__ == "__main__":
    run("cerl_full", CERL)
