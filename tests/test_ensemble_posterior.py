"""The parameter posterior, above all against the one case whose answer is known exactly.

Linear-Gaussian model: ``y = X w + noise``, ``noise ~ N(0, s^2)``, ``w ~ N(m, t^2 I)``. The exact
posterior is ``N(A^-1 b, A^-1)`` with ``A = X'X / s^2 + I / t^2`` and ``b = X'y / s^2 + m / t^2``.
A particle that minimises its randomised objective (targets perturbed by fresh noise, prior
centred on its own anchor) is an exact draw from it.
"""

import copy
import math
from typing import Any, NamedTuple

import pyro
import pytest
import torch
import torch.distributions as td
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from blocks.posteriors.ensemble import EnsemblePosterior, MakeFamily, select
from blocks.posteriors.particles import Particles
from blocks.posteriors.point import Point

MEMBERS = 4000


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


class Nested(nn.Module):
    """Parameters of several shapes, with dots in their names, stored ``[in, out]``."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.ParameterDict(
            {"weight": torch.randn(4, 3) * 0.1, "bias": torch.randn(1, 3) * 0.1}
        )
        self.scale = nn.Parameter(torch.ones(2))


def moved(template: nn.Module, **options: object) -> EnsemblePosterior:
    """A posterior whose particles have left their anchors."""
    posterior = EnsemblePosterior(template, **options)  # pyright: ignore[reportArgumentType]
    with torch.no_grad():
        for offset in posterior.parameters():
            offset.add_(0.3 * torch.randn_like(offset))
    return posterior


# ---- exact in the linear-Gaussian case -----------------------------------------------------------


class LinearProblem(NamedTuple):
    rows: int
    prior_std: float
    noise_std: float
    prior_mean: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def data(self) -> tuple[Tensor, Tensor]:
        """Inputs ``[rows, 3]`` with unequal, correlated columns, and targets ``[rows]``."""
        generator = torch.Generator().manual_seed(self.rows)
        inputs, noise = (
            torch.randn(self.rows, size, generator=generator, dtype=torch.float64)
            for size in (3, 1)
        )
        inputs = inputs @ torch.tensor([[1.0, 0.5, 0], [0, 0.6, 0.2], [0, 0, 0.3]]).double()
        targets = inputs @ torch.tensor([0.7, -1.2, 0.4]).double() + self.noise_std * noise[:, 0]
        return inputs, targets

    def exact(self) -> tuple[Tensor, Tensor]:
        """Posterior mean ``[3]`` and precision ``[3, 3]``."""
        inputs, targets = self.data()
        precision = inputs.T @ inputs / self.noise_std**2 + torch.eye(3) / self.prior_std**2
        mean = torch.tensor(self.prior_mean, dtype=torch.float64)
        linear = inputs.T @ targets / self.noise_std**2 + mean / self.prior_std**2
        return torch.linalg.solve(precision, linear), precision


PROBLEMS = {
    "balanced": LinearProblem(rows=10, prior_std=0.5, noise_std=1.0),
    "data speak": LinearProblem(rows=200, prior_std=2.0, noise_std=0.5),
    "one direction unseen": LinearProblem(rows=2, prior_std=0.7, noise_std=0.3),
    "a prior mean": LinearProblem(20, 0.3, 1.0, prior_mean=(1.0, -2.0, 0.5)),
}


def particles(problem: LinearProblem, *, anchored: bool = True, perturbed: bool = True) -> Tensor:
    """The minimisers ``[member, 3]``, found through the block's own ``sample`` and ``log_prior``.

    One Newton step on the offsets: the objective is quadratic and members do not interact, so the
    step is exact, which the gradient afterwards confirms.
    """
    inputs, targets = problem.data()
    template = nn.Linear(3, 1, bias=False)
    with torch.no_grad():
        template.weight.copy_(torch.tensor([problem.prior_mean]))
    posterior = EnsemblePosterior(
        template.double(), members=MEMBERS, prior_std={"weight": problem.prior_std}
    ).double()
    if not anchored:
        posterior.anchors()["weight"].zero_()
    targets = targets.expand(MEMBERS, -1)
    if perturbed:
        targets = targets + problem.noise_std * torch.randn(targets.shape, dtype=torch.float64)
    (offset,) = posterior.parameters()

    def gradient() -> Tensor:
        prediction = posterior.sample()["weight"].squeeze(1) @ inputs.T
        log_likelihood = -0.5 * ((targets - prediction) / problem.noise_std).square().sum(-1)
        objective = -(log_likelihood + posterior.log_prior()).sum()
        (slope,) = torch.autograd.grad(objective, offset, create_graph=True)
        return slope.squeeze(1)

    slope = gradient()
    hessian = torch.stack(
        [torch.autograd.grad(slope[:, i].sum(), offset, retain_graph=True)[0] for i in range(3)], -1
    ).squeeze(1)
    with torch.no_grad():
        offset.sub_(torch.linalg.solve(hessian, slope).unsqueeze(1))
    assert gradient().abs().max() < 1e-8
    return posterior.sample()["weight"].squeeze(1).detach()


def errors(problem: LinearProblem, sample: Tensor) -> tuple[float, float]:
    """Largest errors of the sample's mean and covariance, in standard errors.

    With ``A = L L'`` the whitened ``z = L'(w - mean)`` of exact posterior draws is ``N(0, I)``.
    For n of them the mean of a component has variance ``1 / n``, a second moment on the diagonal
    ``2 / n``, and one off the diagonal ``1 / n``.
    """
    mean, precision = problem.exact()
    white = (sample - mean) @ torch.linalg.cholesky(precision)
    count = len(sample)
    identity = torch.eye(3, dtype=torch.float64)
    moments = white.T @ white / count
    of_mean = white.mean(0).abs() * math.sqrt(count)
    of_covariance = (moments - identity).abs() * (count / (1 + identity)).sqrt()
    return float(of_mean.max()), float(of_covariance.max())


@pytest.mark.parametrize("problem", PROBLEMS.values(), ids=PROBLEMS.keys())
def test_particles_are_samples_of_the_exact_posterior(problem: LinearProblem) -> None:
    """Within 4.5 standard errors: of nine Gaussian figures one is beyond in 1 of 16,000 draws."""
    of_mean, of_covariance = errors(problem, particles(problem))
    assert of_mean < 4.5
    assert of_covariance < 4.5


@pytest.mark.parametrize("problem", PROBLEMS.values(), ids=PROBLEMS.keys())
def test_the_particles_predictive_distribution_is_exact(problem: LinearProblem) -> None:
    """Mean and variance of new targets, noise included, near the data and far from them."""
    mean, precision = problem.exact()
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(6, 3, generator=generator, dtype=torch.float64)
    inputs[3:] *= 30.0
    drawn = particles(problem) @ inputs.T
    of_weights = (inputs @ torch.linalg.inv(precision) * inputs).sum(-1)
    exact = of_weights + problem.noise_std**2
    variance = drawn.var(0) + problem.noise_std**2
    count = len(drawn)
    assert ((drawn.mean(0) - inputs @ mean).abs() < 4.5 * (of_weights / count).sqrt()).all()
    assert ((variance - exact).abs() < 4.5 * of_weights * (2 / count) ** 0.5).all()


@pytest.mark.parametrize("problem", PROBLEMS.values(), ids=PROBLEMS.keys())
def test_without_anchors_the_particles_collapse(problem: LinearProblem) -> None:
    """Negative control: neither half of the randomisation is enough, and without both no spread."""
    _, no_anchors = errors(problem, particles(problem, anchored=False))
    _, no_perturbation = errors(problem, particles(problem, perturbed=False))
    neither = particles(problem, anchored=False, perturbed=False)
    if problem is not PROBLEMS["data speak"]:  # 200 rows leave the prior little to say
        assert no_anchors > 9
    assert no_perturbation > 9
    assert neither.std(0).max() < 1e-6


def test_without_anchors_nothing_is_uncertain_in_a_direction_never_seen() -> None:
    problem = PROBLEMS["one direction unseen"]
    inputs, _ = problem.data()
    unseen = torch.linalg.svd(inputs).Vh[2]
    honest, collapsed = (particles(problem, anchored=a) @ unseen for a in (True, False))
    assert float(honest.std()) == pytest.approx(problem.prior_std, rel=4.5 / math.sqrt(2 * MEMBERS))
    assert float(collapsed.std()) < 1e-9


# ---- the prior -----------------------------------------------------------------------------------


@given(st.integers(0, 10_000), st.floats(0.05, 5.0))
def test_log_prior_is_the_gaussian_density_relative_to_its_mode(seed: int, scale: float) -> None:
    torch.manual_seed(seed)
    template = Nested().double()
    std = {"inner.weight": scale, "inner.bias": 0.3, "scale": 2.0}
    posterior = moved(template, members=3, prior_std=std).double()
    anchors, sample = posterior.anchors(), posterior.sample()
    expected, with_constants = torch.zeros(3).double(), torch.zeros(3).double()
    for name, mean in template.named_parameters():
        away = (sample[name] - mean - anchors[name]) / torch.tensor(std[name]).double()
        expected -= 0.5 * away.square().flatten(1).sum(-1)
        law = td.Normal(mean + anchors[name], std[name])
        log_ratio = law.log_prob(sample[name]) - law.log_prob(mean + anchors[name])
        with_constants += log_ratio.flatten(1).sum(-1)
    torch.testing.assert_close(posterior.log_prior(), expected.detach(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(posterior.log_prior(), with_constants.detach(), rtol=1e-5, atol=1e-5)


def test_log_prior_is_zero_at_the_anchors_where_the_particles_begin() -> None:
    posterior = EnsemblePosterior(Nested(), members=4)
    torch.testing.assert_close(posterior.log_prior(), torch.zeros(4))
    sample, anchors = posterior.sample(), posterior.anchors()
    for name, mean in Nested().named_parameters():
        assert sample[name].shape == (4, *mean.shape)
    for offset, anchor in zip(posterior.parameters(), anchors.values(), strict=True):
        assert torch.equal(offset, anchor)


def test_log_prior_pulls_each_particle_to_its_own_anchor() -> None:
    posterior = moved(Nested(), members=3)
    posterior.log_prior()[1].backward()
    for offset, anchor in zip(posterior.parameters(), posterior.anchors().values(), strict=True):
        assert offset.grad is not None
        assert not offset.grad[[0, 2]].any()
        assert (offset.grad[1] * (anchor[1] - offset[1]) >= 0).all()
        assert offset.grad[1].any()


def test_anchors_are_draws_from_the_prior() -> None:
    """Five standard errors of a mean and of a standard deviation."""
    count = 2000
    stds = {"inner.weight": 0.4, "inner.bias": 1.5, "scale": 0.1}
    posterior = EnsemblePosterior(Nested(), members=count, prior_std=stds)
    for name, anchor in posterior.anchors().items():
        flat, std = anchor.flatten(), stds[name]
        assert abs(flat.mean()) < 5 * std / math.sqrt(flat.numel())
        assert abs(flat.std() - std) < 5 * std / math.sqrt(2 * flat.numel())


def test_prior_scale_is_in_units_of_one_over_the_root_of_fan_in() -> None:
    """For weights stored ``[in, out]``, as those of the transition are."""
    posterior = EnsemblePosterior(Nested(), members=2000, prior_scale=0.6)
    std = posterior.anchors()["inner.weight"].std()
    assert float(std) == pytest.approx(0.6 / math.sqrt(4), rel=0.05)


def test_spread_is_in_prior_deviations() -> None:
    """Anchors of K members lie on average sqrt(1 - 1/K) deviations from their mean."""
    posterior = EnsemblePosterior(nn.Linear(50, 50), members=5, prior_scale=0.1)
    assert posterior.spread() == pytest.approx(math.sqrt(1 - 1 / 5), rel=0.05)
    with torch.no_grad():
        for offset in posterior.parameters():
            offset.copy_(offset[:1].expand_as(offset))
    assert posterior.spread() == pytest.approx(0.0, abs=1e-6)


# ---- sampling ------------------------------------------------------------------------------------


def test_a_sample_is_the_template_plus_offsets_for_the_first_members() -> None:
    template = Nested()
    posterior = moved(template, members=4)
    all_of_them, two = posterior.sample(), posterior.sample(2)
    assert list(all_of_them) == [name for name, _ in template.named_parameters()]
    for name in all_of_them:
        assert torch.equal(two[name], all_of_them[name][:2])
        assert torch.equal(posterior.anchors(2)[name], posterior.anchors()[name][:2])
    assert torch.equal(posterior.log_prior(2), posterior.log_prior()[:2])


def test_the_prior_follows_the_template() -> None:
    template = Nested()
    posterior = moved(template, members=2)
    before, density = posterior.sample(), posterior.log_prior()
    with torch.no_grad():
        template.scale.add_(1.0)
    torch.testing.assert_close(posterior.sample()["scale"], before["scale"] + 1.0)
    assert torch.equal(posterior.sample()["inner.bias"], before["inner.bias"])
    assert torch.equal(posterior.log_prior(), density)


def test_gradients_reach_the_particles_and_not_the_template() -> None:
    template = Nested()
    posterior = moved(template, members=3)
    total = sum(value.square().sum() for value in posterior.sample().values())
    (total + posterior.log_prior().sum()).backward()
    assert all(weight.grad is None for weight in template.parameters())
    for offset in posterior.parameters():
        assert offset.grad is not None
        assert offset.grad.flatten(1).any(-1).all()


def test_the_templates_parameters_are_not_the_posteriors() -> None:
    template = Nested()
    own = list(EnsemblePosterior(template).parameters())
    assert not any(a is b for a in own for b in template.parameters())


def test_nothing_is_written_to_pyros_global_store() -> None:
    before = sorted(pyro.get_param_store().keys())
    posterior = moved(Nested(), members=3)
    posterior.sample()
    posterior.log_prior().sum().backward()
    assert sorted(pyro.get_param_store().keys()) == before


def test_sites_are_named_and_independent_over_members() -> None:
    template = Nested()
    posterior = moved(template, members=3)
    trace = pyro.poutine.trace(posterior.model).get_trace(3)
    trace.compute_log_prob()
    for name, mean in template.named_parameters():
        site: dict[str, Any] = dict(trace.nodes[name])
        assert site["value"].shape == (3, *mean.shape)
        assert site["log_prob"].shape == (3,)
        assert [frame.name for frame in site["cond_indep_stack"]] == ["member"]


def test_log_prior_has_no_loop_over_members() -> None:
    """Pyro's sites are as many as the template's parameters, whatever the number of members."""
    for members in (1, 7):
        posterior = EnsemblePosterior(Nested(), members=members)
        trace = pyro.poutine.trace(posterior.model).get_trace(members)
        assert len(trace.stochastic_nodes) == 3 + 1  # the plate counts as one


def test_select_takes_the_prefix_off() -> None:
    weights = {"cost.a": torch.ones(1), "cost.b.c": torch.ones(2), "costs.a": torch.ones(3)}
    chosen = select(weights, "cost")
    assert {name: len(value) for name, value in chosen.items()} == {"a": 1, "b.c": 2}


# ---- families, state, errors ---------------------------------------------------------------------


def test_the_point_family_has_no_prior() -> None:
    posterior = moved(Nested(), members=3, family=Point)
    assert torch.equal(posterior.log_prior(), torch.zeros(3))
    sample = posterior.sample()["inner.weight"]
    assert sample.shape == (3, 4, 3)
    assert not torch.equal(sample[0], sample[1])


@pytest.mark.parametrize("family", [Particles, Point])
def test_state_dict_round_trip(family: MakeFamily) -> None:
    template = Nested()
    one, two = (moved(template, members=3, family=family) for _ in range(2))
    assert not torch.equal(one.sample()["scale"], two.sample()["scale"])
    two.load_state_dict(one.state_dict())
    for name, value in one.sample().items():
        assert torch.equal(two.sample()[name], value)
        assert torch.equal(two.anchors()[name], one.anchors()[name])
    assert torch.equal(two.log_prior(), one.log_prior())


def test_a_copy_has_a_template_of_its_own() -> None:
    both = nn.ModuleDict({"template": nn.Linear(2, 2)})
    both["posterior"] = EnsemblePosterior(both["template"], members=2)
    clone = copy.deepcopy(both)
    with torch.no_grad():
        for weight in clone["template"].parameters():
            weight.zero_()
    posterior, copied = both["posterior"], clone["posterior"]
    assert isinstance(posterior, EnsemblePosterior)
    assert isinstance(copied, EnsemblePosterior)
    assert torch.equal(copied.sample()["weight"], copied.anchors()["weight"])
    assert not torch.equal(posterior.sample()["weight"], posterior.anchors()["weight"])


@pytest.mark.parametrize("members", [0, -1])
def test_an_ensemble_without_members_is_refused(members: int) -> None:
    with pytest.raises(ValueError, match=f"members: got {members}; allowed 1 and above"):
        EnsemblePosterior(nn.Linear(2, 2), members=members)


def test_an_unknown_family_is_refused_with_the_known_ones_named() -> None:
    with pytest.raises(Exception, match="partikles"):
        EnsemblePosterior(nn.Linear(2, 2), family="partikles")  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("prior_scale", [0.0, -0.5])
def test_a_prior_without_width_is_refused(prior_scale: float) -> None:
    with pytest.raises(ValueError, match=f"prior_scale: got {prior_scale}"):
        EnsemblePosterior(nn.Linear(2, 2), prior_scale=prior_scale)


@pytest.mark.parametrize("ask", [0, -1, 4])
def test_more_members_than_there_are_cannot_be_drawn(ask: int) -> None:
    posterior = EnsemblePosterior(nn.Linear(2, 2), members=3)
    for method in (posterior.sample, posterior.anchors, posterior.log_prior):
        with pytest.raises(ValueError, match=f"members: got {ask}; allowed 1 to 3"):
            method(ask)
