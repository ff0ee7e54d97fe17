from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from torch import Tensor
from torch.func import functional_call

from blocks.actor import Actor
from blocks.imagination import Imagined, imagine
from blocks.latents import (
    CategoricalLatent,
    Gaussian,
    GaussianLatent,
    Latent,
    LatentDistribution,
)
from blocks.rssm import RSSM
from blocks.types import State, Weights

ACTION, DETER, STOCH, HORIZON = 2, 4, 8, 5
FEAT = DETER + STOCH


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def start(members: int, batch: int = 6) -> State:
    """The same start states for every member."""
    state = torch.rand(batch, DETER) * 2 - 1, torch.randn(batch, STOCH)
    return State(*(x.expand(members, *x.shape) for x in state))


def make_rssm(latent: Latent | None = None) -> RSSM:
    torch.manual_seed(1)
    return RSSM(
        embed_size=3,
        action_size=ACTION,
        deter_size=DETER,
        stoch_size=STOCH,
        hidden_size=7,
        latent=latent,
    )


def make_actor() -> Actor:
    torch.manual_seed(2)
    actor = Actor(FEAT, ACTION, hidden_size=8)
    torch.nn.init.normal_(actor.output.weight, std=0.5)
    return actor


def weights_of(rssm: RSSM, members: int, *, seed: int = 3) -> Weights:
    noise = generator(seed)
    return {
        name: weight.detach() + 0.3 * torch.randn(members, *weight.shape, generator=noise)
        for name, weight in rssm.dynamics.named_parameters()
    }


def roll(
    rssm: RSSM, weights: Weights, begin: State, seed: int = 0, horizon: int = HORIZON
) -> Imagined:
    return imagine(
        lambda state, action: rssm.transition(state, action, weights),
        make_actor().sample,
        begin,
        horizon,
        action_size=ACTION,
        generator=generator(seed),
    )


def tensors(imagined: Imagined) -> tuple[Tensor, ...]:
    return (*imagined.state, imagined.action, imagined.log_prob)


# ---- the trajectory ------------------------------------------------------------------------------


@pytest.mark.parametrize("horizon", [1, HORIZON])
@pytest.mark.parametrize("latent", [GaussianLatent(), CategoricalLatent()])
def test_a_trajectory_is_the_policy_and_the_prior_step_by_step(
    latent: Latent, horizon: int
) -> None:
    rssm, actor, members, batch = make_rssm(latent), make_actor(), 3, 6
    weights, begin = weights_of(rssm, members), start(members, batch)
    out = roll(rssm, weights, begin, horizon=horizon)
    assert out.state.deter.shape == (members, horizon + 1, batch, DETER)
    assert out.state.stoch.shape == (members, horizon + 1, batch, STOCH)
    assert out.action.shape == (members, horizon, batch, ACTION)
    assert out.log_prob.shape == (members, horizon, batch)
    assert torch.equal(out.state.feat[:, 0], begin.feat)

    source = generator()
    action_noise = torch.randn(horizon, batch, ACTION, generator=source)
    state_noise = latent.noise((horizon, batch, STOCH), source)
    state = begin
    for h in range(horizon):
        sample = actor.sample(state.feat, action_noise[h])
        torch.testing.assert_close(out.action[:, h], sample.action)
        torch.testing.assert_close(out.log_prob[:, h], sample.log_prob)
        deter, prior = rssm.transition(state, sample.action, weights)
        state = State(deter, prior.rsample(state_noise[h]))
        torch.testing.assert_close(out.state.feat[:, h + 1], state.feat)


@pytest.mark.parametrize("latent", [GaussianLatent(), CategoricalLatent()])
def test_identical_members_have_identical_trajectories_and_others_differ(
    latent: Latent,
) -> None:
    """Common random numbers: members differ by their weights alone."""
    rssm = make_rssm(latent)
    same = {
        name: weight.detach().expand(3, *weight.shape)
        for name, weight in rssm.dynamics.named_parameters()
    }
    alike = tensors(roll(rssm, same, start(3)))
    unlike = tensors(roll(rssm, weights_of(rssm, 3), start(3)))
    for x in alike:
        torch.testing.assert_close(x[1:], x[:1].expand_as(x[1:]))
    for x in unlike:
        assert not torch.allclose(x[0, -1], x[1, -1])


