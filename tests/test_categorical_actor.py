"""A policy over discrete actions: how often it chooses each, and which gradients it has."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare
from torch import Tensor

from blocks import RSSM, CategoricalActor, imagine, member_gradients, stack_parameters
from blocks.types import State

FEAT, ACTION = 5, 4


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def trained(seed: int = 0, width: float = 0.6, uniform: float = 0.01) -> CategoricalActor:
    """An actor whose output layer no longer is as it began."""
    generator = torch.Generator().manual_seed(seed)
    actor = CategoricalActor(FEAT, ACTION, hidden_size=8, uniform=uniform)
    with torch.no_grad():
        for parameter in actor.output.parameters():
            parameter.copy_(width * torch.randn(parameter.shape, generator=generator))
    return actor


def chosen(action: Tensor) -> Tensor:
    return action.argmax(-1)


# ---- what it chooses -------------------------------------------------------------------------


def test_the_first_policy_is_uniform_and_its_mode_the_first_action() -> None:
    actor, feat = CategoricalActor(FEAT, ACTION, hidden_size=8), torch.randn(50, FEAT)
    torch.testing.assert_close(actor(feat), torch.full((50, ACTION), 1 / ACTION))
    assert torch.equal(actor.mode(feat), torch.tensor([1.0, -1, -1, -1]).expand(50, -1))


@given(st.integers(0, 10_000), st.floats(0.0, 30.0), st.sampled_from([0.0, 0.3, 1.0]))
def test_actions_are_exact_one_hots_with_their_probability(
    seed: int, width: float, scale: float
) -> None:
    actor = trained(seed, width)
    generator = torch.Generator().manual_seed(seed)
    feat = torch.randn(20, FEAT, generator=generator)
    noise = 3 * torch.randn(20, ACTION, generator=generator)  # also far in the tails
    sample = actor.sample(feat, noise, scale=scale)
    index = chosen(sample.action).unsqueeze(-1)
    assert torch.equal(sample.action, torch.full((20, ACTION), -1.0).scatter(1, index, 1.0))
    probs = scale * actor(feat) + (1 - scale) * (actor.mode(feat) + 1) / 2
    torch.testing.assert_close(sample.log_prob, probs.gather(1, index)[:, 0].log())
    assert (sample.log_prob.exp() * scale >= scale * scale * 0.0099 / ACTION).all()
    for output in (sample.action, sample.log_prob):
        gradients = torch.autograd.grad(output.sum(), actor.output.bias, retain_graph=True)
        assert gradients[0].isfinite().all()


def p_value(actor: CategoricalActor, noise: Tensor, probs: Tensor, scale: float = 1.0) -> float:
    feat = torch.ones(FEAT)
    counts = chosen(actor.sample(feat, noise, scale=scale).action).bincount(minlength=ACTION)
    return float(chisquare(counts.double(), (probs * len(noise)).detach().double()).pvalue)


@pytest.mark.parametrize("scale", [1.0, 0.25])
def test_frequencies_are_the_probabilities(scale: float) -> None:
    actor, feat = trained().double(), torch.ones(FEAT, dtype=torch.float64)
    noise = torch.randn(40_000, ACTION)
    probs = actor(feat)
    assert probs.min() < 0.15  # far from uniform
    mode = (actor.mode(feat) + 1) / 2
    expected = scale * probs + (1 - scale) * mode
    actor.float()
    assert p_value(actor, noise, expected, scale) > 0.01
    # Controls: another distribution, and noise that is no longer standard.
    assert p_value(actor, noise, 0.95 * expected + 0.05 / ACTION, scale) < 1e-6
    assert p_value(actor, 1.3 * noise, expected, scale) < 1e-6


def test_the_same_noise_gives_the_same_action() -> None:
    actor, feat, noise = trained(), torch.randn(30, FEAT), torch.randn(30, ACTION)
    before = torch.get_rng_state()
    one, two = (actor.sample(feat, noise) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(one.action, two.action)
    other = actor.sample(feat, torch.randn(30, ACTION))
    assert not torch.equal(one.action, other.action)


def test_the_mode_is_the_most_probable_action_and_the_sample_at_scale_zero() -> None:
    actor, feat = trained(width=2.0), torch.randn(200, FEAT)
    mode = actor.mode(feat)
    assert torch.equal(chosen(mode), actor(feat).argmax(-1))
    assert len(chosen(mode).unique()) > 1
    assert set(mode.unique().tolist()) == {-1.0, 1.0}
    sample = actor.sample(feat, torch.randn(200, ACTION), scale=0.0)
    assert torch.equal(sample.action, mode)
    assert not sample.log_prob.any()


@pytest.mark.parametrize("leading", [(), (2,), (2, 3, 4)])
def test_any_leading_axes_and_noise_that_members_share(leading: tuple[int, ...]) -> None:
    feat, noise = torch.randn(*leading, FEAT), torch.randn(*leading[-1:], ACTION)
    sample = trained().sample(feat, noise)
    assert sample.action.shape == (*leading, ACTION)
    assert sample.log_prob.shape == leading


# ---- gradients -------------------------------------------------------------------------------


@given(st.integers(0, 10_000), st.sampled_from([0.5, 1.0]))
def test_the_gradient_of_an_action_is_that_of_the_probabilities(seed: int, scale: float) -> None:
    """d a_i / d logit_j = 2 (1 - u) s_i (1[i = j] - s_j) for the softmax s, whatever was chosen."""
    actor = trained(seed).double()
    feat, noise = (torch.randn(n, dtype=torch.float64) for n in (FEAT, ACTION))

    def action(bias: Tensor) -> Tensor:
        class Wrapped(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.actor = actor

            def forward(self) -> Tensor:
                return self.actor.sample(feat, noise, scale=scale).action

        return torch.func.functional_call(Wrapped(), {"actor.output.bias": bias}, ())

    softmax = (actor(feat) - 0.01 / ACTION) / 0.99
    expected = 2 * scale * 0.99 * (softmax.diag() - softmax.outer(softmax))
    jacobian = torch.autograd.functional.jacobian(action, actor.output.bias.detach())
    torch.testing.assert_close(jacobian, expected.detach())


def test_ascending_a_linear_reward_finds_the_best_action() -> None:
    """Exact for a reward that is linear in the action; the control descends."""
    reward, chances = torch.tensor([0.0, -1.0, 2.0, 1.0]), []
    for sign in (1, -1):
        actor, feat = CategoricalActor(FEAT, ACTION, hidden_size=8), torch.randn(32, FEAT)
        adam = torch.optim.Adam(actor.parameters(), 0.05)
        for _ in range(60):
            action = actor.sample(feat, torch.randn(32, ACTION)).action
            adam.zero_grad()
            (-sign * (action * reward).sum(-1).mean()).backward()
            adam.step()
        chances.append(actor(feat)[:, 2].min().item())
    assert chances[0] > 0.95
    assert chances[1] < 0.05


def test_the_gradient_of_log_prob_is_that_of_the_negative_entropy() -> None:
    """The control, log p of the chosen action, has none on average: no entropy bonus."""
    actor, noise = trained().double(), torch.randn(20_000, ACTION, dtype=torch.float64)
    feat = torch.ones(FEAT, dtype=torch.float64)
    bias, probs = actor.output.bias, actor(feat)
    (expected,) = torch.autograd.grad((probs * probs.log()).sum(), bias, retain_graph=True)
    sample = actor.sample(feat, noise)
    assert abs(sample.log_prob.mean() - (probs * probs.log()).sum()) < 0.03
    for rows in (slice(1), slice(None)):  # of one action, and so of their mean
        value = sample.log_prob[rows].mean()
        (gradient,) = torch.autograd.grad(value, bias, retain_graph=True)
        torch.testing.assert_close(gradient, expected)
    plain = probs.log()[chosen(sample.action)].mean()
    (without,) = torch.autograd.grad(plain, bias)
    assert without.norm() < 0.1 * expected.norm()


# ---- copies of the weights -------------------------------------------------------------------


@given(st.integers(0, 10_000), st.integers(1, 4), st.integers(1, 3), st.integers(1, 3))
def test_stacked_weights_are_separate_modules(
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
            alone = trained().double()
            alone.load_state_dict({name: copy[k * groups + g] for name, copy in copies.items()})
            rows = slice(g * part, (g + 1) * part)
            expected = alone.sample(feat[k, rows], noise[k, rows])
            assert torch.equal(sample.action[k, rows], expected.action)
            torch.testing.assert_close(sample.log_prob[k, rows], expected.log_prob)


def test_members_gradients_in_imagination_add_up_to_the_actor_s() -> None:
    """Through the dynamics; a state at the end depends on the policy by its actions alone."""
    members, rssm = 3, RSSM(embed_size=4, action_size=ACTION, deter_size=3, stoch_size=2)
    actor = CategoricalActor(5, ACTION, hidden_size=8)
    torch.nn.init.normal_(actor.output.weight, std=0.5)
    start = State(*(torch.randn(1, 6, size).expand(members, -1, -1) for size in (3, 2)))

    def final(**weights: object) -> Tensor:
        imagined = imagine(
            rssm.transition,
            lambda feat, noise: actor.sample(feat, noise, **weights),  # pyright: ignore[reportArgumentType]
            start,
            4,
            action_size=ACTION,
            generator=torch.Generator().manual_seed(0),
        )
        return imagined.state.feat[:, -1].sum((1, 2))

    copies = stack_parameters(actor, members)
    rows = member_gradients(copies, final(weights=copies))[0]
    gradients = torch.autograd.grad(final().sum(), list(actor.parameters()))
    whole = torch.cat([gradient.flatten() for gradient in gradients])
    assert whole.norm() > 1e-3
    torch.testing.assert_close(rows.sum(0), whole, rtol=1e-4, atol=1e-5)


# ---- arguments and state ---------------------------------------------------------------------


def test_a_wrong_argument_is_named() -> None:
    for uniform in (0.0, 1.0, -0.1):
        with pytest.raises(ValueError, match=rf"uniform: got {uniform}; allowed in \(0, 1\)"):
            CategoricalActor(FEAT, ACTION, uniform=uniform)
    for scale in (-0.1, 1.5):
        with pytest.raises(ValueError, match=rf"scale: got {scale}; allowed in \[0, 1\]"):
            trained().sample(torch.zeros(FEAT), torch.zeros(ACTION), scale=scale)
    copies = stack_parameters(trained(), 2 * 3)
    with pytest.raises(ValueError, match="weights: got 6 copies"):
        trained().sample(torch.randn(2, 4, FEAT), torch.randn(4, ACTION), weights=copies)


def test_state_dict_round_trip() -> None:
    one, two, feat = trained(1), trained(2), torch.randn(3, FEAT)
    assert not torch.equal(one(feat), two(feat))
    two.load_state_dict(one.state_dict())
    assert torch.equal(one(feat), two(feat))
