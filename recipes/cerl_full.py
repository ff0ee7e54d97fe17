"""CERL: Safe Exploration Using Bayesian World Models and Log-Barrier Optimization.

Wires the blocks into the method of arXiv 2405.05890 and trains it on a Safety-Gymnasium task:

    python recipes/cerl_full.py --task SafetyHalfCheetahVelocity-v1 --seed 0
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from cerl_config import Config
from diagnostics import average, cost_disagreement, disagreement_on, policy_metrics
from latent_agent import LatentAgent
from torch import Tensor
from training import run
from wiring import (
    build_replay,
    build_world_model,
    critic_optimizer,
    model_optimizer,
    model_step,
    sizes,
)

from blocks import (
    LBSGD,
    Actor,
    Critic,
    State,
    discounted_budget,
    imagine,
    lambda_returns,
    of_policy,
    side_by_side,
    worst_case,
)
from blocks.ensemble_posterior import Family
from blocks.environments import SafetyEnvironment
from blocks.imagination import Imagined
from blocks.smoothness import Smoothness
from blocks.types import Weights
from blocks.world_model import WorldModelLoss


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
    family: Family = "particles"


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
        self.generator = torch.Generator().manual_seed(c.seed)
        self.device = torch.device(c.device)
        self.replay = build_replay(c, environment)
        self.model = build_world_model(c, environment, blocks.family)
        feat = c.deter + c.stoch
        self.actor = Actor(feat, action, hidden=c.hidden)
        self.budget = discounted_budget(
            c.episode_budget, environment.episode_length, c.cost_discount, c.action_repeat
        )
        critic = partial(
            Critic, feat, members=c.members, hidden=c.hidden, target_rate=c.target_rate
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
        self.return_scale = c.reward_unit

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
            self.model, self.weights(), recent, self.actor.action, rate, self.generator
        )
        return model | policy | spread | {"disagreement_new": new, "disagreement_learned": learned}

    def learn_model(self, updates: int) -> dict[str, float]:
        """Fit the Bayesian world model to the replay."""
        c = self.config
        self.fit_normalizer()
        losses: list[dict[str, float]] = []
        for _ in range(updates):
            data = self.replay.sample(
                c.batch_size,
                c.seq_len,
                recent_episodes=c.recent_episodes,
                recent_fraction=c.recent_fraction,
                initial_fraction=0.125,
            )
            loss = self.model.loss(
                self.on_device(data), data_size=len(self.replay), generator=self.generator
            )
            self.improve_model(loss)
            losses.append(
                {f"model_{name}": float(value.detach()) for name, value in loss._asdict().items()}
            )
        return average(losses)

    def improve_model(self, loss: WorldModelLoss) -> None:
        """One step of the model's optimiser."""
        model_step(self.model, self.model_optimizer, loss)

    def learn_policy(self, updates: int, *, improve: bool = True) -> dict[str, float]:
        """Improve the policy on imagined rollouts, inside the pessimistic safe set."""
        c = self.config
        weights, starts = self.weights(), self.start_states()
        metrics: list[dict[str, float]] = []
        lessons: list[Callable[[], None]] = []
        for _ in range(updates):
            # The critics learn from the last rollouts while the next ones are imagined.
            imagined, *_ = side_by_side(partial(self.imagine, starts, weights), *lessons)
            feat = imagined.state.feat
            returns, cost_returns = self.imagined_returns(feat, weights)
            if improve:
                entropy = -imagined.log_prob.mean()
                gain = self.blocks.objective(returns) / self.scale(returns)
                cost = self.blocks.aggregate(cost_returns) / self.budget  # Jc, in budgets
                step = self.optimizer.step(gain + c.entropy * entropy, cost, c.budget_share)
                member_costs = cost_returns.mean((1, 2)) / self.budget
                metrics.append(policy_metrics(step, returns, member_costs, entropy))
            lessons = [partial(self.learn_critics, feat[:, :-1], returns, cost_returns)]
        side_by_side(*lessons)
        return average(metrics)

    def imagine(self, starts: State, weights: Weights) -> Imagined:
        """Roll the policy out from some of the start states, under every member."""
        c = self.config
        index = torch.randint(len(starts.deter), (c.imagination_batch,), generator=self.generator)
        index = index.to(self.device)
        return imagine(
            self.model.transition(weights),
            self.actor.sample,
            State(*(x[index].expand(c.members, -1, -1) for x in starts)),
            c.horizon,
            action_size=self.actor.action,
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
            return self.returns(self.model.reward(arrived), self.critic, feat, c.discount)

        def cost_returns() -> Tensor:
            cost = self.model.cost(arrived, weights)
            return self.returns(cost, self.cost_critic, feat, c.cost_discount)

        return side_by_side(returns, cost_returns)

    def returns(self, signal: Tensor, critic: Critic, feat: Tensor, discount: float) -> Tensor:
        """Lambda-returns ``[member, horizon, batch]``."""
        values = critic.target_value(feat)
        return lambda_returns(
            signal.movedim(1, 0),
            values.movedim(1, 0),
            discount=discount,
            lambda_=self.config.lambda_,
        ).movedim(0, 1)

    def scale(self, returns: Tensor) -> float:
        """Running 5-95 percentile range of the returns, at least a unit (Hafner et al. 2023)."""
        low, high = torch.quantile(returns.detach().cpu().flatten(), torch.tensor([0.05, 0.95]))
        self.return_scale += 0.02 * (float(high - low) - self.return_scale)
        return max(self.config.reward_unit, self.return_scale)


if __name__ == "__main__":
    run("cerl_full", CERL)
