"""The one style of all pictures: colours, canvas, axes. No global state of matplotlib is touched.

Colours are those of Okabe and Ito (https://jfly.uni-koeln.de/color/), which colour-blind readers can tell apart.
"""

from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, FAINT, GRID = "#26323d", "#8a949e", "#e3e7eb"
BLUE, ORANGE, GREEN, PINK, RED, SKY = "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9"
CLASSES = (BLUE, ORANGE, GREEN, PINK, RED, SKY, "#4d4d4d")
MARKERS = "osD^vPX"
WIDTH = 6.4


def canvas(
    rows: int, columns: int, height: float, width: float = WIDTH, share: bool = False
) -> "tuple[Figure, list[Axes]]":
    """A figure and its axes, row by row, in the one style."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    grid = figure.subplots(rows, columns, squeeze=False, sharex=share, sharey=share and columns > 1)
    axes: list[Axes] = list(grid.flat)
    for axis in axes:
        axis.set_facecolor("white")
        axis.spines[["top", "right"]].set_visible(False)
        axis.spines[["left", "bottom"]].set_color(FAINT)
        axis.tick_params(color=FAINT, labelcolor=INK, labelsize=10)
        axis.xaxis.label.set(color=INK, size=11)
        axis.yaxis.label.set(color=INK, size=11)
        axis.grid(color=GRID, linewidth=0.8)
        axis.set_axisbelow(True)
    return figure, axes


def score_axis(axis: "Axes", label: str, metric: str) -> None:
    """Name the vertical axis; an accuracy is in per cent and stays between 0 and 1."""
    axis.set_ylabel(label)
    if metric == "accuracy":
        low, high = axis.get_ylim()
        axis.set_ylim(max(low, 0), min(high, 1.005))
        axis.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.4g} %")


def whole_numbers(axis: "Axes") -> None:
    """Ticks of the horizontal axis at whole numbers only."""
    from matplotlib.ticker import MaxNLocator

    axis.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
    axis.xaxis.set_major_formatter("{x:,.0f}")


def pictures(*images: Tensor) -> list[np.ndarray]:
    """Images `[n, c, h, w]` as arrays `[n, h, w]` or `[n, h, w, 3]` between 0 and 1, on one scale."""
    channels = images[0].shape[1]
    if channels not in (1, 3):
        raise ValueError(f"a gallery shows images of 1 or 3 channels, not of {channels}")
    arrays = [array(image) / (1 if image.is_floating_point() else 255) for image in images]
    low, high = min(array.min() for array in arrays), max(array.max() for array in arrays)
    if low < 0 or high > 1:
        arrays = [(array - low) / max(high - low, 1e-12) for array in arrays]
    return [array[:, 0] if channels == 1 else array.transpose(0, 2, 3, 1) for array in arrays]


def array(tensor: Tensor) -> np.ndarray:
    """A tensor of any device and type as a float64 array."""
    return tensor.detach().cpu().double().numpy()
