"""The posterior families against a Gaussian posterior, whose moments are known.

Target: ``log p(data | w) = -(w - c)' H (w - c) / 2`` and ``w ~ N(0, I)``, so the exact posterior is
``N(A^-1 H c, A^-1)`` with ``A = H + I``. `particles` has its own tests in test_ensemble_posterior.
"""

import copy
import subprocess
import sys
from typing import cast

import pyro
import pytest
import torch
import torch.distributions as td
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from blocks.posteriors.ensemble import EnsemblePosterior, MakeFamily
from blocks.posteriors.mean_field import MeanField
from blocks.posteriors.particles import Particles
from blocks.posteriors.point import Point
from blocks.posteriors.stein import Stein

FAMILIES = [Particles, Stein, MeanField, Point]
every_family = pytest.mark.parametrize("family", FAMILIES)
CENTRE = torch.tensor([0.7, -1.2, 0.4], dtype=torch.float64)
INDEPENDENT = torch.diag(torch.tensor([0.5, 4.0, 20.0], dtype=torch.float64))
CORRELATED = torch.tensor([[6.0, 4.5, 0], [4.5, 6.0, -2.0], [0, -2.0, 3.0]], dtype=torch.float64)
UNKNOWN_FAMILY = """
from torch import nn
from blocks import EnsemblePosterior
EnsemblePosterior(nn.Linear(2, 2), family="steni")
"""
ALONE = torch.zeros(3, 3, dtype=torch.float64)  # no data: the prior is the posterior


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


