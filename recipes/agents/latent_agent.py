"""An agent with a world model: acts, fits the model, samples start states of imagination."""

from collections.abc import Callable, Mapping, Sequence
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
    imagine,
)
from blocks.environments.costs import cost_names_of
from blocks.world_model import WorldModelLoss
from recipes.agents import builders
from recipes.agents.budgets import episode_budgets
from recipes.agents.components import Components
from recipes.agents.config import INITIAL_SHARE, Config
from recipes.agents.device_state import for_device, restore_generator
from recipes.agents.diagnostics import average
from recipes.agents.protocols import Metrics
from recipes.plotting.filmstrip import filmstrip

START_SEQUENCES, START_LENGTH, BURN_IN = 48, 16, 8
FAR_STEPS = 20


class LatentAgent:
    """Acts in its world model's latent state; a recipe adds how the policy learns.

    Attributes:
        STATEFUL: names of the attributes that a checkpoint holds.
        cost_names: names of the costs; ``episode_budgets``: their budgets.
        budgets: discounted budgets of the cost returns, ``[constraint]``; ``cost_rates``: the same
            per agent step.
        update_model: one update, from the fields of ``Transitions`` and the replay size to the
            terms of the loss.
        generator: source of all noise, on the device of the networks.
        return_scale: running range of the returns, in double precision.
        iterate_row: row of the replay at which the newest iterate began.
        state, last_action: filtered state and last action of each episode under way,
            ``[episode, ...]``; ``noise_sources``: the generator of each.
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
            self.model.compile(dynamic=False)  # few sizes, which never change
            self.actor.compile(dynamic=False)
        self.model_optimizer = builders.model_optimizer(config, self.model)
        self.return_scale: torch.Tensor = torch.tensor(
            config.model.reward_unit, dtype=torch.float64, device=self.device
        )
        self.cost_names = cost_names_of(environment)
        self.episode_budgets = episode_budgets(config, environment)
        budgets = [
            discounted_budget(
                budget,
                environment.episode_length,
                config.policy.cost_discount,
                config.action_repeat,
            )
            for budget in self.episode_budgets
        ]
        self.budgets = torch.tensor(budgets, device=self.device)
        self.cost_rates = self.budgets * (1 - config.policy.cost_discount)
        self.episode_rows = environment.episode_length // config.action_repeat + 1
        self.remember = self.replay.add
        self.iterate_row = 0
        self.update_model: Callable[..., tuple[torch.Tensor, ...]] = partial(
            update_model, self.model, self.model_optimizer, self.generator
        )

    def start_episode(self) -> None:
        """Reset the filtered state."""
        self._start(self.generator)

    def start_together(self, seeds: Sequence[int]) -> None:
        """Start episodes side by side, each with its own source of noise."""
        self._start(*(torch.Generator(self.device).manual_seed(seed) for seed in seeds))

    def act(self, observation: NDArray[Any], scale: float) -> NDArray[np.float32]:
        """Filter one observation and choose an action; with ``scale`` 0 without any noise."""
        return self.act_together(observation[None], scale)[0]

    @torch.no_grad()
    def act_together(self, observations: NDArray[Any], scale: float) -> NDArray[np.float32]:
        """Act in all episodes: from ``[episode, ...]`` to ``[episode, action]``."""
        rssm, actor = self.model.rssm, self.actor
        embed = self.model.embed(torch.from_numpy(observations).to(self.device))
        deter, _ = rssm.transition(self.state, self.last_action)
        posterior = rssm.posterior(deter, embed)
        if not scale:
            self.state = State(deter, posterior.mode())
            self.last_action = actor.mode(self.state.feat)
            return self.last_action.cpu().numpy()
        noise = [rssm.latent.noise((1, rssm.stoch_size), source) for source in self.noise_sources]
        self.state = State(deter, posterior.rsample(torch.cat(noise)))
        noise = [
            torch.randn(1, actor.action_size, generator=source, device=self.device)
            for source in self.noise_sources
        ]
        self.last_action = actor.sample(self.state.feat, torch.cat(noise), scale=scale).action
        return self.last_action.cpu().numpy()

    def begin(self) -> Metrics:
        """After the prefill: fit the posterior, not the policy."""
        return self.fit_posterior(self.config.model.prefill_updates)

    def learn(self, progress: float) -> Metrics:
        """After an episode: fit the posterior, not the policy."""
        return self.fit_posterior(self.config.model.updates_per_episode)

    def fit_posterior(self, updates: int) -> Metrics:
        """Fit the Bayesian world model to the replay."""
        c = self.config.model
        if isinstance(self.model.normalizer, Normalizer):
            self.model.normalizer.fit(self.replay.observations)
        sampling: dict[str, Any] = {
            "recent_episodes": self.as_many_rows(c.recent_episodes),
            "recent_fraction": c.recent_fraction,
            "initial_fraction": 0.125,
            "costly_fraction": c.costly_fraction,
        }
        # Rows drawn more often than others inform the posterior like fewer rows.
        size = self.replay.effective_size(c.seq_len, **sampling)
        data_size = torch.tensor(size, dtype=torch.float32, device=self.device)
        losses: list[torch.Tensor] = []
        for _ in range(updates):
            with record_function("replay"):
                data = self.replay.sample(c.batch_size, c.seq_len, **sampling)
            losses.extend(self.update_model(*self.on_device(data), data_size))
        names = [f"model_{name}" for name in WorldModelLoss._fields]
        fitted = average([dict(zip(names, loss.tolist(), strict=True)) for loss in losses])
        return fitted | {"data_size": size}

    @torch.no_grad()
    def start_states(self) -> State:
        """Filter states of new episodes, of their beginnings, and of the whole replay."""
        c = self.config.policy
        data = self.on_device(
            self.replay.sample(
                START_SEQUENCES,
                BURN_IN + START_LENGTH,
                recent_episodes=self.as_many_rows(c.start_episodes),
                recent_fraction=1 - INITIAL_SHARE - c.start_replay_share,
                initial_fraction=INITIAL_SHARE,
            )
        )
        state = self.model.filter(data, self.generator).state
        # Filtering from zero in the middle of an episode needs BURN_IN steps.
        known = data.is_first.cumsum(1) > 0
        known[:, BURN_IN:] = True
        known &= ~data.terminated  # nothing comes after them
        return State(*(x[known] for x in state))

    def as_many_rows(self, whole: int) -> int:
        """Count the newest episodes that have as many rows as ``whole`` whole episodes."""
        return self.replay.newest_episodes(whole * self.episode_rows)

    def sample_starts(self, starts: State) -> State:
        """Draw the start states of a policy update."""
        count, size = len(starts.deter), (self.config.policy.imagination_batch_size,)
        index = torch.randint(count, size, generator=self.generator, device=self.device)
        return State(*(x[index] for x in starts))

    def newest_costs(self) -> list[float]:
        """Return what the newest iterate's episodes cost, in units of their budgets, each cost.

        A terminated episode has the whole budget. If it was cut off, or the guard ended the
        policy's part, it has its share. Without an episode since the policy learned, it is the
        newest one's cost.
        """
        costs = torch.zeros(len(self.cost_names))
        budgets = torch.zeros(len(self.cost_names))
        whole, rates = torch.tensor(self.episode_budgets), self.cost_rates.cpu()
        new = self.replay.episodes_since(self.iterate_row) or [self.replay.newest_episode()]
        for episode in new:
            steps = max(1, episode.cost.shape[1] - 1)
            costs += episode.cost.sum((0, 1))
            budgets += whole if episode.terminated[0, -1] else steps * rates
        return (costs / budgets).tolist()

    def sample_posterior(self) -> Weights:
        """Sample transition and cost head for each member from the posterior."""
        sample = self.model.parameter_posterior.sample()
        return {name: value.detach() for name, value in sample.items()}

    @torch.no_grad()
    def judge_newest_states(self, when: str) -> Metrics:
        """Predict the cost of the newest iterate's states, in budgets, and compare the members.

        Before and after the model has learned from them, it shows the value of their data.
        The costs that came are ``newest_costs``.

        Args:
            when: part of the metrics' names.
        """
        rows = min(self.replay.added - self.iterate_row, self.episode_rows) or self.episode_rows
        rows = min(rows, len(self.replay))
        first = torch.tensor([self.replay.added - rows])
        newest = self.on_device(self.replay.gather(first, rows))
        state = self.model.filter(newest, torch.Generator().manual_seed(0)).state
        feat, weights = state.feat.flatten(0, 1), self.sample_posterior()
        costs = self.model.cost(feat, weights).mean(1) / self.cost_rates
        return {
            f"disagreement_{when}": self.cost_deviation(feat, weights),
            f"{when}_cost_mean": float(costs.mean(0).max()),
            f"{when}_cost_worst": float(costs.max()),
        }

    @torch.no_grad()
    def disagreement(self) -> Metrics:
        """Measure the members' disagreement about costs on recent states and far from them.

        Far: of the imagined states after 20 steps of one random extreme action, the quarter with
        the largest distance from any recent one.
        """
        recent = State(*(x[:256] for x in self.start_states()))
        weights, members = self.sample_posterior(), self.model.members
        near = State(*(x.expand(members, -1, -1) for x in recent))
        shape = (1, len(recent.deter), self.actor.action_size)
        signs = torch.randint(0, 2, shape, generator=self.generator, device=self.device)
        extreme = (signs * 2.0 - 1).expand(members, -1, -1)
        imagined = imagine(
            self.model.transition(weights),
            lambda feat, noise: (extreme, feat[..., 0]),
            near,
            FAR_STEPS,
            action_size=self.actor.action_size,
            generator=self.generator,
        ).state
        distance = torch.cdist(imagined.stoch[:, -1], recent.stoch).amin(-1).mean(0)
        far = imagined.feat[:, -1, distance.topk(max(1, len(distance) // 4)).indices]
        return {
            "disagreement_recent": self.cost_deviation(near.feat, weights),
            "disagreement_far": self.cost_deviation(far, weights),
        }

    def cost_deviation(self, feat: torch.Tensor, weights: Weights) -> float:
        """Standard deviation of the cost over members, in units of the budget's cost rate.

        Of several costs, that on which they differ most.
        """
        deviation = self.model.cost(feat, weights).std(0, unbiased=False).mean(0)
        return float((deviation / self.cost_rates).max())

    def on_device(self, data: Transitions) -> Transitions:
        """Move sequences to the device of the networks."""
        return Transitions(*(x.to(self.device) for x in data))

    def illustrate(self, folder: Path) -> None:
        """Draw an episode of images: as seen, reconstructed and imagined."""
        if self.config.observation == "image":
            filmstrip(self.model, self.replay.newest_episode(), folder / "filmstrip.png")

    def state_dict(self) -> dict[str, Any]:
        """Collect the state of all ``STATEFUL`` parts, the generator and the return scale."""
        parts = {name: getattr(self, name).state_dict() for name in self.STATEFUL}
        return parts | {
            "generator": self.generator.get_state(),
            "return_scale": float(self.return_scale),
            "iterate_row": self.iterate_row,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore ``state_dict``, also one of another device; its noise then differs."""
        state = for_device(state, self.device)
        for name in self.STATEFUL:
            getattr(self, name).load_state_dict(state[name])
        restore_generator(self.generator, state["generator"])
        self.return_scale.fill_(state["return_scale"])
        self.iterate_row = state["iterate_row"]

    def policy_state(self) -> dict[str, Any]:
        """Copy the weights that acting needs: filter and policy, on the CPU."""
        return {
            name: {key: value.detach().cpu().clone() for key, value in part.state_dict().items()}
            for name, part in self._acting_parts().items()
        }

    def load_policy_state(self, state: Mapping[str, Any]) -> None:
        """Restore ``policy_state``."""
        for name, part in self._acting_parts().items():
            part.load_state_dict(state[name])

    def _acting_parts(self) -> dict[str, nn.Module]:
        model = self.model
        return {
            "normalizer": model.normalizer,
            "encoder": model.encoder,
            "rssm": model.rssm,
            "actor": self.actor,
        }

    def _start(self, *noise_sources: torch.Generator) -> None:
        self.noise_sources = noise_sources
        episodes = len(noise_sources)
        self.state = self.model.rssm.initial(episodes)
        self.last_action = torch.zeros(episodes, self.actor.action_size, device=self.device)


def update_model(
    model: WorldModel,
    optimizer: torch.optim.Optimizer,
    generator: torch.Generator,
    *batch: torch.Tensor,
) -> tuple[torch.Tensor]:
    """Update once from tensors: the fields of ``Transitions``, then the replay size.

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
    """Take one step with the clipped gradient of the loss."""
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 100.0)
    optimizer.step()
