"""Environment, replay and world model of the recipes, and the optimisers of model and critics."""

from functools import partial

import torch
from torch import nn

from blocks import (
    RSSM,
    CostHead,
    Critic,
    EnsemblePosterior,
    ImageDecoder,
    ImageEncoder,
    Normalizer,
    RewardHead,
    SequenceReplay,
    Transitions,
    VectorDecoder,
    VectorEncoder,
    WorldModel,
    lambda_returns,
    make_environment,
)
from blocks.environments.safety_gymnasium import SafetyEnvironment
from blocks.posteriors.ensemble import MakeFamily
from blocks.world_model import WorldModelLoss
from recipes.agents.config import Config


def build_environment(config: Config, seed: int) -> SafetyEnvironment:
    """The task as the configuration has it."""
    return make_environment(
        config.task,
        seed=seed,
        observation=config.observation,
        action_repeat=config.action_repeat,
        image_quality=config.image_quality,
    )


def build_replay(config: Config, environment: SafetyEnvironment) -> SequenceReplay:
    """With room for the whole run; images as bytes, in a file of the run's folder if it has one."""
    shape, action = sizes(environment)
    images = config.observation == "image"
    rows = config.steps // config.action_repeat
    episodes = config.steps // 100 + 2000  # at most; each has a row more than steps
    return SequenceReplay(
        rows + episodes,
        observation_shape=shape,
        observation_dtype=torch.uint8 if images else torch.float32,
        action_size=action,
        seed=config.seed,
        folder=config.out / "replay" if images and config.out else None,
    )


def build_world_model(
    config: Config, environment: SafetyEnvironment, family: MakeFamily
) -> WorldModel:
    """Encoder -> RSSM -> decoders, with transition and cost head under the parameter posterior."""
    c = config
    shape, action = sizes(environment)
    feat = c.deter + c.stoch
    encoder = build_encoder(c, shape)
    budget_per_action = c.episode_budget * c.action_repeat / environment.episode_length
    cost_head = CostHead(
        c.deter,
        c.stoch,
        length_scale=c.cost_length_scale,
        prior_cost=c.cost_prior * budget_per_action,
        prior_std=c.cost_prior_std,
    )
    return WorldModel(
        # Images are bytes until they are encoded.
        normalizer=nn.Identity() if c.observation == "image" else Normalizer(*shape),
        encoder=encoder,
        rssm=RSSM(
            embed_size=encoder.embed_size,
            action_size=action,
            deter_size=c.deter,
            stoch_size=c.stoch,
            hidden_size=c.hidden,
        ),
        decoder=build_decoder(c, shape),
        reward_head=RewardHead(feat, hidden_size=c.hidden, unit=c.reward_unit),
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


def build_encoder(config: Config, shape: tuple[int, ...]) -> ImageEncoder | VectorEncoder:
    """For observations of that shape."""
    if config.observation == "image":
        return ImageEncoder(depth=config.image_depth, bfloat16=config.bfloat16)
    return VectorEncoder(*shape, embed_size=config.hidden, hidden_size=config.hidden)


def build_decoder(config: Config, shape: tuple[int, ...]) -> ImageDecoder | VectorDecoder:
    """To observations of that shape."""
    feat = config.deter + config.stoch
    if config.observation == "image":
        return ImageDecoder(
            feat, depth=config.image_depth, std=config.image_std, bfloat16=config.bfloat16
        )
    return VectorDecoder(feat, *shape, hidden_size=config.hidden)


def model_optimizer(config: Config, model: WorldModel) -> torch.optim.Adam:
    """Adam on the world model; cost heads and noise levels have learning rates of their own."""
    cost = model.parameter_posterior.parameters_below("cost")
    noise = [p for name, p in model.named_parameters() if name.endswith("log_std")]
    apart = {*cost, *noise}  # in the groups a set's order would change from process to process
    others = [p for p in model.parameters() if p.requires_grad and p not in apart]
    groups = [
        {"params": others},
        {"params": cost, "lr": config.cost_learning_rate},
        {"params": noise, "lr": config.noise_learning_rate},
    ]
    graphed = config.device == "cuda"
    return torch.optim.Adam(groups, config.model_learning_rate, fused=True, capturable=graphed)


def model_step(model: WorldModel, optimizer: torch.optim.Optimizer, loss: WorldModelLoss) -> None:
    """One step down the loss; a gradient that is far too long is clipped."""
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 100.0)
    optimizer.step()


def model_update(
    model: WorldModel,
    optimizer: torch.optim.Optimizer,
    generator: torch.Generator,
    *batch: torch.Tensor,
) -> tuple[torch.Tensor]:
    """One update as a function of tensors: fields of ``Transitions``, then the number of all rows.

    Returns:
        The terms of the loss, in one tensor.
    """
    *data, data_size = batch
    loss = model.loss(Transitions(*data), data_size=data_size, generator=generator)
    model_step(model, optimizer, loss)
    return (torch.stack(loss).detach(),)


def critic_optimizer(config: Config, *critics: Critic) -> torch.optim.Adam:
    """One Adam for all critics; their slow copies are not trained."""
    weights = [weight for critic in critics for weight in critic.weights.values()]
    graphed = config.device == "cuda"
    return torch.optim.Adam(weights, config.critic_learning_rate, fused=True, capturable=graphed)


def require_device(device: str) -> None:
    """
    Raises:
        ValueError: it is "cuda", and there is none.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device: got cuda, but torch finds no CUDA device here; allowed: cpu.")


def member_returns(
    signal: torch.Tensor, critic: Critic, feat: torch.Tensor, discount: float, lambda_: float
) -> torch.Tensor:
    """Lambda-returns ``[member, horizon, batch]`` of imagined states, by the slow critic."""
    values = critic.target_value(feat)
    returns = lambda_returns(
        signal.movedim(1, 0), values.movedim(1, 0), discount=discount, lambda_=lambda_
    )
    return returns.movedim(0, 1)


def sizes(environment: SafetyEnvironment) -> tuple[tuple[int, ...], int]:
    """Shape of an observation, and size of an action."""
    observation, action = environment.observation_space.shape, environment.action_space.shape
    assert observation is not None  # both spaces are boxes
    assert action is not None
    return observation, action[0]
