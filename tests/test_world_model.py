import copy
import io
import itertools
import math
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare, kstest
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from blocks.acceleration.threads import set_threads
from blocks.decoders import VectorDecoder
from blocks.encoders import VectorEncoder
from blocks.heads import CostHead, RewardHead
from blocks.latents import (
    CategoricalLatent,
    Gaussian,
    GaussianLatent,
    Latent,
)
from blocks.normalizer import Normalizer
from blocks.posteriors.ensemble import EnsemblePosterior, MakeFamily
from blocks.posteriors.mean_field import MeanField
from blocks.posteriors.particles import Particles
from blocks.posteriors.point import Point
from blocks.posteriors.stein import Stein
from blocks.rssm import RSSM
from blocks.types import State, Transitions
from blocks.world_model import BLOCK_ROWS, WorldModel

OBSERVATION, ACTION, DETER, STOCH = 3, 2, 8, 8
FEAT = DETER + STOCH


def make(
    *,
    seed: int = 0,
    members: int = 3,
    family: MakeFamily = Particles,
    latent: Latent | None = None,
    constraints: int = 1,
) -> WorldModel:
    torch.manual_seed(seed)
    encoder = VectorEncoder(OBSERVATION, embed_size=8, hidden_size=8)
    cost_head = CostHead(DETER, STOCH, hidden_size=8, constraints=constraints, features=16)
    return WorldModel(
        normalizer=Normalizer(OBSERVATION),
        encoder=encoder,
        rssm=RSSM(
            embed_size=8,
            action_size=ACTION,
            deter_size=DETER,
            stoch_size=STOCH,
            hidden_size=16,
            latent=latent,
        ),
        decoder=VectorDecoder(FEAT, OBSERVATION, hidden_size=16),
        reward_head=RewardHead(FEAT, hidden_size=16),
        cost_head=cost_head,
        parameter_posterior=partial(
            EnsemblePosterior,
            members=members,
            family=family,
            prior_std={f"cost.{name}": std for name, std in cost_head.prior_std.items()},
        ),
    )


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def system(batch: int = 8, time: int = 12, *, seed: int = 0, first_row: int = 0) -> Transitions:
    """A damped point pushed by the action: reward for going right, cost for going too far."""
    source = generator(seed)
    action = torch.rand(batch, time, ACTION, generator=source) * 2 - 1
    is_first = torch.rand(batch, time, generator=source) < 0.1
    is_first[:, 0] = True
    point, points = torch.randn(batch, OBSERVATION, generator=source), []
    push = torch.tensor([[1.0, 0.0, 0.5], [0.0, 1.0, -0.5]])
    for t in range(time):
        fresh = torch.randn(batch, OBSERVATION, generator=source)
        point = 0.8 * point + 0.5 * action[:, t] @ push
        point = torch.where(is_first[:, t, None], fresh, point)
        points.append(point)
    observation = torch.stack(points, 1)
    arrived = (~is_first).float()
    return Transitions(
        observation=observation,
        action=action * arrived.unsqueeze(-1),
        reward=observation[..., 0] * arrived,
        cost=((observation[..., 1] > 1).float() * arrived).unsqueeze(-1),
        is_first=is_first,
        terminated=torch.zeros_like(is_first),
        row=first_row + torch.arange(batch * time).view(batch, time),
    )


