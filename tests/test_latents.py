"""Latent distributions against torch.distributions."""

import math

import pytest
import torch
import torch.distributions as td
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from blocks.latents import (
    Categorical,
    CategoricalLatent,
    Gaussian,
    GaussianLatent,
    Latent,
    LatentDistribution,
)

LATENTS = [GaussianLatent(), CategoricalLatent()]
seeds = st.integers(0, 10_000)
widths = st.floats(0.01, 30.0)


def draw(
    latent: Latent, seed: int, width: float = 1.0, shape: tuple[int, ...] = (3,)
) -> LatentDistribution:
    """A distribution over 16 latent dimensions, from raw outputs of the given width."""
    generator = torch.Generator().manual_seed(seed)
    size = latent.statistics_size(16)
    raw = width * torch.randn(*shape, size, generator=generator, dtype=torch.float64)
    return latent.from_statistics(raw)


def reference(latent: LatentDistribution) -> td.Independent:
    """The same distribution as torch has it."""
    if isinstance(latent, Gaussian):
        return td.Independent(td.Normal(latent.mean, latent.std), 1)
    assert isinstance(latent, Categorical)
    return td.Independent(td.OneHotCategorical(logits=latent.logits), 1)


@pytest.mark.parametrize("latent", LATENTS)
@given(one=seeds, two=seeds, width=widths)
def test_kl_is_that_of_torch_distributions(
    latent: Latent, one: int, two: int, width: float
) -> None:
    p, q = draw(latent, one, width), draw(latent, two, width)
    kl = p.kl(q)
    assert kl.shape == (3,)
    torch.testing.assert_close(kl, td.kl_divergence(reference(p), reference(q)))
    assert (kl >= -1e-12).all()


@pytest.mark.parametrize("latent", LATENTS)
@given(seed=seeds, width=widths)
def test_kl_to_itself_is_zero(latent: Latent, seed: int, width: float) -> None:
    p = draw(latent, seed, width)
    torch.testing.assert_close(p.kl(p), torch.zeros(3, dtype=torch.float64))


@pytest.mark.parametrize("latent", LATENTS)
def test_kl_and_its_gradient_stay_finite_for_extreme_outputs(latent: Latent) -> None:
    size = latent.statistics_size(16)
    one, two = (torch.full((size,), x, requires_grad=True) for x in (1e4, -1e4))
    signs = torch.ones(size)
    signs[::2] = -1
    kl = latent.from_statistics(one * signs).kl(latent.from_statistics(two * signs))
    for gradient in torch.autograd.grad(kl, (one, two)):
        assert gradient.isfinite().all()
    assert kl.isfinite()


@given(widths, seeds)
def test_a_standard_deviation_is_at_least_a_tenth(width: float, seed: int) -> None:
    gaussian = draw(GaussianLatent(), seed, width)
    assert isinstance(gaussian, Gaussian)
    assert (gaussian.std >= 0.1).all()


@given(st.floats(0.01, 1e3), seeds)
def test_a_class_has_at_least_its_share_of_one_per_cent(width: float, seed: int) -> None:
    categorical = draw(CategoricalLatent(), seed, width)
    assert isinstance(categorical, Categorical)
    assert categorical.logits.shape == (3, 2, 8)
    probs = categorical.logits.exp()
    torch.testing.assert_close(probs.sum(-1), torch.ones(3, 2, dtype=torch.float64))
    assert (probs >= 0.01 / 8 - 1e-12).all()


def test_gaussian_samples_have_its_moments() -> None:
    """Five standard errors: std / sqrt(n) of the mean, std / sqrt(2 n) of the deviation."""
    gaussian, count = draw(GaussianLatent(), 1), 20_000
    assert isinstance(gaussian, Gaussian)
    noise = GaussianLatent().noise((count, 3, 16), torch.Generator().manual_seed(0)).double()
    sample = gaussian.rsample(noise)
    assert ((sample.mean(0) - gaussian.mean).abs() < 5 * gaussian.std / math.sqrt(count)).all()
    error = (sample.std(0) - gaussian.std).abs()
    assert (error < 5 * gaussian.std / math.sqrt(2 * count)).all()


