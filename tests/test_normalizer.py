import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from blocks.normalizer import Normalizer


def test_before_it_is_fitted_it_changes_nothing() -> None:
    observation = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(Normalizer(3)(observation), observation)


@given(st.integers(0, 10_000), st.floats(0.5, 50.0), st.floats(-20.0, 20.0))
def test_what_it_was_fitted_to_comes_out_with_mean_zero_and_deviation_one(
    seed: int, scale: float, shift: float
) -> None:
    generator = torch.Generator().manual_seed(seed)
    data = shift + scale * torch.randn(200, 4, generator=generator, dtype=torch.float64)
    normalizer = Normalizer(4).double()
    normalizer.fit(data)
    out = normalizer(data)
    torch.testing.assert_close(out.mean(0), torch.zeros(4, dtype=torch.float64))
    torch.testing.assert_close(out.std(0, unbiased=False), torch.ones(4, dtype=torch.float64))


def test_a_dimension_that_hardly_moved_is_divided_by_the_floor() -> None:
    normalizer = Normalizer(2, min_std=0.5)
    normalizer.fit(torch.tensor([[3.0, -1.0], [3.0, 1.0]]))
    torch.testing.assert_close(
        normalizer(torch.tensor([4.0, 1.0])), torch.tensor([(4.0 - 3.0) / 0.5, 1.0])
    )


def test_an_outlier_is_clipped() -> None:
    out = Normalizer(2)(torch.tensor([1e9, -1e9]))
    assert out.tolist() == [10.0, -10.0]


def test_any_leading_axes() -> None:
    normalizer = Normalizer(3)
    for leading in ((), (2,), (2, 5)):
        assert normalizer(torch.zeros(*leading, 3)).shape == (*leading, 3)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_bad_data_are_refused_and_the_statistics_stay(bad: float) -> None:
    normalizer = Normalizer(2)
    normalizer.fit(torch.tensor([[0.0, 1.0], [2.0, 5.0]]))
    before = {name: value.clone() for name, value in normalizer.state_dict().items()}
    with pytest.raises(ValueError, match="observations: got NaN"):
        normalizer.fit(torch.tensor([[0.0, 1.0], [bad, 5.0]]))
    torch.testing.assert_close(normalizer.state_dict(), before)


def test_state_dict_carries_the_statistics() -> None:
    fitted, fresh = Normalizer(2), Normalizer(2)
    fitted.fit(torch.tensor([[0.0, 1.0], [2.0, 5.0]]))
    fresh.load_state_dict(fitted.state_dict())
    x = torch.tensor([0.3, -0.7])
    assert torch.equal(fresh(x), fitted(x))
