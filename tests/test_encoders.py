import inspect

import pytest
import torch
from torch import Tensor

from blocks.encoders import ImageEncoder, VectorEncoder


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def images(*leading: int) -> Tensor:
    return torch.randint(0, 256, (*leading, 64, 64, 3), dtype=torch.uint8)


@pytest.mark.parametrize("leading", [(), (5,), (2, 3), (2, 3, 4)])
def test_vectors_take_any_leading_axes(leading: tuple[int, ...]) -> None:
    encoder = VectorEncoder(6, embed_size=7, hidden_size=5)
    assert encoder.embed_size == 7
    assert encoder(torch.randn(*leading, 6)).shape == (*leading, 7)


@pytest.mark.parametrize("leading", [(), (5,), (2, 3), (2, 1, 2)])
def test_images_take_any_leading_axes(leading: tuple[int, ...]) -> None:
    encoder = ImageEncoder(depth=2)
    assert encoder(images(*leading)).shape == (*leading, encoder.embed_size)


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_an_image_embed_has_32_times_the_depth(depth: int) -> None:
    encoder = ImageEncoder(depth=depth)
    assert encoder.embed_size == 32 * depth
    assert encoder(images(1)).shape == (1, 32 * depth)


def test_each_vector_and_each_image_is_encoded_by_itself() -> None:
    vector_encoder, vectors = VectorEncoder(3, embed_size=4, hidden_size=5), torch.randn(2, 3, 3)
    image_encoder, pictures = ImageEncoder(depth=2), images(2, 3)
    for encoder, batch in ((vector_encoder, vectors), (image_encoder, pictures)):
        together = encoder(batch)
        for i in range(2):
            for j in range(3):
                torch.testing.assert_close(together[i, j], encoder(batch[i, j]))


def test_bytes_become_pixels_between_minus_and_plus_one_half() -> None:
    """The same convolutions applied by hand to channels-first pixels give the same embed."""
    encoder, batch = ImageEncoder(depth=2), images(3)
    pixels = batch.float().permute(0, 3, 1, 2) / 255 - 0.5
    torch.testing.assert_close(encoder(batch), encoder.layers(pixels))


def test_gradients_reach_every_weight() -> None:
    encoders = (VectorEncoder(3, embed_size=4, hidden_size=5), ImageEncoder(depth=2))
    for encoder, batch in zip(encoders, (torch.randn(8, 3), images(8)), strict=True):
        encoder(batch).square().sum().backward()
        for weight in encoder.parameters():
            assert weight.grad is not None
            assert weight.grad.any()


def test_double_precision() -> None:
    assert VectorEncoder(3).double()(torch.zeros(2, 3, dtype=torch.float64)).dtype == torch.float64


def test_bfloat16_is_within_its_precision_and_the_embed_is_float32() -> None:
    images = torch.randint(0, 256, (3, 64, 64, 3), dtype=torch.uint8)
    encoder = ImageEncoder(depth=2)
    exact = encoder(images)
    encoder.autocast = True
    rough = encoder(images)
    assert rough.dtype == torch.float32
    assert not torch.equal(rough, exact)
    torch.testing.assert_close(rough, exact, rtol=0.05, atol=0.02)


@pytest.mark.parametrize(
    ("image", "got"),
    [
        (torch.zeros(2, 32, 32, 3, dtype=torch.uint8), r"uint8 of shape \(2, 32, 32, 3\)"),
        (torch.zeros(2, 3, 64, 64, dtype=torch.uint8), r"uint8 of shape \(2, 3, 64, 64\)"),
        (torch.zeros(64, 64, 3), r"float32 of shape \(64, 64, 3\)"),
    ],
)
def test_other_images_are_refused_also_without_a_type_checker(image: Tensor, got: str) -> None:
    forward = inspect.unwrap(ImageEncoder.forward)
    with pytest.raises(ValueError, match=f"observation: got torch.{got}; allowed torch.uint8 of"):
        forward(ImageEncoder(depth=1), image)
