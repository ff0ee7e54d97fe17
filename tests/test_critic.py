import pytest
import torch

from blocks.critic import Critic

FEAT = 4


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def trained(
    members: int = 3, unit: float = 1.0, target_rate: float = 0.02, size: int | None = None
) -> Critic:
    """A critic whose output layers no longer are zero, and differ from the slow copy."""
    critic = Critic(
        FEAT, members=members, unit=unit, size=size, hidden_size=8, target_rate=target_rate
    )
    with torch.no_grad():
        for weight in critic.weights.values():
            weight.add_(0.3 * torch.randn_like(weight))
    return critic


@pytest.mark.parametrize("batch", [(5,), (2, 5), (2, 3, 5)])
def test_a_value_for_each_member_and_feature(batch: tuple[int, ...]) -> None:
    critic, feat = trained(), torch.randn(3, *batch, FEAT)
    for value in (critic(feat), critic.target_value(feat)):
        assert value.shape == (3, *batch)
    flat = critic(feat.reshape(3, -1, FEAT))
    torch.testing.assert_close(critic(feat).reshape(3, -1), flat)


def test_it_begins_at_zero_everywhere() -> None:
    critic = Critic(FEAT, members=2, unit=50.0)
    assert not critic(torch.randn(2, 9, FEAT)).any()


def test_unit_is_the_unit_of_the_value() -> None:
    one = trained(unit=1.0)
    feat = torch.randn(3, 5, FEAT)
    value, slow = one(feat), one.target_value(feat)
    one.unit = 7.0
    torch.testing.assert_close(one(feat), 7.0 * value)
    torch.testing.assert_close(one.target_value(feat), 7.0 * slow)


def test_the_loss_is_hubers_in_units() -> None:
    critic, feat, target = trained(unit=4.0), torch.randn(3, 5, FEAT), 20 * torch.randn(3, 5)
    error = ((critic(feat) - target) / 4.0).abs()
    huber = torch.where(error < 1, 0.5 * error.square(), error - 0.5)
    torch.testing.assert_close(critic.loss(feat, target), huber.mean())


def test_members_are_independent() -> None:
    """One member's error moves that member's weights only, and its features no other value."""
    critic, feat, target = trained(), torch.randn(3, 5, FEAT), torch.randn(3, 5)
    value = critic(feat)
    same = target.where(torch.tensor([[False], [True], [False]]), value.detach())
    critic.loss(feat, same).backward()
    for weight in critic.weights.values():
        assert weight.grad is not None
        assert weight.grad[1].any()
        assert not weight.grad[[0, 2]].any()
    changed = feat.clone()
    changed[1] += 1.0
    moved = (critic(changed) - value).abs().amax(-1) > 1e-6
    assert moved.tolist() == [False, True, False]


def test_members_begin_from_different_weights() -> None:
    critic = Critic(FEAT, members=2)
    assert not torch.equal(critic.weights["hidden1"][0], critic.weights["hidden1"][1])


def test_the_loss_teaches_the_weights_alone() -> None:
    critic = trained()
    feat, target = (torch.randn(*s, requires_grad=True) for s in ((3, 5, FEAT), (3, 5)))
    critic.loss(feat, target).backward()
    assert feat.grad is None
    assert target.grad is None
    assert all(weight.grad is None for weight in critic.target.values())


def test_a_target_value_passes_gradients_to_features_and_not_to_weights() -> None:
    critic, feat = trained(), torch.randn(3, 5, FEAT, requires_grad=True)
    with torch.no_grad():
        for _ in range(200):
            critic.update_target()
    critic.target_value(feat).sum().backward()
    assert feat.grad is not None
    assert feat.grad.any()
    assert all(weight.grad is None for weight in critic.parameters())


@pytest.mark.parametrize("rate", [0.02, 0.5, 1.0])
def test_the_target_moves_a_step_towards_the_weights(rate: float) -> None:
    critic = trained(target_rate=rate)
    before = {name: value.clone() for name, value in critic.target.items()}
    for steps in (1, 2, 3):
        critic.update_target()
        for name, weight in critic.weights.items():
            left = (1 - rate) ** steps
            torch.testing.assert_close(
                critic.target[name], weight.detach() + left * (before[name] - weight.detach())
            )


