import math

import pytest
import torch
import torch.distributions as td
from hypothesis import given
from hypothesis import strategies as st

from blocks.actor import Actor
from blocks.optimizers.member_gradients import stack_parameters

FEAT, ACTION = 5, 3


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def trained(seed: int = 0, width: float = 0.3) -> Actor:
    """An actor whose output layer no longer is as it began."""
    generator = torch.Generator().manual_seed(seed)
    actor = Actor(FEAT, ACTION, hidden_size=8)
    with torch.no_grad():
        for parameter in actor.output.parameters():
            parameter.copy_(width * torch.randn(parameter.shape, generator=generator))
    return actor


def test_the_first_policy_is_zero_plus_noise_of_the_initial_deviation() -> None:
    actor, feat = Actor(FEAT, ACTION, hidden_size=8, initial_std=0.3), torch.randn(50, FEAT)
    mean, std = actor(feat)
    assert not mean.any()
    torch.testing.assert_close(std, torch.full((50, ACTION), 0.3))
    assert not actor.mode(feat).any()
    noise = torch.randn(50, ACTION)
    torch.testing.assert_close(actor.sample(feat, noise).action, torch.tanh(0.3 * noise))


@given(st.integers(0, 10_000), st.floats(0.05, 3.0), st.floats(0.1, 2.0))
def test_log_prob_is_that_of_torchs_squashed_gaussian(
    seed: int, width: float, scale: float
) -> None:
    actor = trained(seed, width).double()
    generator = torch.Generator().manual_seed(seed)
    feat, noise = (
        torch.randn(7, size, generator=generator, dtype=torch.float64) for size in (FEAT, ACTION)
    )
    sample = actor.sample(feat, noise, scale=scale)
    mean, std = actor(feat)
    squashed = td.TransformedDistribution(
        td.Normal(mean, scale * std), [td.TanhTransform(cache_size=1)]
    )
    raw = mean + scale * std * noise
    torch.testing.assert_close(sample.action, torch.tanh(raw))
    inner = raw.abs().amax(-1) < 10  # beyond, torch's atanh of the action is no reference
    expected = squashed.log_prob(sample.action).sum(-1)
    torch.testing.assert_close(sample.log_prob[inner], expected[inner], rtol=1e-5, atol=1e-5)


@given(st.integers(0, 10_000), st.floats(0.1, 1e3))
def test_actions_and_densities_stay_in_bounds_for_any_feature(seed: int, width: float) -> None:
    actor = trained(seed, 5.0)
    generator = torch.Generator().manual_seed(seed)
    feat = (width * torch.randn(20, FEAT, generator=generator)).requires_grad_()
    noise = 5 * torch.randn(20, ACTION, generator=generator)
    _, std = actor(feat)
    assert (std >= actor.min_std).all()
    assert (std <= 1.0).all()
    sample = actor.sample(feat, noise)
    assert (sample.action.abs() <= 1).all()
    assert sample.log_prob.isfinite().all()
    for output in (sample.action, sample.log_prob):
        (gradient,) = torch.autograd.grad(output.sum(), feat, retain_graph=True)
        assert gradient.isfinite().all()


def test_the_density_integrates_to_one() -> None:
    """Over a fine grid of one action, by the trapezoidal rule in the noise."""
    actor = Actor(FEAT, 1, hidden_size=8, initial_std=0.7).double()
    noise = torch.linspace(-8, 8, 20_001, dtype=torch.float64).unsqueeze(-1)
    feat = torch.randn(1, FEAT, dtype=torch.float64).expand(len(noise), -1)
    sample = actor.sample(feat, noise)
    mass = torch.trapezoid(sample.log_prob.exp(), sample.action[:, 0])
    assert mass.item() == pytest.approx(1.0, abs=1e-6)


def test_the_mode_is_the_sample_without_noise() -> None:
    actor, feat = trained(), torch.randn(4, FEAT)
    torch.testing.assert_close(actor.mode(feat), actor.sample(feat, torch.zeros(4, ACTION)).action)
    assert actor.mode(feat).any()


