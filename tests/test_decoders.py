import copy
import math
from typing import Any

import pytest
import torch
import torch.distributions as td
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from blocks.decoders import ImageDecoder, VectorDecoder
from blocks.heads import SCALE_BATCHES, CostHead, GaussianHead, RewardHead
from blocks.posteriors.ensemble import EnsemblePosterior, select

DETER, STOCH = 3, 2
FEAT = DETER + STOCH


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def deviation(head: GaussianHead, feat: Tensor, size: int) -> Tensor:
    """The standard deviation of each output, read off how the likelihood falls with the error."""
    mean = head(feat)
    at_mean = head.log_prob(feat, mean)
    falls = [
        at_mean - head.log_prob(feat, mean + torch.eye(size, dtype=mean.dtype)[i])
        for i in range(size)
    ]
    return (2 * torch.stack(falls, -1)).rsqrt()


# ---- Gaussian heads ------------------------------------------------------------------------------


@given(st.integers(0, 10_000), st.floats(-4.0, 4.0))
def test_a_gaussian_head_has_torchs_likelihood_up_to_the_constant(
    seed: int, log_std: float
) -> None:
    """The constant left out is log(2 pi) / 2 for each output."""
    torch.manual_seed(seed)
    head = VectorDecoder(FEAT, 4, hidden_size=8).double()
    nn.init.normal_(head.log_std, log_std)
    feat, target = torch.randn(6, FEAT).double(), torch.randn(6, 4).double()
    law = td.Independent(td.Normal(head(feat), deviation(head, feat, 4)), 1)
    constant = 4 * 0.5 * math.log(2 * math.pi)
    torch.testing.assert_close(head.log_prob(feat, target), law.log_prob(target) + constant)


@given(st.floats(-50.0, 10.0), st.floats(0.01, 1.0))
def test_a_deviation_stays_above_its_floor(log_std: float, min_std: float) -> None:
    head = GaussianHead(FEAT, 1, hidden_size=4, min_std=min_std).double()
    nn.init.constant_(head.log_std, log_std)
    std = deviation(head, torch.zeros(1, FEAT).double(), 1)
    assert std >= min_std * (1 - 1e-6)


@pytest.mark.parametrize("noise_std", [0.5, 2.0])
def test_the_learned_deviation_is_the_root_mean_square_error(noise_std: float) -> None:
    """Of a likelihood maximised over the deviation alone."""
    head = GaussianHead(FEAT, 3, hidden_size=4).double()
    feat = torch.randn(50, FEAT).double()
    target = (head(feat) + noise_std * torch.randn(50, 3)).detach()
    optimizer = torch.optim.LBFGS([head.log_std], max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = -head.log_prob(feat, target).mean()
        value.backward()
        return value

    optimizer.step(loss)  # pyright: ignore[reportArgumentType]
    error = (head(feat) - target).square().mean(0).sqrt()
    torch.testing.assert_close(deviation(head, feat[:1], 3)[0], error, rtol=1e-3, atol=0.0)


@given(st.lists(st.integers(1, 3), max_size=3).map(tuple))
def test_an_image_has_torchs_likelihood_of_unit_variance_up_to_the_constant(
    leading: tuple[int, ...],
) -> None:
    decoder, feat = ImageDecoder(FEAT, depth=1), torch.randn(*leading, FEAT)
    target = torch.randint(0, 256, (*leading, 64, 64, 3), dtype=torch.uint8)
    mean = decoder(feat)
    assert mean.shape == target.shape
    expected = td.Normal(mean, 1.0).log_prob(target / 255 - 0.5).flatten(-3).sum(-1)
    constant = 64 * 64 * 3 * 0.5 * math.log(2 * math.pi)
    torch.testing.assert_close(
        decoder.log_prob(feat, target), expected + constant, rtol=1e-4, atol=1e-2
    )


def test_bfloat16_is_within_its_precision_and_all_that_comes_out_is_float32() -> None:
    feat = torch.randn(3, FEAT)
    decoder = ImageDecoder(FEAT, depth=2)
    exact = decoder(feat)
    decoder.autocast = True
    rough = decoder(feat)
    assert rough.dtype == torch.float32
    assert not torch.equal(rough, exact)
    torch.testing.assert_close(rough, exact, rtol=0.05, atol=0.02)
    target = torch.randint(0, 256, (3, 64, 64, 3), dtype=torch.uint8)
    decoder.log_prob(feat, target).sum().backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in decoder.parameters())


