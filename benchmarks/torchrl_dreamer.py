"""Build TorchRL's Dreamer (Hafner et al. 2020) with our sizes and vector observations."""

# pyright: reportMissingImports=false

from typing import Any

import torch
from tensordict import TensorDict
from tensordict.nn import (
    InteractionType,
    ProbabilisticTensorDictModule,
    ProbabilisticTensorDictSequential,
    TensorDictModule,
    TensorDictSequential,
)
from torch import Tensor, nn
from torchrl.data import Bounded, Composite, Unbounded
from torchrl.envs import DreamerEnv
from torchrl.modules import (
    MLP,
    DreamerActor,
    RSSMPosterior,
    RSSMPrior,
    RSSMRollout,
    TanhNormal,
    WorldModelWrapper,
)
from torchrl.objectives import DreamerActorLoss, DreamerModelLoss, DreamerValueLoss

# isort: split
from recipes.agents import Config

STATE = ["state", "belief"]
NEXT_STATE = [("next", name) for name in STATE]
CLIP = 100.0


class Dreamer:
    """World model, actor and value function with TorchRL's objectives, each with its Adam.

    Follows TorchRL's example, except where that costs time or our sizes differ: heads return means
    without a distribution, actor and value function have two hidden layers, and Adam is fused.

    Args:
        config: sizes, discounts and learning rates.
        observation, action: sizes of the two vectors.
        compiled: use ``torch.compile`` for the RSSM's step and the actor's loss.
    """

    def __init__(
        self, config: Config, observation: int, action: int, *, compiled: bool = False
    ) -> None:
        self.config = config
        c, policy = config.model, config.policy
        feat = c.deter_size + c.stoch_size
        prior = RSSMPrior(
            Unbounded((action,)), c.hidden_size, c.deter_size, c.stoch_size, action_dim=action
        )
        reward = self._mlp(feat, 1)
        world_model = WorldModelWrapper(
            TensorDictSequential(
                TensorDictModule(
                    self._mlp(observation, c.hidden_size, depth=1),
                    in_keys=[("next", "observation")],
                    out_keys=[("next", "encoded_latents")],
                ),
                self._rollout(prior, compiled),
                TensorDictModule(
                    self._mlp(feat, observation),
                    in_keys=NEXT_STATE,
                    out_keys=[("next", "reco_observation")],
                ),
            ),
            TensorDictModule(reward, in_keys=NEXT_STATE, out_keys=[("next", "reward")]),
        )
        actor = self._actor(action)
        value = TensorDictModule(self._mlp(feat, 1), in_keys=STATE, out_keys=["state_value"])
        self.model_loss = self._model_loss(world_model)
        actor_loss = DreamerActorLoss(
            actor,
            value,
            self._imagination(prior, reward, action),
            imagination_horizon=policy.horizon,
        )
        actor_loss.make_value_estimator(gamma=policy.discount, lmbda=policy.lambda_)
        self.actor_loss = torch.compile(actor_loss) if compiled else actor_loss
        self.value_loss = DreamerValueLoss(value, gamma=policy.discount)
        self.model, self.actor, self.value = (
            torch.optim.Adam(module.parameters(), rate, fused=True)
            for module, rate in (
                (world_model, c.model_learning_rate),
                (actor, policy.actor_learning_rate),
                (value, policy.critic_learning_rate),
            )
        )
        self.batch = self._random_batch(observation, action)
        self.starts = self._starts(self.model_update())
        self.behaviour_update()
        self._check_gradients()

    def model_update(self) -> Any:
        """Update the world model once; return the filtered batch."""
        losses, filtered = self.model_loss(self.batch)
        _step(self.model, torch.cat(list(losses.values())).sum(), clip=CLIP)
        return filtered

    def behaviour_update(self) -> None:
        """Imagine from the start states, then update actor and value function once."""
        loss, imagined = self.actor_loss(self.starts)
        _step(self.actor, loss["loss_actor"])
        loss, _ = self.value_loss(imagined)
        _step(self.value, loss["loss_value"])

    def full_step(self) -> None:
        """Do a model update, then a behaviour update from its filtered states."""
        self.starts = self._starts(self.model_update())
        self.behaviour_update()

    def _mlp(self, size: int, out: int, *, depth: int = 2) -> nn.Module:
        """Build an MLP with hidden layers of our width and Dreamer's activation."""
        hidden = {
            "depth": depth,
            "num_cells": self.config.model.hidden_size,
            "activation_class": nn.ELU,
        }
        return MLP(in_features=size, out_features=out, **hidden)

    def _rollout(self, prior: nn.Module, compiled: bool) -> nn.Module:
        c = self.config.model
        posterior = RSSMPosterior(
            c.hidden_size, c.stoch_size, rnn_hidden_dim=c.deter_size, obs_embed_dim=c.hidden_size
        )
        return RSSMRollout(
            TensorDictModule(
                prior,
                in_keys=[*STATE, "action"],
                out_keys=[("next", "prior_mean"), ("next", "prior_std"), "_", ("next", "belief")],
            ),
            TensorDictModule(
                posterior,
                in_keys=[("next", "belief"), ("next", "encoded_latents")],
                out_keys=[("next", "posterior_mean"), ("next", "posterior_std"), ("next", "state")],
            ),
            compile_step=compiled,
        )

    def _model_loss(self, world_model: nn.Module) -> nn.Module:
        """Build the world model's loss, for vectors instead of images.

        TorchRL sums squared errors over an image's three axes, here batch, time and observation;
        the weight turns the first two into a mean. Without free nats, no gradient is zero.
        """
        c = self.config.model
        loss = DreamerModelLoss(
            world_model, lambda_reco=1 / (c.batch_size * c.seq_len), free_nats=0
        )
        loss.set_keys(pixels="observation", reco_pixels="reco_observation")
        return loss

    def _actor(self, action: int) -> nn.Module:
        """Build the actor: feat -> tanh-squashed Gaussian action."""
        c = self.config.model
        actor = ProbabilisticTensorDictSequential(
            TensorDictModule(
                DreamerActor(action, depth=2, num_cells=c.hidden_size),
                in_keys=STATE,
                out_keys=["loc", "scale"],
            ),
            ProbabilisticTensorDictModule(
                in_keys=["loc", "scale"],
                out_keys=["action"],
                distribution_class=TanhNormal,
                distribution_kwargs={"tanh_loc": True},
                default_interaction_type=InteractionType.RANDOM,
            ),
        )
        actor(
            TensorDict(
                {"state": torch.zeros(1, c.stoch_size), "belief": torch.zeros(1, c.deter_size)}, 1
            )
        )
        return actor  # the call initialised its lazy first layer

    def _imagination(self, prior: nn.Module, reward: nn.Module, action: int) -> DreamerEnv:
        """Build the environment for imagination from the prior and the reward head."""
        c = self.config.model
        env = DreamerEnv(
            WorldModelWrapper(
                TensorDictModule(prior, in_keys=[*STATE, "action"], out_keys=["_", "_", *STATE]),
                TensorDictModule(reward, in_keys=STATE, out_keys=["reward"]),
            ),
            prior_shape=(c.stoch_size,),
            belief_shape=(c.deter_size,),
        )
        env.observation_spec = Composite(
            state=Unbounded((c.stoch_size,)), belief=Unbounded((c.deter_size,))
        )
        env.state_spec = env.observation_spec.clone()
        env.action_spec = Bounded(-1, 1, (action,))
        env.reward_spec = Unbounded((1,))
        return env

    def _random_batch(self, observation: int, action: int) -> TensorDict:
        c = self.config.model
        shape = (c.batch_size, c.seq_len)
        return TensorDict(
            {
                "state": torch.zeros(*shape, c.stoch_size),
                "belief": torch.zeros(*shape, c.deter_size),
                "action": torch.rand(*shape, action).mul(2).sub(1),
                "next": {
                    "observation": torch.randn(*shape, observation),
                    "reward": torch.randn(*shape, 1),
                },
            },
            shape,
        )

    def _starts(self, filtered: TensorDict) -> TensorDict:
        """Sample as many filtered states as CERL starts from; Dreamer would take all."""
        states = filtered.select(*STATE).reshape(-1)
        return states[torch.randint(len(states), (self.config.policy.imagination_batch_size,))]

    def _check_gradients(self) -> None:
        """Check that every parameter gets a gradient from its loss."""
        for optimizer in (self.model, self.actor, self.value):
            for parameter in optimizer.param_groups[0]["params"]:
                assert parameter.grad is not None
                assert parameter.grad.any()


def _step(optimizer: torch.optim.Optimizer, loss: Tensor, *, clip: float | None = None) -> None:
    optimizer.zero_grad()
    loss.backward()
    if clip is not None:
        nn.utils.clip_grad_norm_(optimizer.param_groups[0]["params"], clip)
    optimizer.step()
