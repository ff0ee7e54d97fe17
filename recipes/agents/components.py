"""Parts of a latent agent; each is a factory, to be exchanged by keyword."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

import blocks
from blocks import Actor, CategoricalActor, Critic, Environment, WorldModel
from blocks.posteriors.ensemble import MakeFamily
from recipes.agents import builders
from recipes.agents.builders import Shape
from recipes.agents.config import Config
from recipes.agents.protocols import Agent, Guard, Policy, zero_action

Aggregate = Callable[[Tensor], Tensor]
"""From the members' returns ``[member, horizon, batch]`` to a scalar in the same unit; of costs
also to a vector, each entry of which is constrained. It is applied to each cost."""
MakeAgent = Callable[[Config, Environment, "Components"], Agent]
MakeOptimizer = Callable[[Any, Config], blocks.ConstrainedOptimizer]
"""From the actor, a module whose parameters it moves, and the configuration."""

GAUSSIAN = blocks.GaussianLatent()
pessimistic: Aggregate = blocks.of_policy(blocks.worst_case)


@dataclass(frozen=True, kw_only=True)
class Components:
    """An agent's parts: ``agent`` itself, and factories of the others, by default CERL's.

    Call it with a configuration and an environment to build the agent.
    """

    agent: MakeAgent
    """Class of the agent."""

    environment: Callable[[Config, int], Environment] = builders.build_environment
    """From configuration and seed; used if ``train`` is given no environment."""
    guard: Callable[[Config, Environment], Guard | None] = builders.build_guard
    """Decides when the fallback takes over; None: never."""
    fallback: Callable[[Environment], Policy] = zero_action
    """The policy that ends an episode after the guard has refused."""
    prefill: Callable[[Environment], Policy] | None = None
    """A safe policy that acts in the prefill, built for each episode; None: the first policy."""
    replay: Callable[[Config, Environment], blocks.SequenceReplay] = builders.build_replay

    normalizer: Callable[[Config, Shape], nn.Module] = builders.build_normalizer
    """From configuration and the shape of an observation, as encoder and decoder."""
    encoder: Callable[[Config, Shape], Any] = builders.build_encoder
    """An ``nn.Module`` with an ``embed_size``."""
    decoder: Callable[[Config, Shape], blocks.Decoder] = builders.build_decoder
    latent: blocks.Latent = GAUSSIAN
    """Kind of the stochastic state."""
    rssm: Callable[[Config, int, int, blocks.Latent], blocks.RSSM] = builders.build_rssm
    """From configuration, sizes of embed and action, and the latent."""
    reward_head: Callable[[Config], blocks.RewardHead] = builders.build_reward_head
    continue_head: Callable[[Config], blocks.ContinueHead] = builders.build_continue_head
    cost_head: Callable[[Config, Environment], blocks.CostHead] = builders.build_cost_head
    posterior: MakeFamily = blocks.Particles
    """Family of the posterior over transition and cost weights: a class."""

    actor: Callable[[Config, Environment], Actor | CategoricalActor] = builders.build_actor
    critic: Callable[[Config, float, int | None], Critic] = builders.build_critic
    """From configuration, the unit of a value that matters, and the number of values (None: one
    without an axis, for rewards)."""
    objective: Aggregate = torch.mean
    """Quantity to maximise, from the members' returns."""
    aggregate: Aggregate = pessimistic
    """Constrained quantity, from the members' cost returns: by default that of the worst member."""
    optimizer: MakeOptimizer = builders.build_lbsgd
    """Optimiser of the policy."""
    margin: Callable[[Config], blocks.Margin] = builders.build_margin
    """Margin between the cost that may be predicted and the budget."""

    def __call__(self, config: Config, environment: Environment) -> Agent:
        return self.agent(config, environment, self)

    def world_model(self, config: Config, environment: Environment) -> WorldModel:
        """Build encoder, RSSM and decoders, with transition and cost head under the posterior."""
        c, posterior = config.model, config.posterior
        shape, action_size = builders.sizes(environment)
        # The order in which parts are built decides their initial weights.
        encoder = self.encoder(config, shape)
        cost_head = self.cost_head(config, environment)
        return WorldModel(
            normalizer=self.normalizer(config, shape),
            encoder=encoder,
            rssm=self.rssm(config, encoder.embed_size, action_size, self.latent),
            decoder=self.decoder(config, shape),
            reward_head=self.reward_head(config),
            cost_head=cost_head,
            continue_head=self.continue_head(config),
            parameter_posterior=partial(
                blocks.EnsemblePosterior,
                members=posterior.members,
                family=self.posterior,
                prior_scale=posterior.prior_scale,
            ),
            free_nats=c.free_nats,
            kl_mix=c.kl_mix,
        )
