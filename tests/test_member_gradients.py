"""One backward pass gives the gradients of as many passes as there are members."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from blocks import (
    RSSM,
    Actor,
    EnsemblePosterior,
    State,
    imagine,
    member_gradients,
    stack_parameters,
)

FEAT, ACTION = 12, 3


def actor(seed: int) -> Actor:
    """With an output that is not zero, or most gradients would be."""
    torch.manual_seed(seed)
    network = Actor(FEAT, ACTION, hidden_size=16).double()
    nn.init.normal_(network.output.weight)
    return network


@given(st.integers(0, 1000), st.integers(1, 5))
def test_copies_act_as_the_actor(seed: int, members: int) -> None:
    network = actor(seed)
    feat = torch.randn(members, 7, FEAT, dtype=torch.float64)
    noise = torch.randn(7, ACTION, dtype=torch.float64)
    one = network.sample(feat, noise)
    two = network.sample(feat, noise, weights=stack_parameters(network, members))
    torch.testing.assert_close(one, two)


def test_each_copy_is_its_members() -> None:
    network, members = actor(0), 3
    stacked = stack_parameters(network, members)
    with torch.no_grad():
        stacked["output.bias"][1] += 1.0
    feat = torch.randn(1, 7, FEAT, dtype=torch.float64).expand(members, -1, -1)
    mean, _ = network(feat, stacked)
    assert torch.equal(mean[0], mean[2])
    torch.testing.assert_close(mean[1], mean[0] + 1.0)


class Imagined:
    """Costs ``[member, start state]`` in imagination, where the members have other dynamics."""

    def __init__(self, seed: int, members: int, starts: int = 6) -> None:
        self.actor, self.seed = actor(seed), seed
        rssm = RSSM(embed_size=2, action_size=ACTION, deter_size=8, stoch_size=4, hidden_size=8)
        posterior = EnsemblePosterior(rssm.dynamics, members=members, prior_scale=1.0)
        self.rssm, posterior = rssm.double(), posterior.double()
        self.weights = {name: value.detach() for name, value in posterior.sample().items()}
        self.start = State(*(x.double() for x in rssm.initial(members, starts)))

    def costs(self, copies: dict[str, Tensor] | None) -> Tensor:
        dream = imagine(
            lambda state, action: self.rssm.transition(state, action, self.weights),
            lambda feat, noise: self.actor.sample(feat, noise.double(), weights=copies),
            self.start,
            3,
            action_size=ACTION,
            generator=torch.Generator().manual_seed(self.seed),
        )
        return dream.state.feat[:, 1:].square().mean((1, 3))

    def gradient(self, cost: Tensor) -> Tensor:
        """By the parameters that all copies come from."""
        parameters = list(self.actor.parameters())
        parts = torch.autograd.grad(cost, parameters, retain_graph=True, materialize_grads=True)
        return torch.cat([part.flatten() for part in parts])


@given(st.integers(0, 1000))
def test_rows_are_the_gradients_of_a_pass_for_each_member(seed: int) -> None:
    """Through imagination, where the members have different dynamics."""
    imagined = Imagined(seed, members=4)
    stacked = stack_parameters(imagined.actor, 4)
    together = imagined.costs(stacked).mean(1)
    rows, of_mean = member_gradients(stacked, together, together.mean())
    for row, cost in zip(rows, imagined.costs(None).mean(1), strict=True):
        torch.testing.assert_close(row, imagined.gradient(cost))
    torch.testing.assert_close(of_mean.sum(0), rows.mean(0))


@given(st.integers(0, 1000), st.sampled_from([2, 3, 6]))
def test_groups_of_copies_are_the_gradients_of_their_parts_of_the_batch(
    seed: int, groups: int
) -> None:
    """A pass for each member and part; their mean is the member's gradient."""
    members = 3
    imagined = Imagined(seed, members)
    stacked = stack_parameters(imagined.actor, members * groups)
    costs = imagined.costs(stacked).view(members, groups, -1).mean(-1)
    (rows,) = member_gradients(stacked, costs)
    rows = rows.view(members, groups, -1)
    whole = imagined.costs(None)
    for member in range(members):
        for group, part in enumerate(whole[member].chunk(groups)):
            torch.testing.assert_close(rows[member, group], imagined.gradient(part.mean()))
        torch.testing.assert_close(rows[member].mean(0), imagined.gradient(whole[member].mean()))


def test_what_depends_on_nothing_has_zero_gradients() -> None:
    stacked = stack_parameters(nn.Linear(2, 1), 3)
    (rows,) = member_gradients(stacked, torch.ones(3))
    assert rows.shape == (3, 3)
    assert not rows.any()


def test_frozen_parameters_are_left_out() -> None:
    linear = nn.Linear(2, 1)
    linear.bias.requires_grad_(False)
    assert set(stack_parameters(linear, 2)) == {"weight"}


@pytest.mark.parametrize("members", [1, 5])
def test_copies_share_no_memory_with_the_module(members: int) -> None:
    linear = nn.Linear(2, 1)
    stacked = stack_parameters(linear, members)
    with torch.no_grad():
        linear.weight += 1.0
    assert not torch.equal(stacked["weight"][0], linear.weight)
