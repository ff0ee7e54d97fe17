from collections.abc import Callable
from operator import itemgetter
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from blocks.latents import (
    Categorical,
    CategoricalLatent,
    Gaussian,
    GaussianLatent,
    Latent,
    LatentDistribution,
)
from blocks.rssm import RSSM
from blocks.types import State, Weights

LATENTS = [GaussianLatent(), CategoricalLatent()]
EMBED, ACTION, DETER, STOCH = 5, 2, 6, 8


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def make(latent: Latent | None = None) -> RSSM:
    return RSSM(
        embed_size=EMBED,
        action_size=ACTION,
        deter_size=DETER,
        stoch_size=STOCH,
        hidden_size=7,
        latent=latent,
    )


def sequence(*leading: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    """Embeds, actions and an ``is_first`` that is set here and there after the first row."""
    embeds = torch.randn(*leading, EMBED, dtype=dtype)
    actions = torch.randn(*leading, ACTION, dtype=dtype)
    is_first = torch.rand(leading) < 0.2
    is_first[..., 0] = True
    return embeds, actions, is_first


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def stacked(rssm: RSSM, members: int) -> Weights:
    """Weights that differ from member to member."""
    return {
        name: weight + 0.3 * torch.randn(members, *weight.shape, dtype=weight.dtype)
        for name, weight in rssm.dynamics.named_parameters()
    }


def start(*leading: int) -> State:
    return State(torch.rand(*leading, DETER) * 2 - 1, torch.randn(*leading, STOCH))


def statistics(latent: LatentDistribution) -> tuple[Tensor, ...]:
    assert isinstance(latent, Gaussian | Categorical)
    return tuple(latent)


def assert_same(one: LatentDistribution, two: LatentDistribution) -> None:
    torch.testing.assert_close(statistics(one), statistics(two))


class CountCalls(TorchDispatchMode):
    """Counts every operation that reaches a kernel."""

    calls = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls += 1
        return func(*args, **(kwargs or {}))


def count_calls(run: Callable[[], object]) -> int:
    with CountCalls() as counter:
        run()
    return counter.calls


# ---- filtering -----------------------------------------------------------------------------------


@pytest.mark.parametrize("given_start", [False, True])
@pytest.mark.parametrize("latent", LATENTS)
def test_observe_is_transition_and_posterior_step_by_step(
    latent: Latent, given_start: bool
) -> None:
    rssm, batch, time = make(latent), 3, 6
    embeds, actions, is_first = sequence(batch, time)
    is_first[:, 0] = not given_start
    initial = start(batch) if given_start else None
    out = rssm.observe(embeds, actions, is_first, initial, generator=generator())

    noise = latent.noise((time, batch, STOCH), generator())
    state = rssm.initial(batch) if initial is None else initial
    for t in range(time):
        first = is_first[:, t, None]
        state = State(*(torch.where(first, 0.0, x) for x in state))
        deter, prior = rssm.transition(state, torch.where(first, 0.0, actions[:, t]))
        posterior = rssm.posterior(deter, embeds[:, t])
        state = State(deter, posterior.rsample(noise[t]))
        torch.testing.assert_close(out.state.deter[:, t], state.deter)
        torch.testing.assert_close(out.state.stoch[:, t], state.stoch)
        assert_same(out.prior.map(itemgetter((slice(None), t))), prior)
        assert_same(out.posterior.map(itemgetter((slice(None), t))), posterior)


@pytest.mark.parametrize("latent", LATENTS)
def test_a_reset_makes_what_came_before_irrelevant(latent: Latent) -> None:
    rssm = make(latent)
    embeds, actions, is_first = sequence(2, 7)
    is_first[:] = False
    is_first[:, 3] = True
    other_embeds, other_actions = embeds.clone(), actions.clone()
    other_embeds[:, :3] = torch.randn(2, 3, EMBED)
    other_actions[:, :4] = torch.randn(2, 4, ACTION)  # the action that led to a reset, too
    one = rssm.observe(embeds, actions, is_first, generator=generator())
    two = rssm.observe(other_embeds, other_actions, is_first, start(2), generator=generator())
    assert not torch.allclose(one.state.feat[:, 2], two.state.feat[:, 2])
    torch.testing.assert_close(one.state.feat[:, 3:], two.state.feat[:, 3:])
    after = itemgetter((slice(None), slice(3, None)))
    assert_same(one.prior.map(after), two.prior.map(after))
    assert_same(one.posterior.map(after), two.posterior.map(after))


def test_the_past_matters_where_there_is_no_reset_and_the_future_never_does() -> None:
    rssm = make()
    embeds, actions, is_first = sequence(2, 6)
    is_first[:, 1:] = False
    changed = embeds.clone()
    changed[:, 3] += 1.0
    one = rssm.observe(embeds, actions, is_first, generator=generator()).state.feat
    two = rssm.observe(changed, actions, is_first, generator=generator()).state.feat
    torch.testing.assert_close(one[:, :3], two[:, :3])
    assert ((one - two)[:, 3:].abs().amax(-1) > 1e-6).all()


@pytest.mark.parametrize("latent", LATENTS)
def test_gradients_flow_through_time_and_stop_at_a_reset(latent: Latent) -> None:
    rssm = make(latent)
    embeds, actions, is_first = sequence(1, 6)
    is_first[:] = False
    is_first[:, 2] = True
    embeds.requires_grad_()
    out = rssm.observe(embeds, actions, is_first, generator=generator())
    (gradient,) = torch.autograd.grad(out.state.deter[0, -1].sum(), embeds)
    reaches = gradient[0].abs().amax(-1) > 0
    # The last embed enters only after the last `deter`.
    assert reaches.tolist() == [False, False, True, True, True, False]


def test_its_gradient_is_that_of_finite_differences() -> None:
    rssm = make().double()
    embeds, actions, is_first = sequence(2, 4, dtype=torch.float64)
    is_first[0, 2] = True
    is_first[1, 0] = False

    def run(embeds: Tensor, actions: Tensor, deter: Tensor, stoch: Tensor) -> Tensor:
        initial = State(deter, stoch)
        out = rssm.observe(embeds, actions, is_first, initial, generator=generator())
        return torch.cat([out.state.feat, *statistics(out.prior), *statistics(out.posterior)], -1)

    inputs = [embeds, actions, *(x.double() for x in start(2))]
    assert torch.autograd.gradcheck(run, [x.requires_grad_() for x in inputs])


@pytest.mark.parametrize("latent", LATENTS)
@pytest.mark.parametrize("leading", [(3,), (2, 3), (2, 1, 3)])
def test_any_leading_axes_in_double_precision(latent: Latent, leading: tuple[int, ...]) -> None:
    rssm = make(latent).double()
    out = rssm.observe(*sequence(*leading, 4, dtype=torch.float64))
    assert out.state.deter.shape == (*leading, 4, DETER)
    assert out.state.stoch.shape == (*leading, 4, STOCH)
    assert out.state.feat.shape == (*leading, 4, rssm.feat_size)
    for x in (*out.state, *statistics(out.prior), *statistics(out.posterior)):
        assert x.dtype == torch.float64
        assert x.shape[: len(leading) + 1] == (*leading, 4)


def test_leading_axes_are_independent_sequences() -> None:
    rssm = make()
    embeds, actions, is_first = sequence(2, 3, 4)
    changed = embeds.clone()
    changed[1, 2] += 1.0
    first = rssm.observe(embeds, actions, is_first, generator=generator()).posterior
    other = rssm.observe(changed, actions, is_first, generator=generator()).posterior
    assert isinstance(first, Gaussian)
    assert isinstance(other, Gaussian)
    same = (first.mean == other.mean).all(-1).all(-1)
    assert same.tolist() == [[True, True, True], [True, True, False]]


def test_what_all_share_may_be_given_once() -> None:
    """One initial state for all sequences, one batch of states for all members."""
    rssm, one = make(), start(1)
    all_of_them = State(*(x.expand(3, -1) for x in one))
    out = [
        rssm.observe(*sequence_of_three(), initial, generator=generator())
        for initial in (one, all_of_them)
    ]
    torch.testing.assert_close(out[0].state, out[1].state)
    action = torch.randn(3, ACTION)
    torch.testing.assert_close(
        rssm.transition(one, action)[0], rssm.transition(all_of_them, action)[0]
    )
    weights, state, action = stacked(rssm, 4), start(1, 3), torch.randn(1, 3, ACTION)
    shared, _ = rssm.transition(state, action, weights)
    each = State(*(x.expand(4, -1, -1) for x in state))
    torch.testing.assert_close(shared, rssm.transition(each, action.expand(4, -1, -1), weights)[0])


@pytest.mark.parametrize("batch", [(), (0,), (2, 0)])
def test_a_single_sequence_and_no_sequence_at_all(batch: tuple[int, ...]) -> None:
    out = make().observe(*sequence(*batch, 5))
    assert out.state.deter.shape == (*batch, 5, DETER)
    assert out.state.stoch.shape == (*batch, 5, STOCH)


def sequence_of_three() -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(1)
    embeds, actions, is_first = sequence(3, 5)
    return embeds, actions, torch.zeros_like(is_first)


def test_noise_comes_from_the_generator_and_is_independent_over_batch_and_time() -> None:
    """Correlations of n standard normals have standard error 1 / sqrt(n); five of them."""
    rssm, batch, time = make(), 400, 3
    embeds, actions, is_first = (x.expand(batch, *x.shape[1:]) for x in sequence(1, time))
    out, again, other = (
        rssm.observe(embeds, actions, is_first, generator=generator(seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(out.state.stoch, again.state.stoch)
    assert not torch.equal(out.state.stoch, other.state.stoch)
    assert isinstance(out.posterior, Gaussian)
    noise = (out.state.stoch - out.posterior.mean) / out.posterior.std
    table = noise.transpose(0, 1).flatten(2).movedim(1, -1).flatten(0, 1)  # [time stoch, batch]
    table = table.reshape(time * STOCH, batch)
    error = (torch.corrcoef(table) - torch.eye(time * STOCH)).abs().max()
    assert error < 5 / batch**0.5
    assert abs(table.mean()) < 5 / table.numel() ** 0.5
    assert abs(table.var() - 1) < 5 * (2 / table.numel()) ** 0.5


# ---- the prior under stacked weights -------------------------------------------------------------


@pytest.mark.parametrize("latent", LATENTS)
def test_stacked_weights_are_a_loop_over_members(latent: Latent) -> None:
    rssm, members = make(latent), 4
    weights, state, action = stacked(rssm, members), start(members, 5), torch.randn(members, 5, 2)
    deter, prior = rssm.transition(state, action, weights)
    for k in range(members):
        one = {name: value[k] for name, value in weights.items()}
        deter_k, prior_k = rssm.transition(State(*(x[k] for x in state)), action[k], one)
        torch.testing.assert_close(deter[k], deter_k)
        assert_same(prior.map(itemgetter(k)), prior_k)
    assert not torch.allclose(deter[0], deter[1])


def test_the_cell_is_a_gru_with_layer_normalised_gates_that_leans_towards_remembering() -> None:
    """Written out once more, number by number, for one state."""
    rssm = make().double()
    w = {name: value.detach() for name, value in rssm.dynamics.named_parameters()}
    w["gates_scale"], w["gates_bias"] = torch.rand(1, 18).double(), torch.randn(1, 18).double()
    state, action = State(*(x.double() for x in start(1))), torch.randn(1, ACTION).double()
    x = state.stoch @ w["stoch_weight"] + action @ w["action_weight"] + w["input_bias"]
    gates = (x * x.sigmoid()) @ w["input_gates"] + state.deter @ w["deter_gates"]
    gates = (gates - gates.mean()) / (gates.var(correction=0) + 1e-5).sqrt()
    gates = gates * w["gates_scale"] + w["gates_bias"]
    reset, candidate, update = gates[:, :6].sigmoid(), gates[:, 6:12], (gates[:, 12:] - 1).sigmoid()
    expected = (1 - update) * state.deter + update * torch.tanh(reset * candidate)
    torch.testing.assert_close(rssm.transition(state, action, w)[0], expected)


def test_weights_of_its_own_are_the_default() -> None:
    rssm = make()
    state, action = start(5), torch.randn(5, 2)
    deter, prior = rssm.transition(state, action)
    same = rssm.transition(state, action, dict(rssm.dynamics.named_parameters()))
    assert torch.equal(deter, same[0])
    assert_same(prior, same[1])


def test_every_weight_of_the_transition_is_a_weight_that_matters() -> None:
    rssm = make()
    weights = {name: value.requires_grad_() for name, value in stacked(rssm, 3).items()}
    deter, prior = rssm.transition(start(3, 5), torch.randn(3, 5, 2), weights)
    total = torch.cat([deter, *statistics(prior)], -1).square().sum()
    for name, gradient in zip(
        weights, torch.autograd.grad(total, list(weights.values())), strict=True
    ):
        assert gradient.flatten(1).any(-1).all(), name


def test_a_members_weights_touch_no_other_member() -> None:
    rssm = make()
    weights = {name: value.requires_grad_() for name, value in stacked(rssm, 3).items()}
    deter, prior = rssm.transition(start(3, 5), torch.randn(3, 5, 2), weights)
    total = torch.cat([deter, *statistics(prior)], -1)[1].sum()
    for gradient in torch.autograd.grad(total, list(weights.values())):
        assert not gradient[[0, 2]].any()


def test_evaluation_has_no_loop_over_members() -> None:
    """Two members and nine take the same number of operations, forwards and backwards."""
    rssm = make()

    def run(members: int) -> None:
        weights = {name: value.requires_grad_() for name, value in stacked(rssm, members).items()}
        deter, prior = rssm.transition(start(members, 5), torch.randn(members, 5, 2), weights)
        total = torch.cat([deter, *statistics(prior)], -1).sum()
        torch.autograd.grad(total, list(weights.values()))

    two, nine = (count_calls(lambda members=members: run(members)) for members in (2, 9))
    assert two == nine


def test_projections_known_ahead_are_outside_the_loop_over_time() -> None:
    """An added step costs a few products for the recurrence, not those for embed and action."""
    rssm = make()
    products = {"mm", "bmm", "addmm", "baddbmm"}

    class CountProducts(CountCalls):
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            self.calls += func.overloadpacket.__name__ in products
            return func(*args, **(kwargs or {}))

    calls = []
    for time in (4, 5):
        data = sequence(3, time)
        with CountProducts() as counter:
            rssm.observe(*data)
        calls.append(counter.calls)
    # stoch -> hidden, hidden -> gates, deter -> gates; deter -> hidden, hidden -> statistics.
    assert calls[1] - calls[0] == 5


def test_deter_stays_within_one() -> None:
    rssm = make()
    state, action = start(50), 10 * torch.randn(50, ACTION)
    for _ in range(50):
        deter, prior = rssm.transition(state, action)
        state = State(deter, 10 * prior.mode())
    assert state.deter.abs().max() <= 1


# ---- small things --------------------------------------------------------------------------------


def test_the_initial_state_is_zero_in_the_precision_of_the_weights() -> None:
    for rssm in (make(), make().double()):
        state = rssm.initial(2, 3)
        assert state.deter.shape == (2, 3, DETER)
        assert state.stoch.shape == (2, 3, STOCH)
        assert not state.feat.any()
        assert state.feat.dtype == rssm.posterior_embed.weight.dtype


SIZES = ("embed_size", "action_size", "deter_size", "stoch_size", "hidden_size")


@pytest.mark.parametrize("name", SIZES)
def test_a_layer_without_units_is_refused_by_name(name: str) -> None:
    sizes = dict.fromkeys(SIZES, 8)
    with pytest.raises(ValueError, match=f"^{name}: got 0; allowed 1 and above"):
        RSSM(**sizes | {name: 0})  # pyright: ignore[reportArgumentType]


def test_a_categorical_latent_refuses_a_size_that_does_not_divide() -> None:
    with pytest.raises(ValueError, match=r"^stoch_size: got 6; allowed multiples of"):
        RSSM(embed_size=4, action_size=2, stoch_size=6, latent=CategoricalLatent())


def test_state_dict_round_trip() -> None:
    one, two, data = make(), make(), sequence(2, 4)
    two.load_state_dict(one.state_dict())
    for a, b in zip(
        one.observe(*data, generator=generator()).state,
        two.observe(*data, generator=generator()).state,
        strict=True,
    ):
        assert torch.equal(a, b)
