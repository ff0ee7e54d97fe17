"""The world model of the recipes, wired from blocks, and the optimisers of model and critics."""

from functools import partial

import torch
from cerl_config import Config

from blocks import (
    RSSM,
    CostHead,
    Critic,
    EnsemblePosterior,
    Normalizer,
    RewardHead,
    VectorDecoder,
    VectorEncoder,
    WorldModel,
)
from blocks.ensemble_posterior import Family
from blocks.environments import SafetyEnvironment


def build_world_model(config: Config, environment: SafetyEnvironment, family: Family) -> WorldModel:
    """Encoder -> RSSM -> decoders, with transition and cost head under the parameter posterior."""
    c = config
    observation, action = sizes(environment)
    feat = c.deter + c.stoch
    encoder = VectorEncoder(observation, embed=c.hidden, hidden=c.hidden)
    budget_per_action = c.episode_budget * c.action_repeat / environment.episode_length
    cost_head = CostHead(
        c.deter,
        c.stoch,
        length_scale=c.cost_length_scale,
        prior_cost=c.cost_prior * budget_per_action,
        prior_std=c.cost_prior_std,
    )
    return WorldModel(
        normalizer=Normalizer(observation),
        encoder=encoder,
        rssm=RSSM(
            embed=encoder.embed, action=action, deter=c.deter, stoch=c.stoch, hidden=c.hidden
        ),
        decoder=VectorDecoder(feat, observation, hidden=c.hidden),
        reward_head=RewardHead(feat, hidden=c.hidden),
        cost_head=cost_head,
        parameter_posterior=partial(
            EnsemblePosterior,
            members=c.members,
            family=family,
            prior_scale=c.prior_scale,
        ),
        free_nats=c.free_nats,
        kl_mix=c.kl_mix,
        data_share=c.data_share,
    )


def model_optimizer(config: Config, model: WorldModel) -> torch.optim.Adam:
    """Adam on the world model; the cost heads have a learning rate of their own."""
    cost = model.parameter_posterior.parameters_below("cost")
    is_cost = set(cost)  # in the groups a set's order would change from process to process
    others = [p for p in model.parameters() if p.requires_grad and p not in is_cost]
    groups = [{"params": others}, {"params": cost, "lr": config.cost_learning_rate}]
    return torch.optim.Adam(groups, config.model_learning_rate, fused=True)


def critic_optimizer(config: Config, *critics: Critic) -> torch.optim.Adam:
    """One Adam for all critics; their slow copies are not trained."""
    weights = [weight for critic in critics for weight in critic.weights.values()]
    return torch.optim.Adam(weights, config.critic_learning_rate, fused=True)


def sizes(environment: SafetyEnvironment) -> tuple[int, int]:
    """Sizes of a vector observation and of an action."""
    observation, action = environment.observation_space.shape, environment.action_space.shape
    assert observation is not None  # both spaces are boxes
    assert action is not None
    return observation[0], action[0]
