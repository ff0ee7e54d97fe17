"""Every block that fills a public protocol is accepted by it: by pyright here, and at run time."""

import functools
from collections.abc import Callable, Iterable
from typing import Protocol

import pytest
import torch
from torch import Tensor, nn

from blocks import (
    LBSGD,
    AugmentedLagrangian,
    BarrierAdam,
    Categorical,
    CategoricalLatent,
    ConformalMargin,
    ConformalShare,
    ConstrainedOptimizer,
    ConstrainedStep,
    Decoder,
    Environment,
    FixedShare,
    Gaussian,
    GaussianLatent,
    ImageDecoder,
    Latent,
    LatentDistribution,
    Margin,
    MeanField,
    Particles,
    PIDLagrangian,
    Point,
    PosteriorFamily,
    Prior,
    SecantSmoothness,
    Stein,
    VectorDecoder,
    lbsgd_step_size,
    make_environment,
)
from blocks.environments.protocol import Space
from blocks.optimizers.barrier_adam import Scale, unscaled
from blocks.optimizers.smoothness import KnownSmoothness, Smoothness


class MakeOptimizer(Protocol):
    def __call__(self, params: Iterable[nn.Parameter]) -> ConstrainedOptimizer: ...


def _lbsgd(params: Iterable[nn.Parameter]) -> LBSGD:
    return LBSGD(params, eta=0.1, objective_smoothness=1.0, constraint_smoothness=1.0)


def _barrier_adam(params: Iterable[nn.Parameter]) -> BarrierAdam:
    return BarrierAdam(params, eta=0.1)


OPTIMIZERS: list[MakeOptimizer] = [_lbsgd, _barrier_adam, AugmentedLagrangian, PIDLagrangian]
FAMILIES: list[Callable[[Prior], PosteriorFamily]] = [Particles, Stein, MeanField, Point]
LATENTS: list[Latent] = [GaussianLatent(), CategoricalLatent(classes=2)]
DISTRIBUTIONS: list[LatentDistribution] = [
    Gaussian(torch.zeros(3), torch.ones(3)),
    Categorical(torch.zeros(2, 2)),
]
SMOOTHNESS: list[Smoothness] = [
    KnownSmoothness(torch.tensor(1.0), "smoothness"),
    SecantSmoothness(1.0),
]
MARGINS: list[Margin] = [ConformalMargin(), ConformalShare(), FixedShare(0.4)]
SCALES: list[Scale] = [
    unscaled,
    functools.partial(lbsgd_step_size, objective_smoothness=1.0, constraint_smoothness=1.0),
]


def test_an_environment_fills_its_protocol() -> None:
    environment: Environment = make_environment("SafetyPointGoal1-v0")
    assert isinstance(environment, Environment)
    spaces: list[Space] = [environment.observation_space, environment.action_space]
    assert all(isinstance(space, Space) for space in spaces)
    environment.close()


@pytest.mark.parametrize("make", OPTIMIZERS)
def test_optimisers_and_their_steps_fill_their_protocols(make: MakeOptimizer) -> None:
    x = nn.Parameter(torch.zeros(()))
    optimizer = make([x])
    optimizer.learning_rate = 0.01
    step: ConstrainedStep = optimizer.step(-((x - 2) ** 2), x, 1.0)
    assert isinstance(step, ConstrainedStep)
    assert optimizer.learning_rate == 0.01
    optimizer.load_state_dict(optimizer.state_dict())


@pytest.mark.parametrize("make", FAMILIES)
def test_families_fill_their_protocol(make: Callable[[Prior], PosteriorFamily]) -> None:
    prior = Prior({"weight": torch.tensor(0.5)}, {"weight": torch.randn(2, 3)})
    family = make(prior)
    offsets: dict[str, Tensor] = family.offsets(prior, 2, None)
    assert offsets["weight"].shape == (2, 3)
    assert family.log_prior(prior, 2).shape == (2,)
    assert set(family.model(prior, 2)) == {"weight"}
    assert isinstance(family.separate_data, bool)
    assert isinstance(family.draws, bool)


@pytest.mark.parametrize("latent", LATENTS)
def test_latents_fill_their_protocol(latent: Latent) -> None:
    assert isinstance(latent, Latent)
    distribution = latent.from_statistics(torch.zeros(5, latent.statistics_size(4)))
    assert isinstance(distribution, LatentDistribution)


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_distributions_fill_their_protocol(distribution: LatentDistribution) -> None:
    assert isinstance(distribution, LatentDistribution)


@pytest.mark.parametrize("smoothness", SMOOTHNESS)
def test_smoothness_fills_its_protocol(smoothness: Smoothness) -> None:
    assert isinstance(smoothness, Smoothness)


@pytest.mark.parametrize("margin", MARGINS)
def test_margins_fill_their_protocol(margin: Margin) -> None:
    assert isinstance(margin, Margin)
    assert margin.update(0.1, 0.2) == margin.value
    assert 0 < margin.allowed(25.0) < 25.0
    margin.load_state_dict(margin.state_dict())


@pytest.mark.parametrize("scale", SCALES)
def test_scales_fill_their_protocol(scale: Scale) -> None:
    one = torch.ones(())
    assert isinstance(scale, Scale)
    assert scale(torch.ones(1), torch.ones(1), one, eta=0.1).shape == ()


def test_decoders_fill_their_protocol() -> None:
    decoders: list[Decoder] = [VectorDecoder(4, 3), ImageDecoder(4, depth=2)]
    assert all(isinstance(decoder, Decoder) for decoder in decoders)
