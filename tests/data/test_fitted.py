"""Images in another shape, against Pillow."""

import numpy as np
import pytest
import torch
from PIL import Image

from mapsto.data import Labelled
from mapsto.data.fitted import fitted
from mapsto.errors import DataError


def noise(*shape: int, n: int = 10) -> Labelled:
    """Random images of two classes."""
    x = np.random.default_rng(0).integers(0, 256, (n, *shape)).astype(np.uint8)
    return Labelled(torch.from_numpy(x), np.arange(n) % 2, ["a", "b"])


def pillow(plane: np.ndarray, height: int, width: int) -> np.ndarray:
    """Pillow's bicubic filter, in floats: its eight-bit one clips between its two passes."""
    small = Image.fromarray(plane.astype(np.float32), "F").resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(small).clip(0, 255)


@pytest.mark.parametrize(("height", "width"), [(28, 28), (16, 20), (50, 41)])
def test_grey_of_another_size(height: int, width: int) -> None:
    data = noise(3, 32, 32)
    result = fitted(data, (1, height, width))
    assert result.x.shape == (10, 1, height, width) and result.x.dtype == torch.uint8
    assert result.y is data.y and result.names is data.names
    for (red, green, blue), ours in zip(data.x.numpy(), result.x[:, 0].numpy(), strict=True):
        grey = 0.299 * red + 0.587 * green + 0.114 * blue
        assert np.abs(pillow(grey, height, width) - ours).max() < 0.51
        eight_bits = Image.fromarray(np.stack([red, green, blue], 2)).convert("L")
        assert np.abs(grey - np.asarray(eight_bits)).max() < 0.51


def test_colours_of_another_size() -> None:
    data = noise(3, 40, 24)
    for image, ours in zip(data.x.numpy(), fitted(data, (3, 20, 20)).x.numpy(), strict=True):
        assert max(np.abs(pillow(a, 20, 20) - b).max() for a, b in zip(image, ours, strict=True)) < 0.51


def test_grey_becomes_three_equal_channels() -> None:
    data = noise(1, 8, 8)
    assert fitted(data, (3, 8, 8)).x.equal(data.x.repeat(1, 3, 1, 1))


def test_luminance_and_kept_intensities() -> None:
    x = torch.zeros(3, 3, 2, 2, dtype=torch.uint8)
    x[[0, 1, 2], [0, 1, 2]] = 255  # red, green, blue
    assert fitted(Labelled(x, np.arange(3), ["r", "g", "b"]), (1, 2, 2)).x[:, 0, 0, 0].tolist() == [76, 150, 29]
    assert fitted(Labelled(x.float() / 255, np.arange(3), ["r", "g", "b"]), (1, 2, 2)).x.max() == pytest.approx(0.587)


def test_an_edge_does_not_wrap_around() -> None:
    # bicubic filters overshoot: 255 + 20 would be 19 in eight bits
    x = torch.zeros(1, 1, 9, 9, dtype=torch.uint8)
    x[..., 4:] = 255
    row = fitted(Labelled(x, np.zeros(1, int), ["edge"]), (1, 30, 30)).x[0, 0, 15].int()
    assert (row.diff() >= -30).all() and row.max() == 255


def test_the_same_shape_is_the_same_data() -> None:
    data = noise(1, 8, 8)
    assert fitted(data, (1, 8, 8)) is data


def test_more_images_than_go_at_a_time() -> None:
    data = noise(1, 4, 4, n=5000)
    some = fitted(data._replace(x=data.x[4090:4100]), (1, 6, 6)).x
    assert fitted(data, (1, 6, 6)).x[4090:4100].equal(some)


@pytest.mark.parametrize(("own", "wanted"), [((1, 8, 8), (2,)), ((7,), (1, 8, 8)), ((2, 8, 8), (1, 8, 8))])
def test_what_is_no_image_is_named(own: tuple[int, ...], wanted: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match=r"inputs of shape .* can't be brought to .*must be grey or colour images"):
        fitted(noise(*own), wanted)