def test_categorical_samples_are_one_hot_with_its_probabilities() -> None:
    """Five standard errors of a frequency: sqrt(p (1 - p) / n)."""
    categorical, count = draw(CategoricalLatent(), 1), 20_000
    assert isinstance(categorical, Categorical)
    noise = CategoricalLatent().noise((count, 3, 16), torch.Generator().manual_seed(0)).double()
    sample = categorical.rsample(noise).unflatten(-1, (2, 8))
    torch.testing.assert_close(sample, sample.round())
    torch.testing.assert_close(sample.sum(-1), torch.ones(count, 3, 2, dtype=torch.float64))
    probs = categorical.logits.exp()
    error = (sample.mean(0) - probs).abs()
    assert (error < 5 * (probs * (1 - probs) / count).sqrt()).all()


def test_a_gaussian_sample_moves_with_mean_and_deviation() -> None:
    mean, std = (torch.full((4,), x, requires_grad=True) for x in (1.0, 2.0))
    noise = torch.tensor([-1.0, 0.0, 0.5, 2.0])
    by_mean, by_std = torch.autograd.grad(Gaussian(mean, std).rsample(noise).sum(), (mean, std))
    torch.testing.assert_close(by_mean, torch.ones(4))
    torch.testing.assert_close(by_std, noise)


@given(seeds)
def test_a_one_hot_sample_has_the_gradient_of_its_probabilities(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    raw = torch.randn(5, 16, generator=generator, dtype=torch.float64, requires_grad=True)
    direction = torch.randn(5, 16, generator=generator, dtype=torch.float64)
    latent = CategoricalLatent().from_statistics(raw)
    sample = latent.rsample(CategoricalLatent().noise((5, 16), generator).double())
    (through,) = torch.autograd.grad((direction * sample).sum(), raw, retain_graph=True)
    probs = latent.logits.exp().flatten(-2)
    (straight,) = torch.autograd.grad((direction * probs).sum(), raw)
    torch.testing.assert_close(through, straight)
    assert through.any()


@pytest.mark.parametrize("latent", LATENTS)
def test_noise_comes_from_its_generator_and_is_finite(latent: Latent) -> None:
    one, again, other = (
        latent.noise((1000, 8), torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert one.isfinite().all()


@pytest.mark.parametrize("latent", LATENTS)
def test_noise_broadcasts_so_that_members_can_share_it(latent: Latent) -> None:
    raw = torch.randn(1, 5, latent.statistics_size(16), generator=torch.Generator().manual_seed(0))
    stacked = latent.from_statistics(raw.expand(3, -1, -1))
    sample = stacked.rsample(latent.noise((5, 16), torch.Generator().manual_seed(1)))
    assert sample.shape == (3, 5, 16)
    assert torch.equal(sample[0], sample[1])


@pytest.mark.parametrize("latent", LATENTS)
def test_the_mode_is_the_most_likely_sample(latent: Latent) -> None:
    distribution = draw(latent, 3)
    law = reference(distribution)

    def log_prob(value: Tensor) -> Tensor:
        return law.log_prob(
            value if isinstance(latent, GaussianLatent) else value.unflatten(-1, (2, 8))
        )

    mode = distribution.mode()
    assert mode.shape == (3, 16)
    noise = latent.noise((200, 3, 16), torch.Generator().manual_seed(0)).double()
    samples = distribution.rsample(noise).detach().round(decimals=12)
    assert (log_prob(samples) <= log_prob(mode) + 1e-9).all()


@pytest.mark.parametrize("latent", LATENTS)
def test_map_applies_a_function_to_the_statistics(
    latent: Latent,
) -> None:
    raw = torch.randn(2, 3, latent.statistics_size(8), requires_grad=True)
    distribution = latent.from_statistics(raw)
    for before, after in zip(distribution, distribution.map(torch.detach), strict=True):
        assert before.requires_grad
        assert not after.requires_grad
        assert torch.equal(before, after)
    row = distribution.map(lambda x: x[1])
    assert type(row) is type(distribution)
    torch.testing.assert_close(row.mode(), distribution.mode()[1])


def test_statistics_sizes_and_the_refusal_of_a_size_that_does_not_divide() -> None:
    assert GaussianLatent().statistics_size(12) == 24
    assert CategoricalLatent().statistics_size(16) == 16
    with pytest.raises(ValueError, match=r"^stoch_size: got 12; allowed multiples of .*8"):
        CategoricalLatent().statistics_size(12)
