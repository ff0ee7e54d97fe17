"""Recurrent state-space model: transition prior, filtering posterior, and filtering of sequences.

``deter_t = f(deter_{t-1}, stoch_{t-1}, action_{t-1})``, ``stoch_t ~ p(. | deter_t)`` (prior) or
``q(. | deter_t, embed_t)`` (posterior): Hafner et al. 2019, equation 4. The transition (input
layer, recurrent cell, prior head) is a separate module. A call may replace its weights with stacked
posterior samples, which evaluates all members as one batched product. Filtering always uses the
RSSM's weights, so all members start from, and train on, the same latent states.
"""

import math
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from blocks.latents import GaussianLatent, Latent, LatentDistribution
from blocks.types import State, Weights


class Filtered(NamedTuple):
    """Result of ``RSSM.observe``: states, priors and posteriors, ``[*batch, time, ...]``."""

    state: State
    prior: LatentDistribution
    posterior: LatentDistribution


def _weight(rows: int, columns: int) -> nn.Parameter:
    """Draw an ``[in, out]`` weight with standard deviation 1/sqrt(in)."""
    return nn.Parameter(torch.randn(rows, columns) / math.sqrt(rows))


def _bias(columns: int, value: float = 0.0) -> nn.Parameter:
    """Make a ``[1, out]`` bias: the unit axis lets a stacked bias broadcast over the batch."""
    return nn.Parameter(torch.full((1, columns), value))


