"""The parts of a latent agent, each a factory that may be exchanged by keyword."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from blocks import (
    RSSM,
    Actor,
    CostHead,
    Critic,
    Decoder,
    Environment,
    GaussianLatent,
    Latent,
    Particles,
    RewardHead,
    SequenceReplay,
    WorldModel,
    of_policy,
    worst_case,
)
from blocks.posteriors.ensemble import MakeFamily
from recipes.agents import builders
from recipes.agents.builders import MakeOptimizer
from recipes.agents.config import Config
from recipes.agents.protocols import Agent, Guard, Policy, zero_action

Shape = tuple[int, ...]
Aggregate = Callable[[Tensor], Tensor]
"""From the members' returns ``[member, horizon, batch]`` to a scalar in the same unit."""

GAUSSIAN = GaussianLatent()
pessimistic: Aggregate = of_policy(worst_case)
"""The cost return of the whole policy under its worst member."""

MakeAgent = Callable[[Config, Environment, "Components"], Agent]


@dataclass(frozen=True, kw_only=True)
class Components:
    """An agent's parts: ``agent`` itself, and factories for the others, by default CERL's.

    Call it with a configuration and an environment to build the agent.
    """

    agent: MakeAgent
    """Class of the agent: what it learns, and how."""

    environment: Callable[[Config, int], Environment] = builders.build_environment
    """From configuration and seed; used where ``train`` is given no environment."""
    guard: Callable[[Config], Guard | None] = builders.build_guard
    """Decides when the fallback takes over; None: never."""
    fallback: Callable[[Environment], Policy] = zero_action
    """The policy that ends an episode which the guard has taken over."""
    replay: Callable[[Config, Environment], SequenceReplay] = builders.build_replay

    normalizer: Callable[[Config, Shape], nn.Module] = builders.build_normalizer
    """From configuration and the observation's shape, as the next two."""
    encoder: Callable[[Config, Shape], Any] = builders.build_encoder
    """An ``nn.Module`` with an ``embed_size``."""
    decoder: Callable[[Config, Shape], Decoder] = builders.build_decoder
    latent: Latent = GAUSSIAN
    """Kind of the stochastic state."""
    rssm: Callable[[Config, int, int, Latent], RSSM] = builders.build_rssm
    """From configuration, sizes of embed and action, and the latent."""
    reward_head: Callable[[Config], RewardHead] = builders.build_reward_head
    cost_head: Callable[[Config, Environment], CostHead] = builders.build_cost_head
    posterior: MakeFamily = Particles
    """Family of the posterior over transition and cost weights: a class."""

    actor: Callable[[Config, Environment], Actor] = builders.build_actor
    critic: Callable[[Config, float], Critic] = builders.build_critic
    """From configuration and the unit of a value that matters."""
    objective: Aggregate = torch.mean
    """What is maximised, from the members' returns."""
    aggregate: Aggregate = pessimistic
    """What is constrained, from the members' cost returns."""
    optimizer: MakeOptimizer = builders.build_lbsgd
    """Steps the policy."""

    def __call__(self, config: Config, environment: Environment) -> Agent:
        """The agent for a configuration and an environment."""
        return self.agent(config, environment, self)

    def world_model(self, config: Config, environment: Environment) -> WorldModel:
        """Encoder -> RSSM -> decoders, with transition and cost head under the posterior."""
        shape, action_size = builders.sizes(environment)
        encoder = self.encoder(config, shape)
        cost_head = self.cost_head(config, environment)
        normalizer = self.normalizer(config, shape)
        return WorldModel(
            normalizer=normalizer,
            encoder=encoder,
            rssm=self.rssm(config, encoder.embed_size, action_size, self.latent),
            decoder=self.decoder(config, shape),
            reward_head=self.reward_head(config),
            cost_head=cost_head,
            parameter_posterior=builders.build_posterior(config, self.posterior),
            free_nats=config.model.free_nats,
            kl_mix=config.model.kl_mix,
            data_share=config.posterior.data_share,
        )