class Nested(nn.Module):
    """Parameters of several shapes, with dots in their names."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.ParameterDict({"weight": torch.randn(4, 3), "bias": torch.randn(1, 3)})
        self.scale = nn.Parameter(torch.ones(2))
        self.shift = nn.Parameter(torch.tensor(0.5))


def zeros(size: int) -> nn.Linear:
    template = nn.Linear(size, 1, bias=False).double()
    nn.init.zeros_(template.weight)
    return template


def flat(posterior: EnsemblePosterior, **options: object) -> Tensor:
    """The members ``[member, weight]``."""
    return posterior.sample(**options)["weight"].squeeze(1)  # pyright: ignore[reportArgumentType]


def fit(
    family: MakeFamily,
    curvature: Tensor,
    members: int,
    *,
    centre: Tensor = CENTRE,
    steps: int = 800,
    prior: bool = True,
) -> EnsemblePosterior:
    """Train as a world model does: mean over members, the prior's term, any torch optimiser."""
    posterior = EnsemblePosterior(
        zeros(len(centre)), members=members, family=family, prior_std={"weight": 1.0}
    ).double()
    optimizer = torch.optim.Adam(posterior.parameters(), 0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        away = flat(posterior, generator=generator) - centre
        log_likelihood = -0.5 * ((away @ curvature) * away).sum(-1)
        optimizer.zero_grad()
        (-log_likelihood.mean() - prior * posterior.log_prior().mean()).backward()
        optimizer.step()
        schedule.step()
    return posterior


def exact(curvature: Tensor) -> tuple[Tensor, Tensor]:
    """Mean ``[weight]`` and covariance ``[weight, weight]`` of the posterior."""
    covariance = torch.linalg.inv(curvature + torch.eye(3, dtype=torch.float64))
    return covariance @ curvature @ CENTRE, covariance


def moments(members: Tensor, curvature: Tensor) -> tuple[Tensor, Tensor]:
    """Error of the mean in posterior deviations, and variances over the exact ones."""
    mean, covariance = exact(curvature)
    sample = members.detach()
    error = (sample.mean(0) - mean).abs() / covariance.diag().sqrt()
    return error, sample.var(0, correction=0) / covariance.diag()


# ---- stein ---------------------------------------------------------------------------------------


@given(st.integers(0, 10_000), st.integers(2, 5))
def test_the_gradient_of_the_loss_is_the_stein_direction(seed: int, members: int) -> None:
    """Against the formula written out in loops, for a likelihood that is not quadratic."""
    torch.manual_seed(seed)
    std, data_size = {"weight": 0.4}, 7
    posterior = EnsemblePosterior(zeros(3), members=members, family=Stein, prior_std=std).double()

    def log_likelihood(weights: Tensor) -> Tensor:
        return (weights * 3).sin().sum(-1) - (weights.prod(-1) - 1).square()

    loss = -log_likelihood(flat(posterior)).mean() - posterior.log_prior().mean() / data_size
    loss.backward()
    (particles,) = posterior.parameters()
    z = (particles.detach() / 0.4).squeeze(1).requires_grad_()
    log_posterior = data_size * log_likelihood(0.4 * z) - 0.5 * z.square().sum(-1)
    (score,) = torch.autograd.grad(log_posterior.sum(), z)
    z = z.detach()
    direction = torch.zeros_like(z)
    for d in range(3):
        pairs = [(z[i, d] - z[j, d]) ** 2 for i in range(members) for j in range(i)]
        bandwidth = torch.stack(pairs).median() / torch.tensor(members + 1.0).log()
        for n in range(members):
            for m in range(members):
                kernel = torch.exp(-((z[m, d] - z[n, d]) ** 2) / bandwidth)
                by_m = -2 * (z[m, d] - z[n, d]) / bandwidth * kernel
                direction[n, d] += (kernel * score[m, d] + by_m) / members
    assert particles.grad is not None
    torch.testing.assert_close(
        particles.grad.squeeze(1), -direction / data_size / 0.4, rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("curvature", [ALONE, INDEPENDENT], ids=["no data", "independent"])
def test_many_stein_particles_have_the_moments_of_independent_weights(curvature: Tensor) -> None:
    """Their bias: 60 particles hold 85 to 95 percent of the variance; 5 hold about 60."""
    error, many = moments(flat(fit(Stein, curvature, 60)), curvature)
    assert error.max() < 0.02
    assert (many > 0.82).all()
    assert (many < 1.0).all()
    _, few = moments(flat(fit(Stein, curvature, 5)), curvature)
    assert (few > 0.5).all()
    assert (few < many).all()


def test_stein_particles_leave_out_correlations() -> None:
    """A kernel for each weight asks for ``(A S)_ii = 1``: ``S = diag(1 / A_ii)`` will do."""
    members = flat(fit(Stein, CORRELATED, 60))
    error, ratio = moments(members, CORRELATED)
    independent = 1 / (CORRELATED + torch.eye(3)).diag() / exact(CORRELATED)[1].diag()
    assert error.max() < 0.02
    assert (ratio < 0.85).all()
    assert (ratio > 0.8 * independent).all()


def test_without_repulsion_stein_particles_collapse_to_the_map(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = Stein._kernel

    def without(self: Stein, name: str, std: Tensor) -> tuple[Tensor, Tensor]:
        kernel, away = whole(self, name, std)
        return kernel, torch.zeros_like(away)

    monkeypatch.setattr(Stein, "_kernel", without)
    error, ratio = moments(flat(fit(Stein, INDEPENDENT, 20)), INDEPENDENT)
    assert error.max() < 0.01
    assert ratio.max() < 1e-3


def test_repulsion_does_not_fade_with_the_number_of_weights() -> None:
    """A product kernel over 300 weights would leave less than a thousandth of the variance."""
    size = 300
    curvature, centre = torch.eye(size).double(), torch.ones(size).double()
    members = flat(fit(Stein, curvature, 5, centre=centre, steps=400))
    assert float(members.detach().var(0, correction=0).mean() * 2) > 0.5


def test_a_single_stein_particle_finds_the_map() -> None:
    error, _ = moments(flat(fit(Stein, CORRELATED, 1)), CORRELATED)
    assert error.max() < 1e-3


def test_stein_particles_that_coincide_give_no_nan() -> None:
    posterior = EnsemblePosterior(Nested(), members=4, family=Stein)
    with torch.no_grad():
        for particles in posterior.parameters():
            particles.copy_(particles[:1].expand_as(particles))
        cast(Tensor, posterior.get_parameter("_offsets.scale"))[3] += 1.0
    total = sum(w.square().sum() for w in posterior.sample().values())
    (total + posterior.log_prior().sum()).backward()
    for particles in posterior.parameters():
        assert particles.grad is not None
        assert particles.grad.isfinite().all()
        assert torch.equal(particles.grad[0], particles.grad[1])


# ---- mean field ----------------------------------------------------------------------------------


@pytest.mark.parametrize("curvature", [ALONE, INDEPENDENT, CORRELATED])
def test_the_mean_field_optimum_is_one_over_the_diagonal_of_the_precision(
    curvature: Tensor,
) -> None:
    posterior = fit(MeanField, curvature, 50, steps=600)
    members = flat(posterior, members=20_000, generator=torch.Generator().manual_seed(2)).detach()
    mean, covariance = exact(curvature)
    optimum = 1 / (curvature + torch.eye(3)).diag()
    assert ((members.mean(0) - mean).abs() / covariance.diag().sqrt()).max() < 0.1
    torch.testing.assert_close(members.var(0), optimum, rtol=0.08, atol=0.0)
    correlation = torch.corrcoef(members.T) - torch.eye(3)
    assert correlation.abs().max() < 4.5 / 20_000**0.5
    if curvature is CORRELATED:
        assert (members.var(0) < 0.75 * covariance.diag()).all()


def test_without_the_divergence_the_guide_collapses() -> None:
    with_it, without = (fit(MeanField, INDEPENDENT, 20, steps=400, prior=p) for p in (1, 0))
    assert without.spread() < 0.3 * with_it.spread()


@given(st.integers(0, 10_000))
def test_the_mean_field_prior_term_is_minus_the_divergence(seed: int) -> None:
    torch.manual_seed(seed)
    posterior = moved(Nested(), family=MeanField, members=3)
    expected = torch.zeros(())
    for loc, log_scale in zip(*halves(posterior), strict=True):
        guide = td.Normal(loc, log_scale.exp())
        expected -= td.kl_divergence(guide, td.Normal(0.0, 1.0)).sum()
    torch.testing.assert_close(posterior.log_prior(), expected.expand(3), rtol=1e-4, atol=1e-4)


def test_mean_field_draws_any_number_from_a_generator() -> None:
    posterior = moved(Nested(), family=MeanField, members=2)
    one, same, other = (
        posterior.sample(500, generator=torch.Generator().manual_seed(seed))["inner.weight"]
        for seed in (3, 3, 4)
    )
    assert one.shape == (500, 4, 3)
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    with pytest.raises(ValueError, match=r"members: got 3; .* generator to draw more"):
        posterior.sample(3)
    with pytest.raises(ValueError, match="members: got 0"):
        posterior.sample(0, generator=torch.Generator())


# ---- point ---------------------------------------------------------------------------------------


def test_point_members_collapse_where_there_are_data_and_stay_where_there_are_none() -> None:
    half_seen = torch.diag(torch.tensor([4.0, 4.0, 0.0], dtype=torch.float64))
    posterior = fit(Point, half_seen, 20)
    members = flat(posterior).detach()
    torch.testing.assert_close(members[:, :2], CENTRE[:2].expand(20, 2), atol=1e-4, rtol=0)
    assert torch.equal(members[:, 2], posterior.anchors()["weight"].squeeze(1)[:, 2])


# ---- all families --------------------------------------------------------------------------------


def moved(template: nn.Module, **options: object) -> EnsemblePosterior:
    """A posterior in the middle of its training."""
    posterior = EnsemblePosterior(template, **options)  # pyright: ignore[reportArgumentType]
    with torch.no_grad():
        for parameter in posterior.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return posterior


def halves(posterior: EnsemblePosterior) -> tuple[list[Tensor], list[Tensor]]:
    """Locations and log-scales of a mean-field guide, both in prior deviations."""
    named = list(posterior.named_parameters())
    return [p for n, p in named if ".loc." in n], [p for n, p in named if ".log_scale." in n]


@given(st.integers(0, 1000), st.integers(1, 6))
@settings(max_examples=20)
def test_before_any_data_all_families_hold_the_same_prior_draws(seed: int, members: int) -> None:
    template, held = Nested(), []
    for family in FAMILIES:
        torch.manual_seed(seed)
        posterior = EnsemblePosterior(template, members=members, family=family)
        held.append(posterior.sample())
        if family is not Stein:  # whose prior is not centred on where a particle begins
            torch.testing.assert_close(posterior.log_prior(), torch.zeros(members))
    for other in held[1:]:
        for name, value in held[0].items():
            torch.testing.assert_close(other[name], value)


@every_family
def test_state_dict_round_trip_and_one_sample_from_one_state(family: MakeFamily) -> None:
    template = Nested()
    one, two = (moved(template, members=3, family=family) for _ in range(2))
    two.load_state_dict(one.state_dict())
    for generator in (None, 5):
        first, second = (
            posterior.sample(generator=generator and torch.Generator().manual_seed(generator))
            for posterior in (one, two)
        )
        for name, value in first.items():
            assert torch.equal(second[name], value)
    assert torch.equal(one.log_prior(), two.log_prior())
    assert one.spread() == two.spread()


@every_family
def test_nothing_is_drawn_from_torchs_own_generator_or_put_in_pyros_store(
    family: MakeFamily,
) -> None:
    posterior = moved(Nested(), members=3, family=family)
    before, stored = torch.get_rng_state(), sorted(pyro.get_param_store().keys())
    total = posterior.sample(2, generator=torch.Generator().manual_seed(0))["scale"].sum()
    (total + posterior.sample()["scale"].sum() + posterior.log_prior().sum()).backward()
    assert torch.equal(torch.get_rng_state(), before)
    assert sorted(pyro.get_param_store().keys()) == stored


@every_family
def test_only_mean_field_draws_from_the_generator(family: MakeFamily) -> None:
    generator = torch.Generator().manual_seed(0)
    before = generator.get_state()
    EnsemblePosterior(Nested(), family=family).sample(generator=generator)
    assert torch.equal(generator.get_state(), before) == (family is not MeanField)


@every_family
def test_every_parameter_is_reached_by_the_loss(family: MakeFamily) -> None:
    template = Nested()
    posterior = moved(template, members=3, family=family)
    weights = posterior.sample(generator=torch.Generator().manual_seed(0))
    (sum(w.square().sum() for w in weights.values()) + posterior.log_prior().sum()).backward()
    assert all(p.grad is not None and p.grad.any() for p in posterior.parameters())
    assert all(p.grad is None for p in template.parameters())


@every_family
def test_parameters_below_a_prefix_are_those_of_its_sites(family: MakeFamily) -> None:
    both = nn.ModuleDict({"a": nn.Linear(2, 2), "ab": nn.Linear(2, 3)})
    posterior = EnsemblePosterior(both, members=2, family=family)
    below = [posterior.parameters_below(prefix) for prefix in ("a", "ab")]
    assert {id(p) for part in below for p in part} == {id(p) for p in posterior.parameters()}
    assert not {id(p) for p in below[0]} & {id(p) for p in below[1]}
    assert posterior.parameters_below("b") == []


@every_family
def test_a_copy_is_independent(family: MakeFamily) -> None:
    both = nn.ModuleDict({"template": nn.Linear(2, 2)})
    both["posterior"] = EnsemblePosterior(both["template"], members=2, family=family)
    before = cast(EnsemblePosterior, both["posterior"]).sample()["weight"].detach().clone()
    with torch.no_grad():
        for parameter in copy.deepcopy(both).parameters():
            parameter.add_(1.0)
    assert torch.equal(cast(EnsemblePosterior, both["posterior"]).sample()["weight"], before)


# ---- errors --------------------------------------------------------------------------------------


def test_an_unknown_family_is_refused_with_the_known_ones_named() -> None:
    """Where types are checked at run time, as here, the checker is first to say so."""
    with pytest.raises(Exception, match="steni"):
        EnsemblePosterior(nn.Linear(2, 2), family="steni")  # pyright: ignore[reportArgumentType]
    said = subprocess.run(
        [sys.executable, "-c", UNKNOWN_FAMILY], capture_output=True, text=True, check=False
    ).stderr
    assert "ValueError: family: got 'steni'; allowed a class such as Particles," in said


@pytest.mark.parametrize("std", [0.0, -1.0, float("nan"), float("inf")])
def test_a_width_that_is_none_is_refused(std: float) -> None:
    with pytest.raises(ValueError, match=r"prior_std: got .*weight"):
        EnsemblePosterior(nn.Linear(2, 2), prior_std={"weight": std})
    with pytest.raises(ValueError, match="prior_scale: got"):
        EnsemblePosterior(nn.Linear(2, 2), prior_scale=std)


def test_a_template_without_parameters_is_refused() -> None:
    with pytest.raises(ValueError, match="template: got a module without parameters"):
        EnsemblePosterior(nn.Tanh())
