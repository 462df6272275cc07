"""Pictures of functions known at a few points: bands around their means, and pictures completed."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from mapsto.plots.style import BLUE, GREEN, INK, WIDTH, array, canvas, pictures

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_UNKNOWN = (0.80, 0.87, 0.95)
"""The colour of pixels that are not given."""


def regression_bands(
    given: Sequence[tuple[Tensor, Tensor]],
    grid: Tensor,
    bands: Mapping[str, Tensor],
    exact: Tensor | None = None,
) -> "Figure":
    """Means and bands of two standard deviations: a row a task (four at most), a column a learner.

    Args:
        given: each task's context points, x and y of `n` numbers each.
        grid: where the curves are drawn, `[m]`.
        bands: by learner, mean and standard deviation there, `[tasks, m, 2]`.
        exact: the exact posterior's, drawn as dashed lines, or None.
    """
    tasks, columns = min(len(given), 4), len(bands)
    figure, axes = canvas(tasks, columns, height=0.9 + 1.75 * tasks, width=max(WIDTH, 2.9 * columns), share=True)
    at = array(grid)
    for place, axis in enumerate(axes):
        task, (name, band) = place // columns, list(bands.items())[place % columns]
        mean, deviation = array(band[task]).T
        axis.fill_between(
            at, mean - 2 * deviation, mean + 2 * deviation, color=BLUE, alpha=0.18, linewidth=0, label="± 2 deviations"
        )
        axis.plot(at, mean, color=BLUE, linewidth=1.8, label="mean")
        if exact is not None:
            mean, deviation = array(exact[task]).T
            for shift, style in ((0, "dashed"), (-2, "dotted"), (2, "dotted")):
                label = {0: "exact mean", 2: "exact ± 2 deviations"}.get(shift)
                axis.plot(at, mean + shift * deviation, color=GREEN, linestyle=style, linewidth=1.3, label=label)
        x, y = (array(part).reshape(-1) for part in given[task])
        axis.scatter(x, y, color=INK, s=18, zorder=3, label="given")
        if task == 0 and columns > 1:
            axis.set_title(name, color=INK, size=11)
    figure.supxlabel("x", color=INK, size=11)
    figure.supylabel("y", color=INK, size=11)
    handles, _ = axes[0].get_legend_handles_labels()
    figure.legend(
        handles=handles, loc="outside upper center", ncols=5 if columns > 2 else 3, frameon=False, labelcolor=INK
    )
    return figure


def completions(truth: Tensor, given: Mapping[str, Tensor], guesses: Mapping[str, tuple[Tensor, Tensor]]) -> "Figure":
    """Pictures told from some of their pixels: for each (three at most) the pixels given, the mean, the deviation.

    Args:
        truth: the pictures, `[tasks, c, h, w]` in [0, 1], with 1 or 3 channels; they stand in the last column.
        given: by column, as in "10 pixels", where pixels are given: bool `[tasks, h, w]`.
        guesses: by column, means and standard deviations `[tasks, c, h, w]`; deviations are drawn relative to the
            greatest of the picture.
    """
    tasks, rows = min(len(truth), 3), ("given", "mean", "deviation")
    columns = len(given) + 1
    figure, axes = canvas(3 * tasks, columns, height=0.5 + 1.0 * 3 * tasks, width=0.8 + 1.0 * columns)
    for axis in axes:
        axis.set(xticks=[], yticks=[])
        axis.grid(False)
        axis.spines[:].set_visible(False)
    for task in range(tasks):
        (whole,) = pictures(truth[task : task + 1])
        for column, name in enumerate(given):
            mean, deviation = (array(part[task]) for part in guesses[name])
            known = array(given[name][task])[..., None] > 0
            looks = (
                np.where(known, _colour(whole[0]), _UNKNOWN),
                _colour(_channels_last(mean)),
                _colour(_channels_last(deviation / max(float(array(guesses[n][1][task]).max()) for n in given))),
            )
            for row, (label, picture) in enumerate(zip(rows, looks, strict=True)):
                axis = axes[(3 * task + row) * columns + column]
                axis.imshow(picture)
                if column == 0:
                    axis.set_ylabel(label, color=INK, size=10)
                if task == row == 0:
                    axis.set_title(name, color=INK, size=10)
        axes[3 * task * columns + columns - 1].imshow(_colour(whole[0]))
        if task == 0:
            axes[columns - 1].set_title("truth", color=INK, size=10)
    return figure


def _channels_last(picture: np.ndarray) -> np.ndarray:
    return picture[0] if len(picture) == 1 else picture.transpose(1, 2, 0)


def _colour(picture: np.ndarray) -> np.ndarray:
    """A picture `[h, w]` or `[h, w, 3]` as `[h, w, 3]` between 0 and 1."""
    picture = picture if picture.ndim == 3 else picture[..., None].repeat(3, 2)
    return picture.clip(0, 1)