@given(st.integers(0, 255))
def test_an_image_of_bytes_is_the_same_after_being_a_mean(level: int) -> None:
    image = torch.full((64, 64, 3), level, dtype=torch.uint8)
    assert torch.equal(ImageDecoder.to_bytes(image / 255 - 0.5), image)


def test_an_image_decoder_learns_which_image_belongs_to_which_state() -> None:
    images = torch.zeros(2, 64, 64, 3, dtype=torch.uint8)
    images[0, :32, :, 0], images[1, :, 40:, 2] = 255, 200  # a red top, a blue side
    feat = torch.eye(2, FEAT)
    decoder = ImageDecoder(FEAT, depth=4)
    optimizer = torch.optim.Adam(decoder.parameters(), 3e-3)
    for _ in range(400):
        optimizer.zero_grad()
        (-decoder.log_prob(feat, images).mean()).backward()
        optimizer.step()
    error = (decoder.to_bytes(decoder(feat)).float() - images.float()).abs().mean((1, 2, 3))
    assert (error < 5).all()  # of 255; the mean of the two images is 22 and more away


def test_a_reward_is_a_gaussian_with_one_output() -> None:
    head = RewardHead(FEAT, hidden_size=8)
    feat, reward = torch.randn(2, 5, FEAT), torch.randn(2, 5)
    assert head(feat).shape == (2, 5)
    torch.testing.assert_close(
        head.log_prob(feat, reward), head.head.log_prob(feat, reward.unsqueeze(-1))
    )


@given(st.floats(0.01, 10.0))
def test_an_image_counts_by_the_inverse_variance_of_its_pixels(std: float) -> None:
    torch.manual_seed(0)
    one, other = ImageDecoder(FEAT, depth=1), ImageDecoder(FEAT, depth=1, std=std)
    other.load_state_dict(one.state_dict())
    feat, image = torch.randn(2, FEAT), torch.randint(256, (2, 64, 64, 3), dtype=torch.uint8)
    expected = one.log_prob(feat, image) / std**2
    torch.testing.assert_close(other.log_prob(feat, image), expected, rtol=1e-4, atol=1e-4)


def test_an_image_decoder_refuses_pixels_without_noise() -> None:
    with pytest.raises(ValueError, match=r"std: got 0\.0; allowed above 0"):
        ImageDecoder(FEAT, std=0.0)


@given(st.floats(1e-3, 1e3))
def test_a_reward_head_s_unit_is_the_unit_of_its_rewards(unit: float) -> None:
    torch.manual_seed(0)
    one = RewardHead(FEAT, hidden_size=8)
    other = RewardHead(FEAT, hidden_size=8, unit=unit)
    other.load_state_dict(one.state_dict())
    feat, reward = torch.randn(5, FEAT), torch.randn(5)
    torch.testing.assert_close(other(feat), unit * one(feat))
    torch.testing.assert_close(other.log_prob(feat, unit * reward), one.log_prob(feat, reward))


def test_a_reward_head_refuses_a_unit_of_nothing() -> None:
    with pytest.raises(ValueError, match=r"unit: got 0\.0; allowed above 0"):
        RewardHead(FEAT, unit=0.0)


@pytest.mark.parametrize("leading", [(), (4,), (2, 3, 4)])
def test_any_leading_axes(leading: tuple[int, ...]) -> None:
    decoder, reward_head = VectorDecoder(FEAT, 3, hidden_size=4), RewardHead(FEAT, hidden_size=4)
    feat = torch.randn(*leading, FEAT)
    assert decoder(feat).shape == (*leading, 3)
    assert decoder.log_prob(feat, torch.zeros(*leading, 3)).shape == leading
    assert reward_head(feat).shape == leading
    assert reward_head.log_prob(feat, torch.zeros(leading)).shape == leading


