"""Pictures of functions show the numbers they are given."""

import io

import numpy as np
import pytest
import torch

from mapsto.plots.functions import completions, regression_bands


def test_bands() -> None:
    grid = torch.linspace(-2, 2, 9)
    given = [(torch.randn(n, 1), torch.randn(n, 1)) for n in (3, 5)]
    band, exact = (torch.stack([torch.randn(2, 9), torch.rand(2, 9)], 2) for _ in range(2))
    figure = regression_bands(given, grid, {"one": band, "other": band + 1}, exact)
    assert len(figure.axes) == 4 and [axis.get_title() for axis in figure.axes[:2]] == ["one", "other"]
    axis = figure.axes[3]  # the second task of the second learner
    curves = [np.asarray(line.get_ydata()) for line in axis.lines]
    mean, deviation = exact[1].T.double()
    wanted = [band[1, :, 0].double() + 1, mean, mean - 2 * deviation, mean + 2 * deviation]
    for curve, expected in zip(curves, wanted, strict=True):
        np.testing.assert_allclose(curve, expected, rtol=1e-6)
    filled, points = axis.collections
    low, high = (band[1, :, 0] + 1 + sign * 2 * (band[1, :, 1] + 1) for sign in (-1, 1))
    heights = np.asarray(filled.get_paths()[0].vertices)[:, 1]
    np.testing.assert_allclose([heights.min(), heights.max()], [low.min(), high.max()], rtol=1e-6)
    np.testing.assert_allclose(np.asarray(points.get_offsets()), torch.cat(given[1], 1).numpy(), rtol=1e-6)
    figure.savefig(io.BytesIO())
    assert len(regression_bands(given, grid, {"one": band}).axes[0].lines) == 1


@pytest.mark.parametrize("channels", [1, 3])
def test_completions(channels: int) -> None:
    truth, mean, deviation = torch.rand(3, 2, channels, 4, 5).unbind()
    few, all_ = torch.rand(2, 4, 5) < 0.3, torch.ones(2, 4, 5, dtype=torch.bool)
    guesses = {"few": (mean, deviation), "all": (mean / 2, deviation / 2)}
    figure = completions(truth, {"few": few, "all": all_}, guesses)
    assert len(figure.axes) == 18  # two pictures, three rows each; few, all, truth

    def shown(picture: int, row: int, column: int) -> torch.Tensor:
        image = figure.axes[(3 * picture + row) * 3 + column].images[0].get_array()
        return torch.from_numpy(np.asarray(image)).permute(2, 0, 1).float()

    whole = truth[1].expand(3, -1, -1)
    torch.testing.assert_close(shown(1, 0, 2), whole)
    torch.testing.assert_close(shown(1, 0, 1), whole)
    known = shown(1, 0, 0)
    torch.testing.assert_close(known[:, few[1]], whole[:, few[1]])
    assert (known[:, ~few[1]].std(1) < 1e-6).all()  # one colour
    torch.testing.assert_close(shown(1, 1, 1), mean[1].expand(3, -1, -1) / 2)
    torch.testing.assert_close(shown(0, 2, 1), deviation[0].expand(3, -1, -1) / 2 / deviation[0].max())
    figure.savefig(io.BytesIO())