def test_only_the_trained_weights_are_to_be_optimised() -> None:
    critic = Critic(FEAT)
    trainable = [p for p in critic.parameters() if p.requires_grad]
    assert len(trainable) == len(critic.weights) == len(critic.target)
    assert all(any(p is w for w in critic.weights.values()) for p in trainable)


@pytest.mark.parametrize("unit", [1.0, 100.0])
def test_it_learns_a_constant_of_each_member(unit: float) -> None:
    """In units, so that a return of 300 is learnt as fast as one of 3."""
    critic = Critic(FEAT, members=2, unit=unit, hidden_size=16, target_rate=0.1)
    optimizer = torch.optim.Adam(critic.weights.parameters(), 1e-2)
    target = unit * torch.tensor([[3.0], [-1.0]]).expand(-1, 32)
    for _ in range(150):
        optimizer.zero_grad()
        critic.loss(torch.randn(2, 32, FEAT), target).backward()
        optimizer.step()
        critic.update_target()
    feat = torch.randn(2, 32, FEAT)
    for value in (critic(feat), critic.target_value(feat)):
        assert ((value - target).abs() < 0.1 * unit).all()


@pytest.mark.parametrize("unit", [0.0, -1.0, float("nan")])
def test_a_unit_that_measures_nothing_is_refused(unit: float) -> None:
    with pytest.raises(ValueError, match="unit: got"):
        Critic(FEAT, unit=unit)


def test_state_dict_carries_the_slow_copy() -> None:
    one, two, feat = trained(), trained(), torch.randn(3, 5, FEAT)
    two.load_state_dict(one.state_dict())
    assert torch.equal(one(feat), two(feat))
    assert torch.equal(one.target_value(feat), two.target_value(feat))


def test_double_precision() -> None:
    critic = trained().double()
    assert critic(torch.randn(3, 5, FEAT, dtype=torch.float64)).dtype == torch.float64


# ---- several values ------------------------------------------------------------------------------


def alone(critic: Critic, index: int) -> Critic:
    """A critic of one of the values, with its columns of the output layer."""
    one = trained(unit=critic.unit)
    one.load_state_dict(
        {
            name: value[..., index : index + 1] if name.endswith(("output", "bias3")) else value
            for name, value in critic.state_dict().items()
        }
    )
    return one


@pytest.mark.parametrize("batch", [(5,), (2, 5)])
def test_two_values_are_those_of_two_critics(batch: tuple[int, ...]) -> None:
    critic, feat = trained(size=2, unit=4.0), torch.randn(3, *batch, FEAT)
    value, slow = critic(feat), critic.target_value(feat)
    assert value.shape == slow.shape == (3, *batch, 2)
    for index in range(2):
        one = alone(critic, index)
        torch.testing.assert_close(value[..., index], one(feat))
        torch.testing.assert_close(slow[..., index], one.target_value(feat))
    assert not torch.allclose(value[..., 0], value[..., 1])


@pytest.mark.parametrize("weighted", [False, True])
def test_their_loss_is_the_mean_of_both_with_the_same_weights(weighted: bool) -> None:
    """Swapped targets and, if it is weighted, other weights are the controls."""
    critic, feat, target = trained(size=2), torch.randn(3, 2, 2, FEAT), torch.randn(3, 2, 2, 2)
    weight = torch.rand(3, 2, 2) if weighted else None
    loss = critic.loss(feat, target, weight)
    alone_losses = [alone(critic, i).loss(feat, target[..., i], weight) for i in range(2)]
    torch.testing.assert_close(loss, sum(alone_losses) / 2)
    assert not torch.allclose(critic.loss(feat, target.flip(-1), weight), loss)
    if weight is not None:
        assert not torch.allclose(critic.loss(feat, target, weight.mT), loss)


def test_a_vector_of_one_value_is_that_value() -> None:
    critic, feat, target = trained(size=1), torch.randn(3, 5, FEAT), torch.randn(3, 5)
    one, weight = alone(critic, 0), torch.rand(3, 5)
    assert torch.equal(critic(feat), one(feat).unsqueeze(-1))
    assert torch.equal(
        critic.loss(feat, target.unsqueeze(-1), weight), one.loss(feat, target, weight)
    )