# ---- the cost's likelihood -----------------------------------------------------------------------

costs = st.lists(st.floats(0.0, 20.0), min_size=1, max_size=20)


@given(st.floats(0.01, 50.0), st.integers(0, 30))
def test_a_cost_has_torchs_poisson_likelihood_up_to_the_term_free_of_the_mean(
    mean: float, cost: int
) -> None:
    rate, count = torch.tensor([mean]).double(), torch.tensor([float(cost)]).double()
    expected = td.Poisson(rate).log_prob(count) + math.lgamma(cost + 1)
    torch.testing.assert_close(CostHead.log_prob(rate, count), expected, rtol=1e-4, atol=1e-5)


@given(costs.filter(lambda costs: sum(costs) > 0.1))
def test_the_most_likely_mean_is_the_mean_cost_whatever_its_distribution(
    costs: list[float],
) -> None:
    """Poisson or not, whole numbers or not: the slope is zero there, and turns there."""
    cost = torch.tensor(costs, dtype=torch.float64)
    slopes = []
    for factor in (0.9, 1.0, 1.1):
        mean = (factor * cost.mean()).clone().requires_grad_()
        total = CostHead.log_prob(mean.expand_as(cost), cost).mean()
        slopes.append(float(torch.autograd.grad(total, mean)[0]))
    assert slopes[0] > 1e-3
    assert slopes[1] == pytest.approx(0.0, abs=1e-5)
    assert slopes[2] < -1e-3


def test_the_likelihood_is_finite_at_a_mean_of_zero() -> None:
    mean = torch.zeros(2, requires_grad=True)
    value = CostHead.log_prob(mean, torch.tensor([0.0, 1.0]))
    (gradient,) = torch.autograd.grad(value.sum(), mean)
    assert value.isfinite().all()
    assert gradient.isfinite().all()


# ---- the cost head -------------------------------------------------------------------------------


def ensemble(members: int = 5, **options: Any) -> tuple[CostHead, EnsemblePosterior]:
    """A cost head and the posterior over it, with the priors that it asks for."""
    head = CostHead(DETER, STOCH, **options)
    return head, EnsemblePosterior(head, members=members, prior_std=head.prior_std)


@given(st.integers(0, 10_000), st.floats(0.1, 100.0))
def test_a_cost_is_never_negative(seed: int, width: float) -> None:
    torch.manual_seed(seed)
    head, posterior = ensemble()
    feat = width * torch.randn(5, 7, FEAT)
    cost = head(feat, posterior.sample())
    assert cost.shape == (5, 7, 1)
    assert cost.isfinite().all()
    assert (cost >= 0).all()


def test_stacked_weights_are_a_loop_over_members() -> None:
    head, posterior = ensemble()
    weights, feat = posterior.sample(), torch.randn(5, 7, FEAT)
    stacked, shared = head(feat, weights), head(feat[0], weights)
    for k in range(5):
        one = {name: value[k] for name, value in weights.items()}
        torch.testing.assert_close(stacked[k], head(feat[k], one))
        torch.testing.assert_close(shared[k], head(feat[0], one))
    assert not torch.allclose(shared[0], shared[1])


def test_weights_of_its_own_are_the_default() -> None:
    head, _ = ensemble()
    feat = torch.randn(7, FEAT)
    assert torch.equal(head(feat), head(feat, dict(head.named_parameters())))


def test_it_asks_for_a_prior_width_of_every_weight() -> None:
    head, _ = ensemble()
    assert set(head.prior_std) == {name for name, _ in head.named_parameters()}
    assert all(std > 0 for std in head.prior_std.values())


def test_every_weight_of_the_head_is_a_weight_that_matters() -> None:
    head, posterior = ensemble()
    weights = posterior.sample()
    cost = head(torch.randn(5, 20, FEAT), weights).sum()
    for name, gradient in zip(
        weights, torch.autograd.grad(cost, list(weights.values())), strict=True
    ):
        assert gradient.flatten(1).any(-1).all(), name


