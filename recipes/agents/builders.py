"""Builds the parts of a CERL agent from a configuration: the defaults of ``Components``."""

from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from blocks import (
    LBSGD,
    RSSM,
    Actor,
    BudgetGuard,
    ConstrainedOptimizer,
    CostHead,
    Critic,
    EnsemblePosterior,
    Environment,
    ImageDecoder,
    ImageEncoder,
    Latent,
    Normalizer,
    RewardHead,
    SequenceReplay,
    VectorDecoder,
    VectorEncoder,
    WorldModel,
    make_environment,
)
from blocks.optimizers.smoothness import Smoothness
from blocks.posteriors.ensemble import MakeFamily
from recipes.agents.config import Config

MakeOptimizer = Callable[[Actor, Config], ConstrainedOptimizer]


def build_environment(config: Config, seed: int) -> Environment:
    """The task of the configuration."""
    return make_environment(
        config.task,
        seed=seed,
        observation=config.observation,
        action_repeat=config.action_repeat,
        image_quality=config.image_quality,
    )


def build_replay(config: Config, environment: Environment) -> SequenceReplay:
    """With room for the whole run; images as bytes, in a file of the run's folder if it has one."""
    shape, action_size = sizes(environment)
    images = config.observation == "image"
    rows = config.steps // config.action_repeat
    episodes = config.steps // 100 + 2000  # at most; each has a row more than steps
    return SequenceReplay(
        rows + episodes,
        observation_shape=shape,
        observation_dtype=torch.uint8 if images else torch.float32,
        action_size=action_size,
        seed=config.seed,
        folder=config.out / "replay" if images and config.out else None,
    )


def build_encoder(config: Config, shape: tuple[int, ...]) -> ImageEncoder | VectorEncoder:
    """For observations of that shape."""
    c = config.model
    if config.observation == "image":
        return ImageEncoder(depth=c.image_depth, bfloat16=c.bfloat16)
    return VectorEncoder(*shape, embed_size=c.hidden_size, hidden_size=c.hidden_size)


def build_decoder(config: Config, shape: tuple[int, ...]) -> ImageDecoder | VectorDecoder:
    """To observations of that shape."""
    c = config.model
    feat_size = c.deter_size + c.stoch_size
    if config.observation == "image":
        return ImageDecoder(feat_size, depth=c.image_depth, std=c.image_std, bfloat16=c.bfloat16)
    return VectorDecoder(feat_size, *shape, hidden_size=c.hidden_size)


def build_rssm(config: Config, embed_size: int, action_size: int, latent: Latent) -> RSSM:
    """The recurrent core with that latent."""
    c = config.model
    return RSSM(
        embed_size=embed_size,
        action_size=action_size,
        deter_size=c.deter_size,
        stoch_size=c.stoch_size,
        hidden_size=c.hidden_size,
        latent=latent,
    )


def build_reward_head(config: Config) -> RewardHead:
    """In units of the reward that matters."""
    c = config.model
    return RewardHead(c.deter_size + c.stoch_size, hidden_size=c.hidden_size, unit=c.reward_unit)


def build_cost_head(config: Config, environment: Environment) -> CostHead:
    """With a prior in units of the budget's cost rate."""
    c, model = config.posterior, config.model
    per_action = config.safety.episode_budget * config.action_repeat / environment.episode_length
    return CostHead(
        model.deter_size,
        model.stoch_size,
        length_scale=c.cost_length_scale,
        prior_cost=c.cost_prior * per_action,
        prior_std=c.cost_prior_std,
    )


def build_posterior(config: Config, family: MakeFamily) -> Callable[..., EnsemblePosterior]:
    """The posterior of ``members`` samples, still without the template it is a posterior of."""
    c = config.posterior
    return partial(EnsemblePosterior, members=c.members, family=family, prior_scale=c.prior_scale)


def build_actor(config: Config, environment: Environment) -> Actor:
    """The policy; its first actions are noise around zero."""
    c = config.model
    _, action_size = sizes(environment)
    return Actor(c.deter_size + c.stoch_size, action_size, hidden_size=c.hidden_size)


def build_critic(config: Config, unit: float) -> Critic:
    """A value function for each member, in units of a value that matters."""
    c = config.model
    return Critic(
        c.deter_size + c.stoch_size,
        members=config.posterior.members,
        hidden_size=c.hidden_size,
        target_rate=config.policy.target_rate,
        unit=unit,
    )


def build_lbsgd(actor: Actor, config: Config, smoothness: Smoothness | None = None) -> LBSGD:
    """LBSGD with Adam's direction; ``smoothness`` in place of the configured constant."""
    c = config.safety
    return LBSGD(
        actor.parameters(),
        eta=c.eta,
        eta_decay=c.eta_decay,
        eta_min=c.eta_min,
        objective_smoothness=0.0,
        constraint_smoothness=smoothness or c.constraint_smoothness,
        direction="adam",
        learning_rate=config.policy.actor_learning_rate,
        recovery_learning_rate=config.policy.actor_learning_rate,
    )


def build_guard(config: Config) -> BudgetGuard | None:
    """The budget guard, unless its share is zero."""
    c = config.safety
    return BudgetGuard(c.episode_budget, c.guard_share) if c.guard_share else None


def build_normalizer(config: Config, shape: tuple[int, ...]) -> nn.Module:
    """Of vectors; images are bytes until they are encoded."""
    return nn.Identity() if config.observation == "image" else Normalizer(*shape)


def model_optimizer(config: Config, model: WorldModel) -> torch.optim.Adam:
    """Adam on the world model; cost heads and noise levels have their own learning rates."""
    cost = model.parameter_posterior.parameters_below("cost")
    noise = [p for name, p in model.named_parameters() if name.endswith("log_std")]
    apart = {*cost, *noise}  # in the groups a set's order would change from process to process
    others = [p for p in model.parameters() if p.requires_grad and p not in apart]
    groups = [
        {"params": others},
        {"params": cost, "lr": config.posterior.cost_learning_rate},
        {"params": noise, "lr": config.model.noise_learning_rate},
    ]
    capturable = config.device == "cuda"
    return torch.optim.Adam(
        groups, config.model.model_learning_rate, fused=True, capturable=capturable
    )


def critic_optimizer(config: Config, *critics: Critic) -> torch.optim.Adam:
    """One Adam for all critics; their slow copies are not trained."""
    weights = [weight for critic in critics for weight in critic.weights.values()]
    capturable = config.device == "cuda"
    return torch.optim.Adam(
        weights, config.policy.critic_learning_rate, fused=True, capturable=capturable
    )


def require_device(device: str) -> None:
    """
    Raises:
        ValueError: it is "cuda", and there is none.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device: got cuda, but torch finds no CUDA device here; allowed: cpu.")


def sizes(environment: Environment) -> tuple[tuple[int, ...], int]:
    """Shape of an observation, and size of an action."""
    observation, action = environment.observation_space.shape, environment.action_space.shape
    assert observation is not None  # both spaces are boxes
    assert action is not None
    return observation, action[0]
