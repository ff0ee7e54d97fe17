"""World model: the ELBO over encoder, RSSM, parameter posterior and decoders."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from blocks.acceleration.threads import side_by_side
from blocks.decoders import Decoder
from blocks.heads import ContinueHead, CostHead, RewardHead
from blocks.latents import LatentDistribution
from blocks.posteriors.ensemble import EnsemblePosterior, select
from blocks.rssm import RSSM, Filtered
from blocks.types import State, Transitions, Weights

DETER_STD = 0.1
"""Standard deviation of a member's ``deter`` around the filter's; ``deter`` is in [-1, 1]."""

BLOCK_ROWS = 50
"""Rows per block: neighbouring rows, which depend on each other, have the same weight."""


class WorldModelLoss(NamedTuple):
    """Terms of the loss in nats per step, averaged over members, batch and time."""

    total: Tensor
    observation: Tensor
    reward: Tensor
    cost: Tensor
    kl: Tensor
    transition: Tensor
    log_prior: Tensor
    cont: Tensor

    def backward(self) -> None:
        """Compute the gradients of the total, with the members' transitions on a separate thread.

        The transition loss uses detached filtered states, so the two parts share only the members'
        parameters, and each adds to them once. Start with empty gradients: otherwise the last bit
        depends on which part finishes first.
        """
        others = self.observation + self.reward + self.cost + self.cont + self.kl - self.log_prior
        backward = torch.autograd.backward
        side_by_side(partial(backward, others), partial(backward, self.transition))


class WorldModel(nn.Module):
    """RSSM with a Bayesian ensemble of transitions and cost heads.

    The members share the filter (encoder, recurrence, posterior head) and the decoders, which
    maximise the ELBO (Hafner et al. 2019, equation 3). Each member k is a whole transition and cost
    head, drawn from the parameter posterior given its weighting of the filtered transitions:
    ``-log p(w_k) / data_size + KL(q || p_{w_k}) - log N(deter'; f_{w_k}, 0.1^2) - log p(c; w_k)``.
    So all members use the same latent states and can start from the same ones. They differ where
    data are missing.

    Args:
        normalizer: observation -> normalised observation; ``nn.Identity()`` for images, which the
            encoder takes as bytes.
        encoder: normalised observation -> embed.
        rssm: the core; its ``dynamics`` is the template (and prior mean) of the transition sites.
        decoder: a module feat -> observation, with ``log_prob(feat, normalised observation)``.
        reward_head: feat -> reward.
        cost_head: feat -> cost; template of the posterior's cost sites.
        continue_head: feat -> probability that the episode goes on; by default a
            ``ContinueHead``.
        parameter_posterior: called with the template and ``prior_std=``, the prior deviations of
            the cost head; returns an ``EnsemblePosterior``.
        free_nats: KL below which its gradient is zero, in nats.
        kl_mix: share of the KL's gradient that trains the prior, in [0, 1] (Hafner et al. 2021).
    """

    def __init__(
        self,
        *,
        normalizer: nn.Module,
        encoder: nn.Module,
        rssm: RSSM,
        decoder: Decoder,
        reward_head: RewardHead,
        cost_head: CostHead,
        continue_head: ContinueHead | None = None,
        parameter_posterior: Callable[..., EnsemblePosterior] = EnsemblePosterior,
        free_nats: float = 1.0,
        kl_mix: float = 0.8,
    ) -> None:
        super().__init__()
        self.normalizer, self.encoder, self.rssm = normalizer, encoder, rssm
        self.decoder, self.reward_head, self.cost_head = decoder, reward_head, cost_head
        self.continue_head = continue_head or ContinueHead(rssm.feat_size)
        self.ends: Tensor
        self.register_buffer("ends", torch.zeros(()))  # 1 once an episode has terminated
        self.free_nats, self.kl_mix = free_nats, kl_mix
        cost_head.requires_grad_(False)
        self.parameter_posterior = parameter_posterior(
            nn.ModuleDict({"dynamics": rssm.dynamics, "cost": cost_head}),
            prior_std={f"cost.{name}": std for name, std in cost_head.prior_std.items()},
        )

    @property
    def members(self) -> int:
        """Number of members K."""
        return self.parameter_posterior.members

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Compile encoder, decoder and the steps of the RSSM; see ``torch.compile``."""
        for part in (self.encoder, self.rssm, self.decoder):
            cast(Any, part).compile(*args, **kwargs)

    def embed(self, observation: Tensor) -> Float[Tensor, "*batch embed"]:
        """Normalise and encode observations."""
        return self.encoder(self.normalizer(observation))

    def filter(
        self,
        data: Transitions,
        generator: torch.Generator | None = None,
        initial: State | None = None,
    ) -> Filtered:
        """Filter ``[batch, time, ...]`` data; see ``RSSM.observe``."""
        return self.rssm.observe(
            self.embed(data.observation), data.action, data.is_first, initial, generator=generator
        )

    def transition(
        self, weights: Weights
    ) -> Callable[[State, Tensor], tuple[Float[Tensor, "... deter"], LatentDistribution]]:
        """Return the prior's step under stacked weights, for ``imagine``."""
        dynamics = select(weights, "dynamics")
        return lambda state, action: self.rssm.transition(state, action, dynamics)

    def cost(self, feat: Float[Tensor, "*batch feat"], weights: Weights) -> Tensor:
        """Predict the expected costs per agent step.

        Args:
            feat: ``[member, ..., feat]``, or ``[batch, feat]`` shared by all members.
            weights: stacked weights of the members.

        Returns:
            The costs, ``[member, ..., constraint]``.
        """
        stacked = select(weights, "cost")
        flat = feat if feat.dim() == 2 else feat.flatten(1, -2)
        cost = self.cost_head(flat, stacked)
        return cost if feat.dim() == 2 else cost.view(*feat.shape[:-1], -1)

    def reward(self, feat: Float[Tensor, "*batch feat"]) -> Float[Tensor, "*batch"]:
        """Predict the expected reward per agent step."""
        return self.reward_head(feat)

    def cont(self, feat: Float[Tensor, "*batch feat"]) -> Float[Tensor, "*batch"]:
        """Predict the probability that the episode goes on; 1 until one has terminated.

        A head that has never seen an end would still expect one, and so count costs too low.
        """
        return torch.where(self.ends > 0, self.continue_head(feat), 1.0)

    def loss(
        self,
        data: Transitions,
        *,
        data_size: int | Tensor,
        generator: torch.Generator | None = None,
    ) -> WorldModelLoss:
        """Compute the negative ELBO of ``[batch, time, ...]`` data.

        Args:
            data: a batch of sequences.
            data_size: number of agent steps that the posterior is conditioned on (replay size).
            generator: source of noise.

        Returns:
            The terms of the loss.
        """
        out = self.filter(data, generator)
        self.cost_head.observe(out.state.stoch)
        self.ends.clamp_(min=data.terminated.any())
        weights = self.parameter_posterior.sample(generator=generator or torch.default_generator)
        # The first row of an episode has no reward or cost.
        arrived = (~data.is_first).to(data.reward.dtype)
        weighting = self.data_weights(data.row) * arrived

        def others() -> tuple[Tensor, ...]:  # the only one that uses Pyro, in ``log_prior``
            return (
                *self._decoding_losses(out.state.feat, data, arrived),
                self._continue_loss(out.state.feat, data),
                self._cost_loss(out.state.feat, data, weights, weighting),
                self._balanced_kl(out.posterior, out.prior),
                self.parameter_posterior.log_prior().mean() / data_size,
            )

        def transitions() -> Tensor:
            return self._transition_loss(out, data.action, weights, weighting)

        parts, transition = side_by_side(others, transitions)
        observation, reward, cont, cost, kl, log_prior = parts
        total = observation + reward + cont + cost + kl + transition - log_prior
        return WorldModelLoss(total, observation, reward, cost, kl, transition, log_prior, cont)

    def data_weights(self, row: Int[Tensor, "*batch"]) -> Float[Tensor, "member *batch"]:
        """Weigh each row for each member: Exp(1) for each block of rows, one on average.

        The weighted likelihood bootstrap (Newton and Raftery 1994): with these weights the
        minimisers of a linear-Gaussian model have the posterior's variance. A weight is a hash of
        member and block, so it never changes for a row.
        """
        if not self.parameter_posterior.separate_data or self.members == 1:
            return torch.ones(self.members, *row.shape, device=row.device)
        member = torch.arange(1, self.members + 1, device=row.device).view(-1, *[1] * row.dim())
        mixed = (row // BLOCK_ROWS) * 2654435761 + member * 40503
        mixed = (mixed ^ (mixed >> 15)) * 2246822519
        uniform = (((mixed >> 16) & 0xFFFF).to(torch.float32) + 0.5) / 0x10000
        return -torch.log1p(-uniform)

    def _decoding_losses(
        self, feat: Tensor, data: Transitions, arrived: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Compute the losses of observation and reward."""
        observation = self.decoder.log_prob(feat, self.normalizer(data.observation))
        reward = self.reward_head.log_prob(feat, data.reward) * arrived
        return -observation.mean(), -reward.mean()

    def _continue_loss(self, feat: Tensor, data: Transitions) -> Tensor:
        return -self.continue_head.log_prob(feat, ~data.terminated).mean() * self.ends

    def _cost_loss(
        self, feat: Tensor, data: Transitions, weights: Weights, weighting: Tensor
    ) -> Tensor:
        mean_cost = self.cost(feat.flatten(0, 1), weights).view(*weighting.shape, -1)
        return -(CostHead.log_prob(mean_cost, data.cost).sum(-1) * weighting).mean()

    def _transition_loss(
        self, out: Filtered, action: Tensor, weights: Weights, weighting: Tensor
    ) -> Tensor:
        """Compare each member's step from every filtered state with the next filtered state."""
        state = State(*(x[:, :-1].flatten(0, 1).detach() for x in out.state))
        arrived = out.posterior.map(lambda x: x[:, 1:].flatten(0, 1).detach())
        action = action[:, 1:].flatten(0, 1)
        deter, prior = self.transition(weights)(state, action)
        error = (deter - out.state.deter[:, 1:].flatten(0, 1).detach()) / DETER_STD
        loss = arrived.kl(prior) + 0.5 * error.square().sum(-1)
        return (loss * weighting[..., 1:].flatten(1)).mean()

    def _balanced_kl(self, posterior: LatentDistribution, prior: LatentDistribution) -> Tensor:
        towards_posterior = posterior.map(Tensor.detach).kl(prior).mean().clamp_min(self.free_nats)
        towards_prior = posterior.kl(prior.map(Tensor.detach)).mean().clamp_min(self.free_nats)
        return self.kl_mix * towards_posterior + (1 - self.kl_mix) * towards_prior