def unknown_part(prior_cost: float, **options: float) -> tuple[CostHead, Tensor, Tensor]:
    """Prior draws ``[member, points]`` of what the head adds for not knowing, and the points."""
    head, posterior = ensemble(4000, prior_cost=prior_cost, features=1500, **options)
    head, posterior = head.double(), posterior.double()
    stoch = torch.cat([torch.zeros(1, STOCH), 1.3 * torch.randn(5, STOCH)]).double()
    feat = torch.cat([torch.zeros(6, DETER).double(), stoch], -1)
    own = {
        name: value.detach().expand(4000, *value.shape) for name, value in head.named_parameters()
    }
    draws = posterior.sample()["fourier_weight"].detach()
    unknown = head(feat, own | {"fourier_weight": draws}) - (head(feat) - prior_cost)
    return head, unknown.detach()[..., 0], stoch


@pytest.mark.parametrize("prior_cost", [0.05, 0.5])
def test_where_nothing_is_known_the_median_member_expects_the_prior_cost(
    prior_cost: float,
) -> None:
    """The share of draws above it is one half within five standard errors."""
    _, unknown, _ = unknown_part(prior_cost)
    above = (unknown > prior_cost).double().mean(0)
    assert ((above - 0.5).abs() < 5 * 0.5 / math.sqrt(4000)).all()


@pytest.mark.parametrize(("prior_std", "length_scale"), [(2.0, 1.0), (0.5, 2.0)])
def test_the_prior_is_the_gaussian_process_of_the_docstring(
    prior_std: float, length_scale: float
) -> None:
    """Covariance ``prior_std^2 exp(-r^2 / 2 l^2)``, to the error of 1500 random features.

    A feature's share of the kernel has standard deviation at most 1 (2 cos cos, of mean k), so
    five standard errors are 5 / sqrt(1500) = 0.13 of the variance; 4000 draws add
    5 / sqrt(4000) = 0.08 and, on the diagonal, sqrt(2) times that.
    """
    _, unknown, stoch = unknown_part(0.05, prior_std=prior_std, length_scale=length_scale)
    process = unknown.expm1().log() - math.log(math.expm1(0.05))
    covariance = process.T @ process / len(process) / prior_std**2
    kernel = torch.exp(-0.5 * (torch.cdist(stoch, stoch) / length_scale).square())
    assert (covariance - kernel).abs().max() < 0.13 + 0.08 * math.sqrt(2)
    assert covariance.diagonal().min() > 0.8


def train(head: CostHead, posterior: EnsemblePosterior, feat: Tensor, cost: Tensor) -> None:
    optimizer = torch.optim.Adam(posterior.parameters(), 3e-2)
    for _ in range(250):
        optimizer.zero_grad()
        mean = head(feat, posterior.sample())[..., 0]
        log_likelihood = CostHead.log_prob(mean, cost.expand_as(mean)).sum(-1)
        (-(log_likelihood + posterior.log_prior()).mean() / len(feat)).backward()
        optimizer.step()


@pytest.mark.parametrize("rate", [0.0, 0.5])
def test_trained_members_agree_on_data_and_disagree_far_from_them(rate: float) -> None:
    """Also where no cost has ever been seen: that is when a single network is blind."""
    head, posterior = ensemble()
    data = 0.3 * torch.randn(300, FEAT)
    cost = torch.poisson(torch.full((300,), rate))
    train(head, posterior, data, cost)
    far = data + 6 * nn.functional.normalize(torch.randn(300, FEAT), dim=-1)
    with torch.no_grad():
        near_by, far_away = (head(x, posterior.sample())[..., 0] for x in (data, far))
    spread = [float(c.std(0).mean()) for c in (near_by, far_away)]
    assert spread[1] > 2 * spread[0]
    assert (near_by.mean(1) - cost.mean()).abs().max() < 0.2
    assert far_away.max(0).values.mean() > far_away.mean() + spread[0]