def test_samples_are_reparameterised() -> None:
    """The gradient of an action with respect to every output is that of finite differences."""
    actor = trained().double()
    feat, noise = (torch.randn(4, size, dtype=torch.float64) for size in (FEAT, ACTION))

    def run(bias: torch.Tensor) -> torch.Tensor:
        class Wrapped(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.actor = actor

            def forward(self) -> torch.Tensor:
                sample = self.actor.sample(feat, noise)
                return torch.cat([sample.action, sample.log_prob.unsqueeze(-1)], -1)

        return torch.func.functional_call(Wrapped(), {"actor.output.bias": bias}, ())

    bias = actor.output.bias.detach().clone().requires_grad_()
    assert torch.autograd.gradcheck(run, [bias])


@given(st.integers(0, 10_000), st.integers(1, 4), st.integers(1, 3), st.integers(1, 3))
def test_copies_of_a_member_share_its_batch_in_equal_parts(
    seed: int, members: int, groups: int, part: int
) -> None:
    """Part g of member k is what an actor with the parameters of copy ``k * groups + g`` does."""
    actor = trained(seed).double()
    generator = torch.Generator().manual_seed(seed)
    copies = {
        name: (copy + torch.randn(copy.shape, generator=generator, dtype=copy.dtype)).detach()
        for name, copy in stack_parameters(actor, members * groups).items()
    }
    feat, noise = (
        torch.randn(members, groups * part, size, generator=generator, dtype=torch.float64)
        for size in (FEAT, ACTION)
    )
    sample = actor.sample(feat, noise, weights=copies)
    for k in range(members):
        for g in range(groups):
            own = {name: copy[k * groups + g] for name, copy in copies.items()}
            rows = slice(g * part, (g + 1) * part)
            mean, std = torch.func.functional_call(actor, own, (feat[k, rows],))
            action = torch.tanh(mean + std * noise[k, rows])
            torch.testing.assert_close(sample.action[k, rows], action)


def test_a_batch_that_does_not_divide_among_the_copies_is_an_error() -> None:
    actor = trained()
    copies = stack_parameters(actor, 2 * 3)
    with pytest.raises(ValueError, match="weights: got 6 copies"):
        actor.sample(torch.randn(2, 4, FEAT), torch.randn(4, ACTION), weights=copies)


def test_noise_is_shared_by_members_through_broadcasting() -> None:
    actor = trained()
    feat = torch.randn(1, 4, FEAT).expand(3, -1, -1)
    sample = actor.sample(feat, torch.randn(4, ACTION))
    assert sample.action.shape == (3, 4, ACTION)
    assert sample.log_prob.shape == (3, 4)
    assert torch.equal(sample.action[0], sample.action[2])


@pytest.mark.parametrize("leading", [(), (2,), (2, 3, 4)])
def test_any_leading_axes(leading: tuple[int, ...]) -> None:
    sample = trained().sample(torch.randn(*leading, FEAT), torch.randn(*leading, ACTION))
    assert sample.action.shape == (*leading, ACTION)
    assert sample.log_prob.shape == leading


@pytest.mark.parametrize(
    "limits",
    [
        {"initial_std": 0.1, "min_std": 0.1},
        {"initial_std": 1.0, "max_std": 1.0},
        {"initial_std": 2.0},
        {"min_std": 0.0},
        {"min_std": -0.1},
    ],
)
def test_a_deviation_outside_its_limits_is_refused(limits: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"initial_std: got .* between min_std"):
        Actor(FEAT, ACTION, **limits)  # pyright: ignore[reportArgumentType]


def test_state_dict_round_trip() -> None:
    one, two, feat = trained(1), trained(2), torch.randn(3, FEAT)
    two.load_state_dict(one.state_dict())
    assert torch.equal(one.mode(feat), two.mode(feat))


def test_entropy_of_the_first_policy_is_estimated_without_bias() -> None:
    """Against quadrature; five standard errors of the Monte-Carlo mean."""
    actor, count = Actor(FEAT, 1, hidden_size=8), 20_000
    feat = torch.zeros(count, FEAT)
    surprise = -actor.sample(feat, torch.randn(count, 1)).log_prob
    x = torch.linspace(-5, 5, 20_001, dtype=torch.float64)
    density = td.Normal(0.0, 0.5).log_prob(x).exp()
    squash = 2 * (math.log(2) - x - torch.nn.functional.softplus(-2 * x))
    exact = torch.trapezoid(density * (squash - td.Normal(0.0, 0.5).log_prob(x)), x)
    assert abs(surprise.mean() - exact) < 5 * surprise.std() / count**0.5
