"""The critics of reward and cost, a value function for each member, with one optimiser."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.profiler import record_function

from blocks import Critic, lambda_returns, side_by_side
from blocks.acceleration.threads import in_background
from recipes.agents.builders import critic_optimizer
from recipes.agents.components import Components
from recipes.agents.config import Config
from recipes.agents.estimates import Rollouts


class Critics:
    """Values of the policy under every member.

    An update may go on in the background while the caller imagines; whatever reads the critics
    waits for it first, so results do not depend on the number of threads.

    Args:
        config: discounts, sizes and learning rate.
        parts: builds the critics.
        constraints: number of costs; each is in units of its budget.
        device: where the networks are.
    """

    def __init__(
        self, config: Config, parts: Components, constraints: int, device: torch.device
    ) -> None:
        self._config = config.policy
        reward_value = config.model.reward_unit / (1 - config.policy.discount)
        self.reward = parts.critic(config, reward_value, None).to(device)
        self.cost = parts.critic(config, 1.0, constraints).to(device)
        self.optimizer = critic_optimizer(config, self.reward, self.cost)
        self._finish: Callable[[], object] = lambda: None

    def returns(
        self,
        feat: Tensor,
        reward: Callable[[], Tensor],
        cost: Callable[[], Tensor],
        cont: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Compute lambda-returns of reward ``[member, horizon, batch]`` and costs.

        Args:
            feat: imagined states ``[member, horizon + 1, batch, feat]``.
            reward: computes the rewards ``[member, horizon, batch]`` of the states arrived at.
            cost: computes their costs, ``[member, horizon, batch, constraint]``, in units of the
                discounted budgets.
            cont: probability that the episode goes on after them, likewise.
        """
        self._finish()
        c = self._config
        returns, *others = side_by_side(
            lambda: self._lambda_returns(reward(), self.reward, feat, c.discount * cont),
            lambda: self._lambda_returns(
                cost(), self.cost, feat, c.cost_discount * cont.unsqueeze(-1)
            ),
        )
        return returns, others[0]

    def learn(self, rollouts: Rollouts) -> None:
        """Update both critics once towards the imagined returns."""
        self._finish()
        self._finish = in_background(partial(self._learn, rollouts))

    def state_dict(self) -> dict[str, Any]:
        """Weights, slow copies and the optimiser's moments."""
        self._finish()
        parts = {"reward": self.reward, "cost": self.cost, "optimizer": self.optimizer}
        return {name: part.state_dict() for name, part in parts.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what ``state_dict`` returned."""
        self._finish()
        for name, saved in state.items():
            getattr(self, name).load_state_dict(saved)

    def _learn(self, rollouts: Rollouts) -> None:
        with record_function("critics"):
            self.optimizer.zero_grad()
            feat, weight = rollouts.feat, rollouts.weight
            self.reward.loss(feat, rollouts.returns, weight).backward()
            self.cost.loss(feat, rollouts.cost_returns, weight).backward()
            self.optimizer.step()
            self.reward.update_target()
            self.cost.update_target()

    def _lambda_returns(
        self, signal: Tensor, critic: Critic, feat: Tensor, discount: Tensor
    ) -> Tensor:
        """Bootstrap with the slow critic."""
        parts = (signal, critic.target_value(feat), discount.expand_as(signal))
        signals, values, discounts = (x.movedim(1, 0) for x in parts)
        returns = lambda_returns(signals, values, discount=discounts, lambda_=self._config.lambda_)
        return returns.movedim(0, 1)