def test_a_trained_member_finds_the_mean_of_costs_that_are_no_counts() -> None:
    head, posterior = ensemble(2)
    feat = torch.zeros(1, FEAT).expand(400, -1)
    cost = 3.0 * (torch.rand(400) < 0.3) + 0.25
    train(head, posterior, feat, cost)
    torch.testing.assert_close(
        head(feat[:1], posterior.sample())[:, 0, 0], cost.mean().expand(2), rtol=0.05, atol=0.0
    )


def test_training_the_particles_leaves_the_template_alone() -> None:
    both = nn.ModuleDict({"cost": CostHead(DETER, STOCH)})
    posterior = EnsemblePosterior(both, members=2)
    head = both["cost"]
    assert isinstance(head, CostHead)
    head(torch.randn(2, 3, FEAT), select(posterior.sample(), "cost")).sum().backward()
    assert all(weight.grad is None for weight in head.parameters())


@pytest.mark.parametrize("name", ["length_scale", "prior_cost"])
@pytest.mark.parametrize("value", [0.0, -1.0])
def test_a_scale_that_is_none_is_refused_by_name(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name}: got {value}"):
        CostHead(DETER, STOCH, **{name: value})  # pyright: ignore[reportArgumentType]


def test_state_dict_carries_the_fourier_features_and_the_statistics() -> None:
    one, two = CostHead(DETER, STOCH), CostHead(DETER, STOCH)
    nn.init.normal_(one.fourier_weight)
    for _ in range(3):
        one.observe(5 * torch.randn(20, STOCH) - 2)
    two.load_state_dict(one.state_dict())
    feat = torch.randn(4, FEAT)
    assert torch.equal(one(feat), two(feat))
    more = torch.randn(20, STOCH)
    one.observe(more)
    two.observe(more)
    assert torch.equal(one(feat), two(feat))


# ---- several costs -------------------------------------------------------------------------------

PRIOR_COSTS = (0.05, 0.5)


def alone(head: CostHead, index: int) -> CostHead:
    """A head for one of two costs, with the same Fourier features and statistics."""
    one = CostHead(DETER, STOCH, prior_cost=PRIOR_COSTS[index])
    with torch.no_grad():
        for name in ("frequency", "phase", "stoch_std"):
            getattr(one, name).copy_(getattr(head, name))
    return one


def test_two_costs_are_two_heads_with_one_each() -> None:
    """For every member; a head with the other cost's prior is the control."""
    head, posterior = ensemble(constraints=2, prior_cost=PRIOR_COSTS)
    head.observe(3 * torch.randn(20, STOCH))
    weights, feat = posterior.sample(), torch.randn(5, 7, FEAT)
    cost = head(feat, weights)
    assert cost.shape == (5, 7, 2)
    for index in range(2):
        column = {
            name: value if name.startswith("hidden") else value[..., index : index + 1]
            for name, value in weights.items()
        }
        torch.testing.assert_close(cost[..., index], alone(head, index)(feat, column)[..., 0])
        other = alone(head, 1 - index)(feat, column)[..., 0]
        assert ((other - cost[..., index]).abs() > 1e-4).all()


@pytest.mark.parametrize("prior_cost", [PRIOR_COSTS, 0.2, (0.2,)])
def test_each_cost_has_its_prior(prior_cost: float | tuple[float, ...]) -> None:
    """At the prior's mean the network adds ``softplus(-4)`` and the process nothing."""
    head, _ = ensemble(constraints=2, prior_cost=prior_cost)
    expected = torch.tensor(prior_cost).expand(2) + math.log1p(math.exp(-4))
    torch.testing.assert_close(head(torch.randn(7, FEAT)), expected.expand(7, 2))


