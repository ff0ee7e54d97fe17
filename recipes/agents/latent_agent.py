"""An agent with a world model: acts, fits the model, chooses where imagination starts, resumes."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.profiler import record_function

from blocks import (
    Environment,
    Normalizer,
    State,
    Transitions,
    Weights,
    WorldModel,
    discounted_budget,
)
from blocks.world_model import WorldModelLoss
from recipes.agents import builders
from recipes.agents.components import Components
from recipes.agents.config import INITIAL_SHARE, Config
from recipes.agents.diagnostics import average, cost_disagreement, disagreement_on
from recipes.agents.protocols import Metrics
from recipes.plotting.filmstrip import filmstrip

START_SEQUENCES, START_LENGTH, BURN_IN = 48, 16, 8


class LatentAgent:
    """Acts in its world model's latent state; a recipe adds how the policy learns.

    Attributes:
        STATEFUL: names of the attributes that a checkpoint holds.
        budget: discounted budget of the cost return; ``cost_rate``: the same per agent step.
        update_model: one update, from the fields of ``Transitions`` and the number of all rows to
            the terms of the loss.
        generator: source of all noise, where the networks are.
        return_scale: running range of the returns, in double precision.
        state, last_action: where the episode's filtering stands, ``[1, ...]``.
    """

    STATEFUL: ClassVar[tuple[str, ...]] = ("model", "actor", "replay", "model_optimizer")

    def __init__(self, config: Config, environment: Environment, parts: Components) -> None:
        self.config, self.parts = config, parts
        torch.manual_seed(config.seed)  # for the initial weights; later noise is the generator's
        self.device = torch.device(config.device)
        self.generator = torch.Generator(self.device).manual_seed(config.seed)
        self.replay = parts.replay(config, environment)
        self.model = parts.world_model(config, environment).to(self.device)
        self.actor = parts.actor(config, environment).to(self.device)
        if config.compile:
            self.model.compile(dynamic=False)  # few sizes, each for ever
            self.actor.compile(dynamic=False)
        self.model_optimizer = builders.model_optimizer(config, self.model)
        self.return_scale: torch.Tensor = torch.tensor(
            config.model.reward_unit, dtype=torch.float64, device=self.device
        )
        self.budget = discounted_budget(
            config.safety.episode_budget,
            environment.episode_length,
            config.policy.cost_discount,
            config.action_repeat,
        )
        self.cost_rate = self.budget * (1 - config.policy.cost_discount)
        self.remember = self.replay.add
        self.update_model: Callable[..., tuple[torch.Tensor, ...]] = partial(
            update_model, self.model, self.model_optimizer, self.generator
        )

    def start_episode(self) -> None:
        """Begin to filter a new episode."""
        self.state = self.model.rssm.initial(1)
        self.last_action = torch.zeros(1, self.actor.action_size, device=self.device)

    @torch.no_grad()
    def act(self, observation: NDArray[Any], scale: float) -> NDArray[np.float32]:
        """Filter one observation and choose an action; ``scale`` 0 gives the mean action."""
        embed = self.model.embed(torch.from_numpy(observation).unsqueeze(0).to(self.device))
        self.state = self.model.rssm.step(
            self.state, self.last_action, embed, generator=self.generator
        )
        feat = self.state.feat
        if scale:
            shape = (1, self.actor.action_size)
            noise = torch.randn(shape, generator=self.generator, device=self.device)
            self.last_action = self.actor.sample(feat, noise, scale=scale).action
        else:
            self.last_action = self.actor.mode(feat)
        return self.last_action[0].cpu().numpy()

    def begin(self) -> Metrics:
        """After the prefill: fit the posterior. The policy stays as it is."""
        return self.fit_posterior(self.config.model.prefill_updates)

    def learn(self, progress: float) -> Metrics:
        """After an episode: fit the posterior. The policy stays as it is."""
        return self.fit_posterior(self.config.model.updates_per_episode)

    def fit_posterior(self, updates: int) -> Metrics:
        """Fit the Bayesian world model to the replay."""
        c = self.config.model
        if isinstance(self.model.normalizer, Normalizer):
            self.model.normalizer.fit(self.replay.observations)
        losses: list[torch.Tensor] = []
        for _ in range(updates):
            with record_function("replay"):
                data = self.replay.sample(
                    c.batch_size,
                    c.seq_len,
                    recent_episodes=c.recent_episodes,
                    recent_fraction=c.recent_fraction,
                    initial_fraction=0.125,
                )
            data_size = torch.tensor(len(self.replay), device=self.device)
            losses.extend(self.update_model(*self.on_device(data), data_size))
        names = [f"model_{name}" for name in WorldModelLoss._fields]
        return average([dict(zip(names, loss.tolist(), strict=True)) for loss in losses])

    @torch.no_grad()
    def start_states(self) -> State:
        """Filtered states: of new episodes, of their beginnings, and of the whole replay."""
        c = self.config.policy
        data = self.on_device(
            self.replay.sample(
                START_SEQUENCES,
                BURN_IN + START_LENGTH,
                recent_episodes=c.start_episodes,
                recent_fraction=1 - INITIAL_SHARE - c.start_replay_share,
                initial_fraction=INITIAL_SHARE,
            )
        )
        state = self.model.filter(data, self.generator).state
        # A state that began at zero in the middle of an episode has not yet seen enough.
        known = data.is_first.cumsum(1) > 0
        known[:, BURN_IN:] = True
        return State(*(x[known] for x in state))

    def sample_starts(self, starts: State) -> State:
        """As many of the start states as a policy update takes."""
        count, size = len(starts.deter), (self.config.policy.imagination_batch_size,)
        index = torch.randint(count, size, generator=self.generator, device=self.device)
        return State(*(x[index] for x in starts))

    def sample_posterior(self) -> Weights:
        """Posterior samples of the transition and the cost head, one for each member."""
        return {
            name: value.detach() for name, value in self.model.parameter_posterior.sample().items()
        }

    def disagreement_on_newest_episode(self) -> float:
        """Members' disagreement about the cost of the newest episode, in the budget's cost rate."""
        newest = self.on_device(self.replay.newest_episode())
        return disagreement_on(self.model, newest, self.cost_rate)

    def disagreement(self) -> Metrics:
        """Members' disagreement about cost, on recent states and far from them."""
        recent = State(*(x[:256] for x in self.start_states()))
        return cost_disagreement(
            self.model,
            self.sample_posterior(),
            recent,
            self.actor.action_size,
            self.cost_rate,
            self.generator,
        )

    def on_device(self, data: Transitions) -> Transitions:
        """Sequences of the replay where the networks are."""
        return Transitions(*(x.to(self.device) for x in data))

    def illustrate(self, folder: Path) -> None:
        """Draw the newest episode as seen, reconstructed and imagined, if it is of images."""
        if self.config.observation == "image":
            filmstrip(self.model, self.replay.newest_episode(), folder / "filmstrip.png")

    def state_dict(self) -> dict[str, Any]:
        """Everything the agent needs to go on as if nothing had happened."""
        parts = {name: getattr(self, name).state_dict() for name in self.STATEFUL}
        return parts | {
            "generator": self.generator.get_state(),
            "return_scale": float(self.return_scale),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what ``state_dict`` returned."""
        for name in self.STATEFUL:
            getattr(self, name).load_state_dict(state[name])
        self.generator.set_state(state["generator"])
        self.return_scale.fill_(state["return_scale"])


def update_model(
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
    with record_function("model losses"):
        loss = model.loss(Transitions(*data), data_size=data_size, generator=generator)
    with record_function("model gradients and step"):
        descend(loss, model, optimizer)
    return (torch.stack(loss).detach(),)


def descend(loss: WorldModelLoss, model: WorldModel, optimizer: torch.optim.Optimizer) -> None:
    """One step down the loss; a gradient that is far too long is clipped."""
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 100.0)
    optimizer.step()
