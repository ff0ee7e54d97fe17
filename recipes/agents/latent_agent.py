"""What an agent with a world model does, whatever its policy learns from it.

It acts, fits the model, begins to imagine, and resumes.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from blocks import Actor, Normalizer, SequenceReplay, State, Transitions, WorldModel
from blocks.world_model import WorldModelLoss
from recipes.agents.config import INITIAL_SHARE, Config
from recipes.agents.diagnostics import average

START_SEQUENCES, START_LENGTH, BURN_IN = 48, 16, 8


class LatentAgent:
    """Acts in its world model's latent state; a recipe adds how the policy learns.

    Attributes:
        update_model: one update, from the fields of ``Transitions`` and the number of all rows to
            the terms of the loss.
        STATEFUL: names of the attributes that a checkpoint holds.
        generator: source of all noise, where the networks are.
        return_scale: running range of the returns, in double precision.
        state, last_action: where the episode's filtering stands, ``[1, ...]``.
    """

    STATEFUL: tuple[str, ...]
    update_model: Callable[..., tuple[torch.Tensor, ...]]
    config: Config
    model: WorldModel
    actor: Actor
    replay: SequenceReplay
    device: torch.device
    generator: torch.Generator
    return_scale: torch.Tensor
    state: State
    last_action: torch.Tensor

    def start_episode(self) -> None:
        """Begin to filter a new episode."""
        self.state = self.model.rssm.initial(1)
        self.last_action = torch.zeros(1, self.actor.action_size, device=self.device)

    @torch.no_grad()
    def act(self, observation: np.ndarray, scale: float) -> np.ndarray:
        """Filter one observation and choose an action; ``scale`` 0 gives the mean action."""
        rssm = self.model.rssm
        embed = self.model.embed(torch.from_numpy(observation).unsqueeze(0).to(self.device))
        deter, _ = rssm.transition(self.state, self.last_action)
        posterior = rssm.posterior(deter, embed)
        noise = posterior.noise((1, rssm.stoch_size), self.generator)
        self.state = State(deter, posterior.rsample(noise))
        feat = self.state.feat
        if scale:
            shape = (1, self.actor.action_size)
            noise = torch.randn(shape, generator=self.generator, device=self.device)
            action = self.actor.sample(feat, noise, scale=scale).action
        else:
            action = self.actor.mode(feat)
        self.last_action = action
        return action[0].cpu().numpy()

    def on_device(self, data: Transitions) -> Transitions:
        """Sequences of the replay where the networks are."""
        return Transitions(*(x.to(self.device) for x in data))

    def fit_normalizer(self) -> None:
        """Normalise vectors by all that has been seen; images are taken as they are."""
        if isinstance(self.model.normalizer, Normalizer):
            self.model.normalizer.fit(self.replay.observations)

    def learn_model(self, updates: int) -> dict[str, float]:
        """Fit the Bayesian world model to the replay."""
        c = self.config
        self.fit_normalizer()
        losses: list[torch.Tensor] = []
        for _ in range(updates):
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
        """Filtered states: of new episodes, of their beginnings, and of all that was seen."""
        c = self.config
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

    def some(self, starts: State) -> State:
        """As many of the start states as a policy update takes."""
        count, size = len(starts.deter), (self.config.imagination_batch,)
        index = torch.randint(count, size, generator=self.generator, device=self.device)
        return State(*(x[index] for x in starts))

    def state_dict(self) -> dict[str, Any]:
        """Everything the agent needs to go on as if nothing had happened."""
        parts = {name: getattr(self, name).state_dict() for name in self.STATEFUL}
        return parts | {
            "generator": self.generator.get_state(),
            "return_scale": float(self.return_scale),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned."""
        for name in self.STATEFUL:
            getattr(self, name).load_state_dict(state[name])
        self.generator.set_state(state["generator"])
        self.return_scale.fill_(state["return_scale"])