@pytest.mark.parametrize(
    ("prior_cost", "message"),
    [
        ((0.1, 0.0), "got 0.0; allowed above 0"),
        ((0.1, math.nan), "got nan; allowed above 0"),
        ((0.1, 0.2, 0.3), "got 3 numbers; allowed 1, or one for each of the 2"),
        ((), "got 0 numbers"),
    ],
)
def test_prior_costs_that_are_none_are_refused_by_name(
    prior_cost: tuple[float, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=f"^prior_cost: {message}"):
        CostHead(DETER, STOCH, constraints=2, prior_cost=prior_cost)


# ---- latents of any scale ------------------------------------------------------------------------


class Unscaled(CostHead):
    """The cost head of earlier versions, whose length scale was in the unit of ``stoch``."""

    def observe(self, stoch: Tensor) -> None: ...


def check_other_units_change_no_cost(kind: type[CostHead], factor: float, seed: int) -> None:
    """Two heads with the same weights, which have seen the same latents in two units."""
    torch.manual_seed(seed)
    one = kind(DETER, STOCH, features=64, prior_cost=1.0).double()
    nn.init.normal_(one.fourier_weight, std=2.0)
    other = copy.deepcopy(one)
    batches = 2 * torch.randn(5, 3, 40, STOCH).double()
    for stoch in batches:
        one.observe(stoch)
        other.observe(factor * stoch)
    near, deter = 2 * batches[0], torch.randn(3, 40, DETER).double()
    cost = one(torch.cat([deter, near], -1))
    assert cost.std() > 0.02 * cost.mean()
    torch.testing.assert_close(other(torch.cat([deter, factor * near], -1)), cost)


@given(st.floats(-2.0, 4.0), st.integers(0, 10_000))
def test_one_length_scale_serves_latents_of_any_unit(exponent: float, seed: int) -> None:
    """Once it has observed them, a common factor changes nothing."""
    check_other_units_change_no_cost(CostHead, 10.0**exponent, seed)


@pytest.mark.parametrize("factor", [0.1, 4.0])
def test_negative_control_a_length_scale_in_the_unit_of_the_latents_is_tied_to_it(
    factor: float,
) -> None:
    with pytest.raises(AssertionError, match="not close"):
        check_other_units_change_no_cost(Unscaled, factor, 0)


def test_the_scale_is_measured_while_the_encoder_settles_and_then_fixed() -> None:
    """First as a plain mean, then forgetting old batches; new states must not look like known."""
    head = CostHead(DETER, STOCH).double()
    batches = torch.randn(SCALE_BATCHES, 30, STOCH).double() * torch.tensor([1.0, 3.0]) + 7
    scales = batches.var(1, correction=0).mean(-1).sqrt()
    for batch in batches[:15]:
        head.observe(batch)
    torch.testing.assert_close(head.stoch_std, scales[:15].mean())
    for batch in batches[15:]:
        head.observe(batch / 10)
    torch.testing.assert_close(head.stoch_std, scales[-60:].mean() / 10, rtol=0.1, atol=0.0)
    fixed = head.stoch_std.clone()
    for batch in batches[:20]:
        head.observe(100 * batch)
    assert torch.equal(head.stoch_std, fixed)


def test_statistics_change_in_place_and_without_a_graph() -> None:
    """A CUDA graph reads and writes the same memory at every replay."""
    head = CostHead(DETER, STOCH)
    before = {name: (buffer, buffer.data_ptr()) for name, buffer in head.named_buffers()}
    assert {"stoch_std", "observed"} <= set(before)
    for _ in range(2):
        head.observe((3 * torch.randn(4, 5, STOCH)).requires_grad_())
    for name, buffer in head.named_buffers():
        assert buffer is before[name][0], name
        assert buffer.data_ptr() == before[name][1], name
        assert not buffer.requires_grad, name
    assert head.observed == 2
    assert not torch.equal(head.stoch_std, torch.ones(()))


def test_latents_that_never_move_give_finite_costs_and_gradients() -> None:
    head = CostHead(DETER, STOCH)
    nn.init.normal_(head.fourier_weight)
    for _ in range(3):
        head.observe(torch.full((10, STOCH), 2.0))
    feat = torch.full((4, FEAT), 2.0, requires_grad=True)
    (gradient,) = torch.autograd.grad(head(feat).sum(), feat)
    assert head(feat).isfinite().all()
    assert gradient.isfinite().all()