def test_noise_is_independent_across_start_states_and_steps() -> None:
    """Five standard errors, 1 / sqrt(n), of the correlations of the recovered noise."""
    batch, horizon = 500, 2
    mean = torch.zeros(1, batch, STOCH)

    def transition(state: State, action: Tensor) -> tuple[Tensor, LatentDistribution]:
        return state.deter, Gaussian(mean, torch.ones_like(mean))

    def policy(feat: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        return noise.expand(1, -1, -1), feat[..., 0]

    out = imagine(
        transition, policy, start(1, batch), horizon, action_size=ACTION, generator=generator()
    )
    noise = torch.cat([out.action[0], out.state.stoch[0, 1:]], -1)  # [horizon, batch, size]
    table = noise.movedim(1, -1).flatten(0, 1)  # every pair of step and dimension, over the batch
    error = (torch.corrcoef(table) - torch.eye(len(table))).abs().max()
    assert error < 5 / batch**0.5
    assert abs(table.mean()) < 5 / table.numel() ** 0.5
    assert abs(table.var() - 1) < 5 * (2 / table.numel()) ** 0.5


def test_equal_start_states_have_futures_of_their_own() -> None:
    rssm, one = make_rssm(), start(2, 1)
    begin = State(*(x.expand(-1, 4, -1) for x in one))
    out = roll(rssm, weights_of(rssm, 2), begin)
    assert not torch.allclose(out.state.stoch[0, 1, 0], out.state.stoch[0, 1, 1])
    assert not torch.allclose(out.action[0, 0, 0], out.action[0, 0, 1])


def test_a_member_drives_its_whole_trajectory_by_itself() -> None:
    """What the others' weights or starts are changes nothing for it, and their number neither."""
    rssm = make_rssm()
    weights, others = weights_of(rssm, 3), weights_of(rssm, 3, seed=9)
    mixed = {name: torch.cat([value[:1], others[name][1:]]) for name, value in weights.items()}
    begin = start(3)
    elsewhere = State(*(torch.cat([x[:1], x[1:] + 1.0]) for x in begin))
    alone = {name: value[:1] for name, value in weights.items()}
    reference = tensors(roll(rssm, weights, begin))
    for changed in (
        roll(rssm, mixed, begin),
        roll(rssm, weights, elsewhere),
        roll(rssm, alone, State(*(x[:1] for x in begin))),
    ):
        for x, expected in zip(tensors(changed), reference, strict=True):
            torch.testing.assert_close(x[0], expected[0])


def test_the_generator_decides_everything() -> None:
    rssm, begin = make_rssm(), start(2)
    weights = weights_of(rssm, 2)
    one, again, other = (tensors(roll(rssm, weights, begin, seed)) for seed in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(one, again, strict=True))
    assert not torch.equal(one[2], other[2])


# ---- gradients -----------------------------------------------------------------------------------


class LinearWorld(NamedTuple):
    """``deter' = A deter + B action`` for each member; ``stoch`` is a copy of it without noise."""

    A: Tensor
    B: Tensor

    def __call__(self, state: State, action: Tensor) -> tuple[Tensor, LatentDistribution]:
        deter = state.deter @ self.A + action @ self.B
        return deter, Gaussian(deter, torch.zeros_like(deter))


def linear_world(members: int) -> tuple[LinearWorld, State]:
    noise = generator(5)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=noise, dtype=torch.float64)

    world = LinearWorld(0.4 * draw(members, DETER, DETER), draw(members, ACTION, DETER))
    deter = draw(1, 3, DETER).expand(members, -1, -1)
    return world, State(deter, deter)


def last_reward(world: LinearWorld, begin: State, policy: Callable, horizon: int = 4) -> Tensor:
    out = imagine(world, policy, begin, horizon, action_size=ACTION, generator=generator())
    return torch.sin(out.state.feat[:, -1]).sum()