class Training:
    """The smallest training loop: model, optimiser, noise."""

    def __init__(self, seed: int, **options: Any) -> None:
        self.model = make(seed=seed, **options)
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.Adam(self.parameters, 3e-3)
        self.generator = generator(seed)
        self.updates = 0

    def run(self, updates: int) -> list[float]:
        losses = []
        for _ in range(updates):
            data = system(seed=self.updates)
            loss = self.model.loss(data, data_size=1000, generator=self.generator).total
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            losses.append(float(loss.detach()))
            self.updates += 1
        return losses

    def state_dict(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
            "updates": self.updates,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.generator.set_state(state["generator"])
        self.updates = state["updates"]


# ---- learning ------------------------------------------------------------------------------------


@pytest.mark.parametrize("latent", [GaussianLatent(), CategoricalLatent()])
def test_it_learns_a_small_system(latent: Latent) -> None:
    """Every part of the loss that speaks of data falls, on sequences never trained on."""
    training, unseen = Training(0, latent=latent), system(32, seed=10_000)
    evaluate = partial(training.model.loss, unseen, data_size=1000)
    before = evaluate(generator=generator(1))
    training.run(120)
    after = evaluate(generator=generator(1))
    assert after.total < before.total - 1.0
    for name in ("observation", "reward", "cost", "transition"):
        assert getattr(after, name) < getattr(before, name), name


def test_terms_add_up_to_a_finite_scalar_each() -> None:
    loss = make().loss(system(), data_size=1000, generator=generator())
    for value in loss:
        assert value.shape == ()
        assert value.isfinite()
    assert loss.kl >= 1.0  # free nats
    assert loss.log_prior.item() == pytest.approx(0.0, abs=1e-5)  # at the anchors


def test_everything_trainable_is_trained() -> None:
    model = make()
    model.free_nats = 0.0  # below them the KL trains nothing
    with torch.no_grad():  # away from the anchors, where the prior has no gradient
        for offset in model.parameter_posterior.parameters():
            offset.add_(0.1 * torch.randn_like(offset))
    data = system()
    data.terminated[0, -1] = True  # else there is nothing to learn about endings
    model.loss(data, data_size=1000, generator=generator()).total.backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
            assert parameter.grad.any(), name
        else:
            assert parameter.grad is None, name


def test_the_cost_heads_prior_mean_is_fixed() -> None:
    model = make()
    assert not any(p.requires_grad for p in model.cost_head.parameters())
    assert all(p.requires_grad for p in model.rssm.dynamics.parameters())


def test_the_prior_counts_less_the_more_data_there_are() -> None:
    model = make()
    with torch.no_grad():
        for offset in model.parameter_posterior.parameters():
            offset.add_(0.1)
    few, many = (
        model.loss(system(), data_size=size, generator=generator()) for size in (100, 1000)
    )
    assert few.log_prior < 0
    torch.testing.assert_close(few.log_prior, 10 * many.log_prior)
    torch.testing.assert_close(few.total - many.total, many.log_prior - few.log_prior)


# ---- what does not matter ------------------------------------------------------------------------


@pytest.mark.parametrize("field", ["reward", "cost", "action"])
def test_nothing_is_received_at_the_first_row_of_an_episode(field: str) -> None:
    model, data = make(), system()
    assert data.is_first[:, 1:].any()
    value = getattr(data, field)
    first = data.is_first if field == "reward" else data.is_first.unsqueeze(-1)
    noise = torch.rand(value.shape, generator=generator(3))
    at_first, elsewhere = (
        data._replace(**{field: torch.where(where, value + noise, value)})
        for where in (first, ~first)
    )

    def loss(data: Transitions) -> Tensor:
        return torch.stack(model.loss(data, data_size=1000, generator=generator()))

    torch.testing.assert_close(loss(at_first), loss(data))
    assert not torch.allclose(loss(elsewhere), loss(data))


# ---- the members' weights of the data ------------------------------------------------------------


@pytest.fixture(scope="module")
def block_weights() -> Tensor:
    """Weights ``[member, block]`` of as many blocks as a replay of a million rows has."""
    return make(members=5).data_weights(torch.arange(20_000) * BLOCK_ROWS).double()


def test_weights_are_exponential_with_mean_one(block_weights: Tensor) -> None:
    """Mean, variance (that of a sample variance is 8 / n) and the whole distribution function."""
    count = block_weights.shape[-1]
    assert (block_weights > 0).all()
    assert ((block_weights.mean(-1) - 1).abs() < 4.5 / count**0.5).all()
    assert ((block_weights.var(-1) - 1).abs() < 4.5 * (8 / count) ** 0.5).all()
    for weights in block_weights:
        assert kstest(weights.numpy(), "expon").pvalue > 1e-4


def test_negative_control_shares_of_the_data_are_not_exponential(block_weights: Tensor) -> None:
    """Weights of 1 / 0.8 or 0, with the same mean."""
    shares = (block_weights > -math.log(0.8)).double() / 0.8
    assert float(shares[0].mean()) == pytest.approx(1.0, abs=0.02)
    assert kstest(shares[0].numpy(), "expon").pvalue < 1e-4


def rank_dependence(one: Tensor, other: Tensor, cells: int = 8) -> float:
    """The p-value of a chi-square test that two sequences of Exp(1) are independent."""
    uniforms = (-torch.expm1(-torch.stack([one, other], -1))).clamp(0, 1 - 1e-9)
    cell = (uniforms * cells).long() @ torch.tensor([cells, 1])
    return float(chisquare(torch.bincount(cell, minlength=cells**2).numpy()).pvalue)


def test_weights_are_independent_between_members_and_between_blocks(block_weights: Tensor) -> None:
    """No table of joint frequencies stands out of 10 pairs of members and 20 pairs of blocks."""
    members, count = block_weights.shape
    correlation = torch.corrcoef(block_weights) - torch.eye(members)
    assert correlation.abs().max() < 4.5 / count**0.5
    for one, other in itertools.combinations(block_weights, 2):
        assert rank_dependence(one, other) > 1e-4
    for lag in (1, 2, 5, 20):
        for weights in block_weights:
            assert rank_dependence(weights[lag:], weights[:-lag]) > 1e-4


def test_negative_control_a_member_with_anothers_weights_is_found(block_weights: Tensor) -> None:
    """Also if the copy is as uncorrelated as a rotation of the uniform numbers makes it."""
    uniform = -torch.expm1(-block_weights[0])
    rotated = -torch.log1p(-(uniform + 0.5) % 1.0)
    assert rank_dependence(block_weights[0], rotated) < 1e-4


def test_weights_are_fixed_for_the_life_of_the_data() -> None:
    """They depend on the row's number alone: not on the model's seed, the batch or the call."""
    row = torch.randint(0, 100_000, (5, 7), generator=generator())
    weights = make().data_weights(row)
    assert weights.shape == (3, 5, 7)
    assert torch.equal(make(seed=9).data_weights(row), weights)
    assert torch.equal(make().data_weights(row[2]), weights[:, 2])
    assert torch.equal(make(members=5).data_weights(row)[:3], weights)


@given(st.lists(st.integers(0, 2**40), min_size=1, max_size=20))
def test_a_weight_is_finite_positive_and_that_of_its_block(rows: list[int]) -> None:
    row = torch.tensor(rows)
    weights = WEIGHING.data_weights(row)
    assert weights.isfinite().all()
    assert (weights > 0).all()
    assert (weights < 12).all()  # the largest of 2^16 values
    assert torch.equal(WEIGHING.data_weights(row // BLOCK_ROWS * BLOCK_ROWS), weights)


WEIGHING = make()


@pytest.mark.parametrize("correlated", [False, True])
def test_weighted_means_have_the_variance_of_the_posterior(correlated: bool) -> None:
    """Rubin (1981): the Bayesian bootstrap of n blocks has (n - 1) / (n + 1) of sigma^2 / n.

    Rows of a block may all be the same: they count as one, because they have one weight.
    """
    members, replications, blocks, repeats = 10, 500, 60, 3
    source = generator(1)
    row = torch.arange(replications * blocks).view(replications, blocks) * BLOCK_ROWS
    x = torch.randn(replications, blocks, generator=source)
    if correlated:
        row = (row.unsqueeze(-1) + torch.arange(repeats)).flatten(1)
        x = x.repeat_interleave(repeats, 1)
    weights = make(members=members).data_weights(row)
    means = (weights * x).sum(-1) / weights.sum(-1)
    ratio = blocks * means.var(0)
    expected = (blocks - 1) / (blocks + 1)
    assert abs(ratio.mean() - expected) < 4.5 * ratio.std() / replications**0.5
    assert ratio.std() / replications**0.5 < 0.03


@pytest.mark.parametrize(
    "options",
    [{"family": Point}, {"family": Stein}, {"family": MeanField}, {"members": 1}],
)
def test_without_separate_data_all_rows_count_alike(options: dict[str, Any]) -> None:
    weights = make(**options).data_weights(torch.arange(1000).view(10, 100))
    assert weights.shape == (options.get("members", 3), 10, 100)
    assert torch.equal(weights, torch.ones_like(weights))


@pytest.mark.parametrize("options", [{}, {"members": 1}])
def test_weights_live_where_the_rows_do(options: dict[str, Any]) -> None:
    """On the meta device, which stands for any that is not the CPU."""
    row = torch.arange(10, device="meta")
    assert make(**options).data_weights(row).device == row.device


def gradients_of_members(model: WorldModel, data: Transitions) -> list[Tensor]:
    """The gradients of the members' terms by their offsets, ``[member, *weight]`` each."""
    loss = model.loss(data, data_size=1000, generator=generator())
    offsets = list(model.parameter_posterior.parameters())
    return list(torch.autograd.grad(loss.cost + loss.transition, offsets))


def test_a_members_gradient_is_the_weighted_sum_of_its_rows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Row by row: with a weight of one for a single row, and none for the others."""
    model = make()
    data = system(2, 5)
    data = data._replace(row=BLOCK_ROWS * data.row)  # every row has another weight
    weights = model.data_weights(data.row)
    assert len(weights.unique()) == weights.numel()
    whole = gradients_of_members(model, data)
    added = [torch.zeros_like(g) for g in whole]
    for b, t in itertools.product(range(2), range(5)):
        alone = torch.zeros_like(weights)
        alone[:, b, t] = 1.0
        monkeypatch.setattr(model, "data_weights", lambda row, alone=alone: alone)
        for total, of_row in zip(added, gradients_of_members(model, data), strict=True):
            total += weights[:, b, t].view(-1, *[1] * (of_row.dim() - 1)) * of_row
    for total, expected in zip(added, whole, strict=True):
        torch.testing.assert_close(total, expected, rtol=1e-4, atol=1e-6)
    assert any(g.any() for g in whole)


@pytest.mark.parametrize("time", [1, 2, 3])
def test_a_row_weighs_its_cost_and_the_transition_that_leads_to_it(
    time: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a weight for one row: what is done after it does not matter, what led to it does."""
    model, data = make(), system(2, 5)
    data = data._replace(is_first=torch.zeros(2, 5, dtype=torch.bool))
    alone = torch.zeros(3, 2, 5)
    alone[:, :, time] = 1.0
    monkeypatch.setattr(model, "data_weights", lambda row: alone)
    monkeypatch.setattr(model.cost_head, "observe", lambda stoch: None)  # it sees all rows

    def terms(data: Transitions) -> Tensor:
        loss = model.loss(data, data_size=1000, generator=generator())
        return torch.stack([loss.cost, loss.transition])

    def changed(field: str, rows: slice) -> Tensor:
        value = getattr(data, field).clone()
        value[:, rows] += 0.5
        return terms(data._replace(**{field: value})) - terms(data)

    later = slice(time + 1, None)
    assert changed("action", later).tolist() == changed("observation", later).tolist() == [0, 0]
    assert changed("cost", later).tolist() == changed("cost", slice(0, time)).tolist() == [0, 0]
    assert changed("action", slice(time, time + 1))[1] != 0
    assert changed("cost", slice(time, time + 1))[0] != 0
    alone.zero_()[:, :, 0] = 1.0  # no transition leads to the first row of a sequence
    assert terms(data)[1] == 0


def test_weights_concern_the_members_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The filter, the decoders and the prior see every row."""
    model, data = make(), system()
    before = model.loss(data, data_size=1000, generator=generator())
    monkeypatch.setattr(model, "data_weights", lambda row: torch.zeros(3, *row.shape))
    after = model.loss(data, data_size=1000, generator=generator())
    assert after.cost == after.transition == 0
    assert before.cost > 0
    assert before.transition > 0
    for name in ("observation", "reward", "kl", "log_prior"):
        assert getattr(after, name) == getattr(before, name), name


def test_members_are_trained_independently() -> None:
    """What one member's weights are changes no other member's gradient."""
    model, data = make(), system()
    gradients = []
    for _ in range(2):
        model.zero_grad()
        model.loss(data, data_size=1000, generator=generator()).total.backward()
        offsets = list(model.parameter_posterior.parameters())
        gradients.append([g.clone() for p in offsets if (g := p.grad) is not None])
        with torch.no_grad():
            for offset in offsets:
                offset[0] += 0.1
    for before, after in zip(*gradients, strict=True):
        torch.testing.assert_close(after[1:], before[1:])
    assert any(not torch.allclose(a[0], b[0]) for a, b in zip(*gradients, strict=True))


# ---- several costs -------------------------------------------------------------------------------


def two_costs() -> Transitions:
    """The system's cost, and another one for going too far to the left."""
    data = system()
    arrived = (~data.is_first).float()
    other = 2.0 * (data.observation[..., 0] < -0.5).float() * arrived
    return data._replace(cost=torch.cat([data.cost, other.unsqueeze(-1)], -1))


def with_cost(model: WorldModel, index: int) -> WorldModel:
    """The same model with one of its costs alone: its columns of the head and of the members."""
    one = make(seed=9)
    own = one.state_dict()
    one.load_state_dict(
        {
            name: value if value.shape == own[name].shape else value[..., index : index + 1]
            for name, value in model.state_dict().items()
        }
    )
    return one


def test_the_loss_of_two_costs_is_the_sum_of_those_of_each_alone() -> None:
    """Every other term on data is the same; swapped costs are the control."""
    model, data = make(constraints=2), two_costs()
    options = {"data_size": 1000}
    whole = model.loss(data, **options, generator=generator())
    alone = [
        with_cost(model, i).loss(
            data._replace(cost=data.cost[..., i : i + 1]), **options, generator=generator()
        )
        for i in range(2)
    ]
    assert (data.cost.flatten(0, -2) > 0).any(0).all()
    torch.testing.assert_close(whole.cost, alone[0].cost + alone[1].cost)
    for name in ("observation", "reward", "kl", "transition"):
        torch.testing.assert_close(getattr(whole, name), getattr(alone[0], name))
    swapped = model.loss(data._replace(cost=data.cost.flip(-1)), **options, generator=generator())
    assert not torch.allclose(swapped.cost, whole.cost)


def test_a_cost_teaches_its_own_column_of_the_head() -> None:
    """The network's hidden layer is shared: that is the control."""
    model, data = make(constraints=2), two_costs()
    names = ("output_weight", "output_bias", "fourier_weight", "hidden_weight")

    def gradients(data: Transitions) -> dict[str, Tensor]:
        model.zero_grad()
        model.loss(data, data_size=1000, generator=generator()).total.backward()
        return {
            name: parameter.grad.clone()
            for name, parameter in model.parameter_posterior.named_parameters()
            if parameter.grad is not None and name.endswith(names)
        }

    one, other = (
        gradients(data._replace(cost=data.cost * torch.tensor(factors)))
        for factors in ((1.0, 1.0), (1.0, 3.0))
    )
    assert len(one) == len(names)
    for name, before in one.items():
        if name.endswith("hidden_weight"):
            assert not torch.allclose(other[name], before)
        else:
            torch.testing.assert_close(other[name][..., 0], before[..., 0])
            assert not torch.allclose(other[name][..., 1], before[..., 1])


def test_several_costs_of_each_member_for_shared_or_own_features() -> None:
    model = make(constraints=2)
    weights, feat = model.parameter_posterior.sample(), torch.randn(6, FEAT)
    shared = model.cost(feat, weights)
    assert shared.shape == (3, 6, 2)
    folded = feat.view(2, 3, FEAT).expand(3, -1, -1, -1)
    torch.testing.assert_close(model.cost(folded, weights), shared.view(3, 2, 3, 2))
    for index in range(2):
        one = with_cost(model, index)
        alone = one.cost(feat, one.parameter_posterior.sample())
        torch.testing.assert_close(shared[..., index], alone[..., 0])


# ---- determinism and resuming --------------------------------------------------------------------


def test_the_same_seed_gives_the_same_losses_to_the_last_digit() -> None:
    one, again, other = (Training(seed).run(10) for seed in (1, 1, 2))
    assert one == again
    assert one != other
    assert len(set(one)) == 10


@pytest.mark.parametrize("family", [Particles, Stein, MeanField, Point])
def test_a_restored_training_goes_on_with_the_same_losses(family: MakeFamily) -> None:
    training, restored = Training(1, family=family), Training(2, family=family)
    training.run(4)
    file = io.BytesIO()
    torch.save(training.state_dict(), file)
    file.seek(0)
    expected = training.run(6)
    restored.load_state_dict(torch.load(file, weights_only=True))
    assert restored.run(6) == expected


def test_a_copy_trains_by_itself() -> None:
    model = make()
    clone = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    weights = clone.parameter_posterior.sample()
    mean = dict(clone.rssm.dynamics.named_parameters())["deter_gates"]
    anchor = clone.parameter_posterior.anchors()["dynamics.deter_gates"]
    torch.testing.assert_close(weights["dynamics.deter_gates"], mean + anchor)


# ---- its parts -----------------------------------------------------------------------------------


def test_a_cost_of_each_member_for_shared_or_own_features() -> None:
    model = make()
    weights, feat = model.parameter_posterior.sample(), torch.randn(6, FEAT)
    shared = model.cost(feat, weights)
    assert shared.shape == (3, 6, 1)
    assert (shared >= 0).all()
    torch.testing.assert_close(model.cost(feat.expand(3, -1, -1), weights), shared)
    folded = feat.view(2, 3, FEAT).expand(3, -1, -1, -1)
    torch.testing.assert_close(model.cost(folded, weights), shared.view(3, 2, 3, 1))
    changed = {name: torch.cat([value[:1], value[1:] + 1.0]) for name, value in weights.items()}
    torch.testing.assert_close(model.cost(feat, changed)[0], shared[0])
    assert not torch.allclose(model.cost(feat, changed)[1], shared[1])


def test_the_transition_is_the_rssms_under_the_members_weights() -> None:
    model = make()
    weights = model.parameter_posterior.sample()
    state, action = State(torch.rand(3, 4, DETER), torch.randn(3, 4, STOCH)), torch.randn(3, 4, 2)
    deter, prior = model.transition(weights)(state, action)
    dynamics = {
        name: weights[f"dynamics.{name}"] for name, _ in model.rssm.dynamics.named_parameters()
    }
    expected, expected_prior = model.rssm.transition(state, action, dynamics)
    assert torch.equal(deter, expected)
    assert isinstance(prior, Gaussian)
    assert isinstance(expected_prior, Gaussian)
    assert torch.equal(prior.mean, expected_prior.mean)
    assert torch.equal(prior.std, expected_prior.std)


def test_each_loss_shows_the_cost_head_its_latents_once() -> None:
    model, data = make(), system()
    assert model.cost_head.observed == 0
    latents = []
    for seed in range(3):
        model.loss(data, data_size=1000, generator=generator(seed))
        latents.append(model.filter(data, generator(seed)).state.stoch.detach().flatten(0, 1))
        assert model.cost_head.observed == seed + 1
    std = torch.stack([x.var(0, correction=0).mean().sqrt() for x in latents]).mean()
    torch.testing.assert_close(model.cost_head.stoch_std, std)


def test_filtering_embeds_normalised_observations() -> None:
    model, data = make(), system()
    assert isinstance(model.normalizer, Normalizer)
    model.normalizer.fit(5 * data.observation.flatten(0, 1) + 2)
    torch.testing.assert_close(
        model.embed(data.observation), model.encoder(model.normalizer(data.observation))
    )
    out = model.filter(data, generator())
    expected = model.rssm.observe(
        model.embed(data.observation), data.action, data.is_first, generator=generator()
    )
    assert torch.equal(out.state.feat, expected.state.feat)


def test_a_filter_may_begin_from_a_given_state() -> None:
    model, data = make(), system()
    is_first = data.is_first.clone()
    is_first[:, 0] = False
    begin = State(torch.rand(8, DETER), torch.randn(8, STOCH))
    out, zero = (
        model.filter(data._replace(is_first=is_first), generator(), state)
        for state in (begin, None)
    )
    assert not torch.allclose(out.state.feat[:, 0], zero.state.feat[:, 0])


def test_the_loss_has_no_loop_over_members() -> None:
    """Two members and seven take the same number of operations, forwards and backwards."""

    class CountCalls(TorchDispatchMode):
        calls = 0

        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            self.calls += 1
            return func(*args, **(kwargs or {}))

    calls = []
    for members in (2, 7):
        model, data = make(members=members), system()
        with CountCalls() as counter:
            model.loss(data, data_size=1000, generator=generator()).total.backward()
        calls.append(counter.calls)
    assert calls[0] == calls[1]


def test_members_disagree_before_they_have_seen_data() -> None:
    model = make(members=5)
    cost = model.cost(torch.randn(50, FEAT), model.parameter_posterior.sample())
    assert (cost.std(0) > 0).all()
    assert model.members == 5


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("family", [Particles, Stein, MeanField, Point])
def test_the_losses_backward_is_that_of_their_total(family: MakeFamily, threads: int) -> None:
    models = [make(family=family), make(family=family)]
    losses = [m.loss(system(), data_size=1000, generator=generator()) for m in models]
    losses[0].total.backward()
    set_threads(threads)
    try:
        losses[1].backward()
    finally:
        set_threads(1)
    for one, other in zip(*(m.parameters() for m in models), strict=True):
        torch.testing.assert_close(one.grad, other.grad)