def _affine(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Compute ``x @ weight + bias``, in one kernel where torch has one for these shapes."""
    if x.dim() == weight.dim() == 2 and bias.shape[:-1].numel() in (1, len(x)):
        return torch.addmm(bias, x, weight)
    if x.dim() == weight.dim() == 3 and len(x) == len(weight):
        return torch.baddbmm(bias, x, weight)
    return x @ weight + bias


def _layer_norm(x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """Apply layer norm with ``[1, out]`` scale and bias, or stacked ``[member, 1, out]`` ones."""
    if scale.dim() == 2:
        return F.layer_norm(x, x.shape[-1:], scale.flatten(), bias.flatten())
    return F.layer_norm(x, x.shape[-1:]) * scale + bias


class Transition(nn.Module):
    """Weights of the transition prior; ``RSSM.transition`` computes with them."""

    def __init__(
        self,
        action_size: int,
        deter_size: int,
        stoch_size: int,
        hidden_size: int,
        statistics_size: int,
    ) -> None:
        super().__init__()
        self.action_weight = _weight(action_size, hidden_size)
        self.stoch_weight = _weight(stoch_size, hidden_size)
        self.input_bias = _bias(hidden_size)
        self.input_gates = _weight(hidden_size, 3 * deter_size)
        self.deter_gates = _weight(deter_size, 3 * deter_size)
        self.gates_scale = _bias(3 * deter_size, 1.0)
        self.gates_bias = _bias(3 * deter_size)
        self.prior_weight = _weight(deter_size, hidden_size)
        self.prior_bias = _bias(hidden_size)
        self.statistics_weight = _weight(hidden_size, statistics_size)
        self.statistics_bias = _bias(statistics_size)


class RSSM(nn.Module):
    """RSSM core over vectors of ``embed`` and ``action``.

    Every method takes one or more leading axes. With ``weights`` (stacked samples,
    ``[member, ...]``), ``transition`` takes the leading axes ``[member, batch]``.

    Args:
        embed_size: size of the encoded observation.
        action_size: size of the action.
        deter_size: size of the recurrent state.
        stoch_size: size of the stochastic state.
        hidden_size: width of the hidden layers.
        latent: kind of ``stoch``; ``GaussianLatent()`` by default.

    Raises:
        ValueError: a size is below 1, or the latent does not allow it.

    Example:
        >>> rssm = RSSM(embed_size=4, action_size=2, deter_size=8, stoch_size=3)
        >>> out = rssm.observe(torch.zeros(5, 7, 4), torch.zeros(5, 7, 2), torch.zeros(5, 7) > 0)
        >>> out.state.deter.shape, out.state.stoch.shape
        (torch.Size([5, 7, 8]), torch.Size([5, 7, 3]))
    """

    def __init__(
        self,
        *,
        embed_size: int,
        action_size: int,
        deter_size: int = 200,
        stoch_size: int = 60,
        hidden_size: int = 200,
        latent: Latent | None = None,
    ) -> None:
        super().__init__()
        for name, size in (
            ("embed_size", embed_size),
            ("action_size", action_size),
            ("deter_size", deter_size),
            ("stoch_size", stoch_size),
            ("hidden_size", hidden_size),
        ):
            if size < 1:
                raise ValueError(f"{name}: got {size}; allowed 1 and above; give at least 1")
        self.deter_size, self.stoch_size = deter_size, stoch_size
        self.latent = GaussianLatent() if latent is None else latent
        statistics_size = self.latent.statistics_size(stoch_size)
        self.dynamics = Transition(
            action_size, deter_size, stoch_size, hidden_size, statistics_size
        )
        self.posterior_deter = nn.Linear(deter_size, hidden_size, bias=False)
        self.posterior_embed = nn.Linear(embed_size, hidden_size)
        self.posterior_statistics = nn.Linear(hidden_size, statistics_size)

    @property
    def feat_size(self) -> int:
        """Size of ``State.feat``."""
        return self.deter_size + self.stoch_size

    def initial(self, *batch: int) -> State:
        """Return the zero state with the given leading axes."""
        like = self.posterior_embed.weight
        return State(
            like.new_zeros(*batch, self.deter_size), like.new_zeros(*batch, self.stoch_size)
        )

    def transition(
        self, state: State, action: Float[Tensor, "*batch action"], weights: Weights | None = None
    ) -> tuple[Float[Tensor, "... deter"], LatentDistribution]:
        """Compute one step of the prior: next ``deter`` and distribution of the next ``stoch``."""
        weights = dict(self.dynamics.named_parameters()) if weights is None else weights
        projected = action @ weights["action_weight"] + weights["input_bias"]
        deter = self._recur(state, projected, weights)
        return deter, self._prior(deter, weights)

    def posterior(
        self, deter: Float[Tensor, "*batch deter"], embed: Float[Tensor, "*batch embed"]
    ) -> LatentDistribution:
        """Compute the distribution of ``stoch`` after the observation."""
        hidden = F.silu(self.posterior_deter(deter) + self.posterior_embed(embed))
        return self.latent.from_statistics(self.posterior_statistics(hidden))

    def step(
        self,
        state: State,
        action: Float[Tensor, "*batch action"],
        embed: Float[Tensor, "*batch embed"],
        *,
        generator: torch.Generator | None = None,
        sample: bool = True,
    ) -> State:
        """Filter one observation: the transition, then a latent from the posterior.

        Args:
            state: state before the step.
            action: action that led to the observation; zero at an episode's first.
            embed: encoded observation.
            generator: source of noise.
            sample: True draws from the posterior, False takes its mode.

        Returns:
            The next state. For a whole sequence use ``observe``, which is faster.
        """
        deter, _ = self.transition(state, action)
        posterior = self.posterior(deter, embed)
        if not sample:
            return State(deter, posterior.mode())
        noise = self.latent.noise((*deter.shape[:-1], self.stoch_size), generator).to(deter)
        return State(deter, posterior.rsample(noise))

    def observe(
        self,
        embeds: Float[Tensor, "*batch time embed"],
        actions: Float[Tensor, "*batch time action"],
        is_first: Tensor,
        initial: State | None = None,
        *,
        generator: torch.Generator | None = None,
    ) -> Filtered:
        """Filter a sequence: at each step the recurrence, then a posterior sample.

        Args:
            embeds: encoded observations.
            actions: action that led to each observation (ignored at ``is_first``).
            is_first: True where an episode begins; the state restarts from zero there.
            initial: state before the first row, zeros by default.
            generator: source of noise.

        Returns:
            States, priors and posteriors with the same leading axes as ``embeds``.
        """
        weights = dict(self.dynamics.named_parameters())
        batch, steps = embeds.shape[:-2], embeds.shape[-2]
        rows = math.prod(batch)
        state = self.initial(*batch) if initial is None else initial
        state = State(*(x.expand(*batch, -1).reshape(rows, x.shape[-1]) for x in state))
        # Project what does not depend on the recurrence once, for all steps.
        keep = (~is_first).to(embeds.dtype).unsqueeze(-1)
        inputs = (actions * keep) @ weights["action_weight"] + weights["input_bias"]
        observed = self.posterior_embed(embeds)
        inputs, observed, keep = (
            x.reshape(rows, *x.shape[-2:]).unbind(1) for x in (inputs, observed, keep)
        )
        noise = self.latent.noise((steps, *batch, self.stoch_size), generator).to(embeds)
        noise = noise.view(steps, rows, self.stoch_size)
        deters: list[Tensor] = []
        stochs: list[Tensor] = []
        statistics: list[Tensor] = []
        for t in range(steps):
            state, output = self._filter_step(
                state, inputs[t], observed[t], keep[t], noise[t], weights
            )
            deters.append(state.deter)
            stochs.append(state.stoch)
            statistics.append(output)
        deter, stoch, outputs = (
            torch.stack(x, 1).view(*batch, steps, x[0].shape[-1])
            for x in (deters, stochs, statistics)
        )
        posterior = self.latent.from_statistics(outputs)
        # The recurrence does not need the prior head: one product for the whole sequence.
        return Filtered(State(deter, stoch), self._prior(deter, weights), posterior)

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Compile the steps that ``observe`` and imagination repeat; see ``torch.compile``.

        It leaves out their loops: ``torch.compile`` would unroll them to a graph as long as the
        sequence.
        """
        compiled = cast(Any, torch).compile
        self._filter_step = compiled(self._filter_step, *args, **kwargs)
        self.transition = compiled(self.transition, *args, **kwargs)

    def _filter_step(
        self,
        state: State,
        projected_action: Tensor,
        projected_embed: Tensor,
        keep: Tensor,
        noise: Tensor,
        weights: Weights,
    ) -> tuple[State, Tensor]:
        """Compute one step of ``observe``: the next state and the statistics of its posterior."""
        state = State(state.deter * keep, state.stoch * keep)
        deter = self._recur(state, projected_action, weights)
        hidden = F.silu(_affine(deter, self.posterior_deter.weight.T, projected_embed))
        head = self.posterior_statistics
        statistics = _affine(hidden, head.weight.T, head.bias)
        stoch = self.latent.from_statistics(statistics).rsample(noise)
        return State(deter, stoch), statistics

    def _recur(self, state: State, projected_action: Tensor, weights: Weights) -> Tensor:
        """Apply a GRU cell with layer-normalised gates and an update gate biased to keep the state.

        ``projected_action`` includes the input layer's bias.
        """
        hidden = F.silu(_affine(state.stoch, weights["stoch_weight"], projected_action))
        remembered = state.deter @ weights["deter_gates"]
        gates = _affine(hidden, weights["input_gates"], remembered)
        gates = _layer_norm(gates, weights["gates_scale"], weights["gates_bias"])
        reset, candidate, update = gates.chunk(3, dim=-1)
        candidate = torch.tanh(torch.sigmoid(reset) * candidate)
        return torch.lerp(state.deter, candidate, torch.sigmoid(update - 1))

    def _prior(self, deter: Tensor, weights: Weights) -> LatentDistribution:
        hidden = F.silu(_affine(deter, weights["prior_weight"], weights["prior_bias"]))
        statistics = _affine(hidden, weights["statistics_weight"], weights["statistics_bias"])
        return self.latent.from_statistics(statistics)