def test_the_gradient_of_a_last_reward_is_that_of_finite_differences() -> None:
    """For a policy that ignores where it is: then the gradient is the whole derivative."""
    world, begin = linear_world(2)

    def reward(bias: Tensor) -> Tensor:
        def policy(feat: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
            action = torch.tanh(bias + 0.3 * noise.double()).expand(2, -1, -1)
            return action, action.sum(-1)

        return last_reward(world, begin, policy)

    bias = torch.tensor([0.2, -0.5], dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(reward(bias), bias)
    assert gradient.abs().min() > 1e-3
    assert torch.autograd.gradcheck(reward, [bias])


def test_feedback_is_differentiated_with_what_the_policy_sees_held_fixed() -> None:
    """Finite differences of the same rollout, in which the policy is shown the old features."""
    world, begin = linear_world(2)
    seen: list[Tensor] = []

    def reward(gain: Tensor, shown: list[Tensor] | None = None) -> Tensor:
        replayed = iter(shown or [])

        def policy(feat: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
            feat = next(replayed) if shown else feat
            if not shown:
                seen.append(feat)
            action = torch.tanh(feat @ gain + 0.3 * noise.double())
            return action, action.sum(-1)

        return last_reward(world, begin, policy)

    gain = 0.3 * torch.randn(2 * DETER, ACTION, generator=generator(7)).double()
    gain.requires_grad_()
    (gradient,) = torch.autograd.grad(reward(gain), gain)
    shown = list(seen)
    assert len(shown) == 4
    assert torch.autograd.gradcheck(lambda g: reward(g, shown), [gain])
    (expected,) = torch.autograd.grad(reward(gain, shown), gain)
    torch.testing.assert_close(gradient, expected)
    # Without holding them fixed the derivative is another one.
    step = 1e-6 * torch.ones_like(gain)
    with torch.no_grad():
        whole = (reward(gain + step) - reward(gain - step)) / 2e-6
    assert abs(whole - gradient.sum()) > 1e-3


def test_a_last_reward_reaches_every_parameter_of_the_actor() -> None:
    rssm, actor = make_rssm(), make_actor()
    weights = weights_of(rssm, 3)
    out = imagine(
        lambda state, action: rssm.transition(state, action, weights),
        actor.sample,
        start(3),
        HORIZON,
        action_size=ACTION,
        generator=generator(),
    )
    out.state.feat[:, -1].square().sum().backward()
    for parameter in actor.parameters():
        assert parameter.grad is not None
        assert parameter.grad.any()


def test_the_policy_sees_detached_features_and_its_actions_keep_their_history() -> None:
    rssm, actor, saw = make_rssm(), make_actor(), []

    def policy(feat: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        saw.append(feat.requires_grad)
        return actor.sample(feat, noise)

    begin = State(*(x.clone().requires_grad_() for x in start(2)))
    weights = weights_of(rssm, 2)
    out = imagine(
        lambda state, action: rssm.transition(state, action, weights),
        policy,
        begin,
        HORIZON,
        action_size=ACTION,
    )
    assert saw == [False] * HORIZON
    assert all(x.requires_grad for x in tensors(out))
    # Start states have a gradient through the dynamics and none through the policy.
    (by_state,) = torch.autograd.grad(out.state.deter[:, -1].sum(), begin.deter, retain_graph=True)
    assert by_state.any()
    (by_action,) = torch.autograd.grad(out.action.sum(), begin.deter, allow_unused=True)
    assert by_action is None or not by_action.any()


def test_double_precision() -> None:
    rssm, actor = make_rssm().double(), make_actor().double()
    begin = State(*(x.double() for x in start(2)))
    weights = {name: value.double() for name, value in weights_of(rssm.float(), 2).items()}
    out = imagine(
        lambda state, action: rssm.double().transition(state, action, weights),
        actor.sample,
        begin,
        2,
        action_size=ACTION,
    )
    assert all(x.dtype == torch.float64 for x in tensors(out))


# ---- errors --------------------------------------------------------------------------------------


@pytest.mark.parametrize("horizon", [0, -1])
def test_a_horizon_without_a_step_is_refused(horizon: int) -> None:
    rssm = make_rssm()
    with pytest.raises(ValueError, match=f"horizon: got {horizon}"):
        roll(rssm, weights_of(rssm, 1), start(1), horizon=horizon)


def test_a_start_without_a_member_axis_is_refused() -> None:
    rssm = make_rssm()
    with pytest.raises(ValueError, match=r"start: .*\[member, batch, deter\]"):
        roll(rssm, weights_of(rssm, 1), State(*(x[0] for x in start(1))))


def test_a_functional_actor_is_a_policy_too() -> None:
    """Any callable will do: parameters can be handed in from outside."""
    rssm, actor = make_rssm(), make_actor()
    parameters = {name: value.detach() for name, value in actor.named_parameters()}

    def policy(feat: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        mean, std = functional_call(actor, parameters, (feat,))
        return torch.tanh(mean + std * noise), mean[..., 0]

    weights, begin = weights_of(rssm, 2), start(2)
    out = imagine(
        lambda state, action: rssm.transition(state, action, weights),
        policy,
        begin,
        HORIZON,
        action_size=ACTION,
        generator=generator(),
    )
    torch.testing.assert_close(out.action, roll(rssm, weights, begin).action)
