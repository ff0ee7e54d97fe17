"""The world model of the recipes, wired from blocks."""

from functools import partial

from cerl_config import Config

from blocks import (
    RSSM,
    CostHead,
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
    )


def sizes(environment: SafetyEnvironment) -> tuple[int, int]:
    """Sizes of a vector observation and of an action."""
    observation, action = environment.observation_space.shape, environment.action_space.shape
    assert observation is not None  # both spaces are boxes
    assert action is not None
    return observation[0], action[0]
