"""Build the parts of a CERL agent from a configuration: the defaults of ``Components``."""

from typing import Any

import torch
from torch import nn

import blocks
from blocks import Actor, CategoricalActor, Critic, Environment, WorldModel
from blocks.environments.costs import cost_names_of
from blocks.optimizers.smoothness import Smoothness
from recipes.agents.budgets import cost_source, episode_budgets
from recipes.agents.config import Config

Shape = tuple[int, ...]


def build_environment(config: Config, seed: int) -> Environment:
    return blocks.make_environment(
        config.task,
        seed=seed,
        observation=config.observation,
        action_repeat=config.action_repeat,
        image_quality=config.image_quality,
        cost=cost_source(config),
    )


def build_replay(config: Config, environment: Environment) -> blocks.SequenceReplay:
    """Build a replay that keeps every row; images are bytes, in a file if the run has a folder."""
    shape, action_size = sizes(environment)
    images = config.observation == "image"
    return blocks.SequenceReplay(
        observation_shape=shape,
        observation_dtype=torch.uint8 if images else torch.float32,
        action_size=action_size,
        constraints=len(cost_names_of(environment)),
        seed=config.seed,
        folder=config.out / "replay" if images and config.out else None,
    )


def build_normalizer(config: Config, shape: Shape) -> nn.Module:
    """Normalise vectors; images are bytes until they are encoded."""
    return nn.Identity() if config.observation == "image" else blocks.Normalizer(*shape)


def build_encoder(config: Config, shape: Shape) -> blocks.ImageEncoder | blocks.VectorEncoder:
    c = config.model
    if config.observation == "image":
        return blocks.ImageEncoder(depth=c.image_depth, bfloat16=c.bfloat16)
    return blocks.VectorEncoder(*shape, embed_size=c.hidden_size, hidden_size=c.hidden_size)


def build_decoder(config: Config, shape: Shape) -> blocks.ImageDecoder | blocks.VectorDecoder:
    c, size = config.model, config.model.feat_size
    if config.observation == "image":
        return blocks.ImageDecoder(size, depth=c.image_depth, std=c.image_std, bfloat16=c.bfloat16)
    return blocks.VectorDecoder(size, *shape, hidden_size=c.hidden_size)


def build_rssm(
    config: Config, embed_size: int, action_size: int, latent: blocks.Latent
) -> blocks.RSSM:
    c = config.model
    return blocks.RSSM(
        embed_size=embed_size,
        action_size=action_size,
        deter_size=c.deter_size,
        stoch_size=c.stoch_size,
        hidden_size=c.hidden_size,
        latent=latent,
    )


def build_reward_head(config: Config) -> blocks.RewardHead:
    c = config.model
    return blocks.RewardHead(c.feat_size, hidden_size=c.hidden_size, unit=c.reward_unit)


def build_continue_head(config: Config) -> blocks.ContinueHead:
    return blocks.ContinueHead(config.model.feat_size, hidden_size=config.model.hidden_size)


def build_cost_head(config: Config, environment: Environment) -> blocks.CostHead:
    """Convert the cost prior from units of the budget's cost rate."""
    c = config.posterior
    steps = environment.episode_length / config.action_repeat
    budgets = episode_budgets(config, environment)
    return blocks.CostHead(
        config.model.deter_size,
        config.model.stoch_size,
        length_scale=c.cost_length_scale,
        constraints=len(budgets),
        prior_cost=[c.cost_prior * budget / steps for budget in budgets],
        prior_std=c.cost_prior_std,
    )


def build_actor(config: Config, environment: Environment) -> Actor | CategoricalActor:
    """Build the policy: of one-hot actions if the environment's are discrete."""
    _, action_size = sizes(environment)
    kind = CategoricalActor if getattr(environment, "discrete", False) else Actor
    return kind(config.model.feat_size, action_size, hidden_size=config.model.hidden_size)


def build_critic(config: Config, unit: float, size: int | None) -> Critic:
    """Build a value function for each member; ``unit`` is a value that matters."""
    return Critic(
        config.model.feat_size,
        members=config.posterior.members,
        hidden_size=config.model.hidden_size,
        target_rate=config.policy.target_rate,
        unit=unit,
        size=size,
    )


def build_lbsgd(
    actor: nn.Module, config: Config, smoothness: Smoothness | None = None
) -> blocks.LBSGD:
    """Build LBSGD with Adam's direction; ``smoothness`` replaces the configured constant."""
    c, rate = config.safety, config.policy.actor_learning_rate
    return blocks.LBSGD(
        actor.parameters(),
        eta=c.eta,
        eta_decay=c.eta_decay,
        eta_min=c.eta_min,
        objective_smoothness=0.0,
        constraint_smoothness=smoothness or c.constraint_smoothness,
        direction="adam",
        learning_rate=rate,
        recovery_learning_rate=rate,
    )


def build_margin(config: Config) -> blocks.Margin:
    """Build a share of the budget that learns from misses, or a fixed one if its step is zero."""
    c = config.safety
    if not c.margin_step:
        return blocks.FixedShare(c.budget_share)
    return blocks.ConformalShare(alpha=c.margin_alpha, gamma=c.margin_step, initial=c.budget_share)


def build_guard(config: Config, environment: Environment) -> blocks.BudgetGuard | None:
    """Build the budget guard, unless its share is zero."""
    share = config.safety.guard_share
    return blocks.BudgetGuard(episode_budgets(config, environment), share) if share else None


def model_optimizer(config: Config, model: WorldModel) -> torch.optim.Adam:
    """Build Adam with separate learning rates for cost heads and noise levels."""
    cost = model.parameter_posterior.parameters_below("cost")
    noise = [p for name, p in model.named_parameters() if name.endswith("log_std")]
    apart = {*cost, *noise}  # a set, so only for look-up: its order changes between processes
    others = [p for p in model.parameters() if p.requires_grad and p not in apart]
    groups = [
        {"params": others},
        {"params": cost, "lr": config.posterior.cost_learning_rate},
        {"params": noise, "lr": config.model.noise_learning_rate},
    ]
    return _adam(config, groups, config.model.model_learning_rate)


def critic_optimizer(config: Config, *critics: Critic) -> torch.optim.Adam:
    """Build one Adam for all critics, without their slow copies."""
    weights = [weight for critic in critics for weight in critic.weights.values()]
    return _adam(config, weights, config.policy.critic_learning_rate)


def _adam(config: Config, parameters: list[Any], rate: float) -> torch.optim.Adam:
    return torch.optim.Adam(parameters, rate, fused=True, capturable=config.device == "cuda")


def require_device(device: str) -> None:
    """Raise a ValueError if the device is "cuda" and torch finds none."""
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device: got cuda, but torch finds no CUDA device here; allowed: cpu.")


def sizes(environment: Environment) -> tuple[Shape, int]:
    """Return the shape of an observation, and the size of an action."""
    observation, action = environment.observation_space.shape, environment.action_space.shape
    assert observation is not None  # both spaces are boxes
    assert action is not None
    return observation, action[0]
