"""Pictures of a run, as matplotlib figures that share one style and touch no global state.

Colours are those of Okabe and Ito (https://jfly.uni-koeln.de/color/), which colour-blind readers can tell apart.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_INK, _FAINT, _GRID = "#26323d", "#8a949e", "#e3e7eb"
_BLUE, _GREEN, _RED = "#0072B2", "#009E73", "#D55E00"
_CLASSES = (_BLUE, "#E69F00", _GREEN, "#CC79A7", _RED, "#56B4E9", "#4d4d4d")
_MARKERS = "osD^vPX"
_WIDTH = 6.4


def learning_curve(metrics: Sequence[Mapping[str, float]], metric: str) -> "Figure":
    """The training loss, raw and smoothed, and below it the validation score with its interval, if there is any.

    Args:
        metrics: rows with `step` and `loss`; those with a validation also have `score` and `interval` (half-width).
        metric: the name of the score; an `accuracy` is shown in per cent.
    """
    losses = [row for row in metrics if "loss" in row and np.isfinite(row["loss"])]
    scores = [row for row in metrics if "score" in row]
    figure, axes = _canvas(2 if scores else 1, 1, height=5.2 if scores else 3.2, share=True)
    if losses:
        step, loss = np.array([(row["step"], row["loss"]) for row in losses], dtype=float).T
        smooth = _smooth(loss)
        axes[0].plot(step, loss, color=_BLUE, alpha=0.25, linewidth=0.8)
        axes[0].plot(step, smooth, color=_BLUE, linewidth=2, marker="o" if len(loss) < 3 else None)
        # A few outliers must not flatten the rest
        low, high = min(np.quantile(loss, 0.005), smooth.min()), max(np.quantile(loss, 0.995), smooth.max())
        if smooth.min() > 0 and smooth.max() > 10 * smooth.min():
            axes[0].set_yscale("log")
            axes[0].yaxis.set_major_formatter("{x:g}")
        elif high > low:
            axes[0].set_ylim(low - 0.08 * (high - low), high + 0.08 * (high - low))
    else:
        axes[0].text(0.5, 0.5, "no finite loss recorded", color=_FAINT, ha="center", transform=axes[0].transAxes)
    axes[0].set_ylabel("training loss")
    if scores:
        step, score, half = np.array([(row["step"], row["score"], row.get("interval", 0.0)) for row in scores]).T
        half = np.nan_to_num(half)  # one task has no interval
        axes[1].fill_between(step, score - half, score + half, color=_GREEN, alpha=0.2, linewidth=0)
        axes[1].errorbar(step, score, half, color=_GREEN, linewidth=2, marker="o", markersize=4, elinewidth=0.8)
        _score_axis(axes[1], f"validation {metric}", metric)
    axes[-1].set_xlabel("training step")
    _whole_numbers(axes[-1])
    return figure


def gallery(
    support: Tensor,
    support_y: Tensor,
    query: Tensor,
    query_y: Tensor,
    prediction: Tensor,
    max_queries: int = 20,
) -> "Figure":
    """One test episode: a row a class, ten at most, its support left, its first queries right, framed by outcome.

    Args:
        support: images `[n, c, h, w]` with 1 or 3 channels, uint8 or float; all rescaled if not in 0 to 1.
        support_y: one-hot classes `[n, way]`.
        query: images `[m, c, h, w]`.
        query_y: one-hot classes `[m, way]`.
        prediction: scores or probabilities `[m, way]`; the greatest is the predicted class.
        max_queries: at most so many queries in all, six a class, as many for every class.
    """
    from matplotlib.patches import Rectangle

    images, queries = _pictures(support, query)
    owner, truth, guess = (_array(y).argmax(1) for y in (support_y, query_y, prediction))
    rows = min(support_y.shape[1], max_queries, 10)
    left = [np.flatnonzero(owner == row)[:5] for row in range(rows)]
    right = [np.flatnonzero(truth == row)[: min(6, max_queries // rows)] for row in range(rows)]
    start, down, across = max(map(len, left)) + 0.3, 1.34, 1.1
    width, height = (start + max(map(len, right))) * across + 0.7, rows * down + 0.75
    cell = min(0.8, _WIDTH / width)
    limits = {"xlim": (-0.7, width - 0.7), "ylim": (height - 0.55, -0.55)}
    figure, (axis,) = _canvas(1, 1, height=height * cell, width=width * cell)
    axis.axis("off")
    size = max(8.5, min(10, 15 * cell))

    def show(picture: np.ndarray, column: float, row: int, color: str, line: str, width: float) -> None:
        x, y = column * across, row * down
        axis.imshow(picture, cmap="gray", vmin=0, vmax=1, extent=(x, x + 1, y + 1, y), zorder=2)
        axis.add_patch(Rectangle((x, y), 1, 1, fill=False, color=color, linestyle=line, linewidth=width, zorder=3))

    for row in range(rows):
        axis.text(-0.2, row * down + 0.5, str(row), ha="right", va="center", color=_INK, size=size, weight="bold")
        for column, i in enumerate(left[row]):
            show(images[i], column, row, _GRID, "solid", 1)
        for column, i in enumerate(right[row]):
            if guess[i] == row:
                show(queries[i], start + column, row, _GREEN, "solid", 2.5)
            else:
                show(queries[i], start + column, row, _RED, "dashed", 2.5)
                x = (start + column) * across + 0.5
                axis.text(x, row * down + 1.05, f"✗ {guess[i]}", ha="center", va="top", color=_RED, size=size)
    axis.text(0, -0.12, "support", color=_INK, size=size)
    axis.text(start * across, -0.12, "queries", color=_INK, size=size)
    x = (start - 0.15) * across - 0.05
    axis.plot((x, x), (-0.4, rows * down - 0.1), color=_GRID, linewidth=1)
    # `imshow` narrows the limits to the last picture
    axis.set(aspect="equal", **limits)
    return figure


def score_by_steps(scores: Mapping[int, tuple[float, float]], metric: str, trained_steps: int) -> "Figure":
    """The score, with its interval, after each number of inner steps; a line marks the number trained with.

    Args:
        scores: score and half-width of its interval, by number of inner steps.
        metric: the name of the score; an `accuracy` is shown in per cent.
        trained_steps: the number of inner steps the learner was trained with.
    """
    figure, (axis,) = _canvas(1, 1, height=3.2)
    steps = sorted(scores)
    means = [scores[step][0] for step in steps]
    halves = np.nan_to_num([scores[step][1] for step in steps])
    axis.axvline(trained_steps, color=_FAINT, linestyle="dashed", linewidth=1.2)
    text = axis.text(trained_steps, 1.02, f"trained with {trained_steps}", color=_FAINT, ha="center", size=9)
    text.set_transform(axis.get_xaxis_transform())
    axis.errorbar(steps, means, halves, color=_BLUE, linewidth=2, marker="o", markersize=5, elinewidth=1.2, capsize=3)
    axis.set_xlabel("inner steps")
    _score_axis(axis, metric, metric)
    _whole_numbers(axis)
    return figure


def embedding_map(embeddings: Tensor, labels: Tensor, is_support: Tensor, prototypes: Tensor | None = None) -> "Figure":
    """A test episode's embeddings in the plane of their two principal components, support as stars.

    Args:
        embeddings: `[n, d]`.
        labels: class numbers `[n]`.
        is_support: `[n]`, true where an embedding belongs to the support set.
        prototypes: `[way, d]`, row by class number, or None.
    """
    points, classes, starred = _array(embeddings), _array(labels).astype(int), _array(is_support).astype(bool)
    middle = points.mean(0)
    _, singular, directions = np.linalg.svd(points - middle, full_matrices=False)
    plane = np.zeros((2, points.shape[1]))
    plane[: len(directions)] = directions[:2]
    # The sign of a component is arbitrary: the largest loading is made positive, so that pictures can be compared
    plane *= np.where(np.take_along_axis(plane, np.abs(plane).argmax(1)[:, None], 1) < 0, -1, 1)
    flat = (points - middle) @ plane.T
    centres = None if prototypes is None else (_array(prototypes) - middle) @ plane.T
    explained = np.append(singular**2, (0, 0))[:2] / max((singular**2).sum(), 1e-12)

    figure, (axis,) = _canvas(1, 1, height=4.8)
    for k in np.unique(classes):
        color, marker = _CLASSES[k % len(_CLASSES)], _MARKERS[k // len(_CLASSES) % len(_MARKERS)]
        mine, stars = flat[(classes == k) & ~starred], flat[(classes == k) & starred]
        axis.scatter(*mine.T, color=color, marker=marker, s=26, alpha=0.65, linewidths=0)
        axis.scatter(*stars.T, color=color, marker="*", s=210, edgecolors="white", linewidths=0.9, zorder=3)
        place = flat[classes == k].mean(0)
        if centres is not None:
            place = centres[k]
            axis.scatter(*place, color=color, marker="X", s=110, edgecolors=_INK, linewidths=1.2, zorder=4)
        box = {"boxstyle": "circle,pad=0.22", "facecolor": "white", "edgecolor": color, "linewidth": 1.2, "alpha": 0.92}
        axis.annotate(str(k), place, (11, 11), textcoords="offset points", color=_INK, size=9, bbox=box, zorder=5)
    kinds = [("o", 26, _FAINT, "query"), ("*", 150, _FAINT, "support"), ("X", 80, _INK, "prototype")]
    for marker, size, edge, name in kinds[: 2 if centres is None else 3]:
        axis.scatter([], [], color=_FAINT, marker=marker, s=size, edgecolors=edge, label=name)
    figure.legend(loc="outside upper center", ncols=3, frameon=False, labelcolor=_INK)
    axis.set_xlabel(f"first component ({explained[0]:.0%} of the variance)".replace("%", " %"))
    axis.set_ylabel(f"second component ({explained[1]:.0%})".replace("%", " %"))
    axis.set_aspect("equal", adjustable="datalim")
    return figure


def regression_fits(
    support_x: Tensor,
    support_y: Tensor,
    grid_x: Tensor,
    grid_true: Tensor,
    predictions: Mapping[int, Tensor],
) -> "Figure":
    """Curves fitted to a few points, a panel a task (six at most), a line for each number of inner steps.

    Args:
        support_x: where the given points lie, `[tasks, n, 1]` or `[tasks, n]`, as all that follows.
        support_y: their values.
        grid_x: where the curves are drawn.
        grid_true: the true function there.
        predictions: the model's values there, by number of inner steps.
    """
    everything = (support_x, support_y, grid_x, grid_true)
    given_x, given_y, grid, true = (_array(tensor).reshape(len(tensor), -1)[:6] for tensor in everything)
    curves = {steps: _array(predictions[steps]).reshape(len(support_x), -1) for steps in sorted(predictions)}
    columns = 2 if len(grid) == 4 else min(3, len(grid))
    rows = -(-len(grid) // columns)
    figure, axes = _canvas(rows, columns, height=0.9 + 2.1 * rows, share=True)
    for unused in range(len(grid), len(axes)):
        axes[unused].axis("off")
        axes[unused - columns].tick_params(labelbottom=True)
    looks = [("#E69F00", "dotted"), (_GREEN, "dashed"), ("#CC79A7", "dashdot"), ("#56B4E9", "solid")]
    looks = [looks[rank % 4] for rank in range(len(curves) - 1)] + [(_BLUE, "solid")]
    for task, axis in enumerate(axes[: len(grid)]):
        order = grid[task].argsort()
        axis.plot(grid[task][order], true[task][order], color=_FAINT, linewidth=5, alpha=0.4, label="truth")
        for (steps, curve), (color, style) in zip(curves.items(), looks, strict=False):
            label = f"{steps} step" if steps == 1 else f"{steps} steps"
            axis.plot(grid[task][order], curve[task][order], color=color, linestyle=style, lw=1.8, label=label)
        axis.scatter(given_x[task], given_y[task], color=_INK, s=22, zorder=3, label="support")
    figure.supxlabel("x", color=_INK, size=11)
    figure.supylabel("y", color=_INK, size=11)
    low, high = min(true.min(), given_y.min()), max(true.max(), given_y.max())
    margin = 0.35 * (high - low) or 1.0
    axes[0].set_ylim(low - margin, high + margin)
    handles, _ = axes[0].get_legend_handles_labels()
    columns = min(5, len(handles))
    figure.legend(handles=handles, loc="outside upper center", ncols=columns, frameon=False, labelcolor=_INK)
    return figure


def _canvas(
    rows: int, columns: int, height: float, width: float = _WIDTH, share: bool = False
) -> "tuple[Figure, list[Axes]]":
    """A figure and its axes, row by row, in the one style of this file."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    grid = figure.subplots(rows, columns, squeeze=False, sharex=share, sharey=share and columns > 1)
    axes: list[Axes] = list(grid.flat)
    for axis in axes:
        axis.set_facecolor("white")
        axis.spines[["top", "right"]].set_visible(False)
        axis.spines[["left", "bottom"]].set_color(_FAINT)
        axis.tick_params(color=_FAINT, labelcolor=_INK, labelsize=10)
        axis.xaxis.label.set(color=_INK, size=11)
        axis.yaxis.label.set(color=_INK, size=11)
        axis.grid(color=_GRID, linewidth=0.8)
        axis.set_axisbelow(True)
    return figure, axes


def _score_axis(axis: "Axes", label: str, metric: str) -> None:
    """Name the vertical axis; an accuracy is in per cent and stays between 0 and 1."""
    axis.set_ylabel(label)
    if metric == "accuracy":
        low, high = axis.get_ylim()
        axis.set_ylim(max(low, 0), min(high, 1.005))
        axis.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.4g} %")


def _whole_numbers(axis: "Axes") -> None:
    """Ticks of the horizontal axis at whole numbers only."""
    from matplotlib.ticker import MaxNLocator

    axis.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
    axis.xaxis.set_major_formatter("{x:,.0f}")


def _smooth(values: np.ndarray) -> np.ndarray:
    """The centred moving average over a twentieth of the values."""
    window = np.ones(2 * (len(values) // 40) + 1)
    return np.convolve(values, window, "same") / np.convolve(np.ones(len(values)), window, "same")


def _pictures(*images: Tensor) -> list[np.ndarray]:
    """Images `[n, c, h, w]` as arrays `[n, h, w]` or `[n, h, w, 3]` between 0 and 1, on one scale."""
    channels = images[0].shape[1]
    if channels not in (1, 3):
        raise ValueError(f"a gallery shows images of 1 or 3 channels, not of {channels}")
    arrays = [_array(image) / (1 if image.is_floating_point() else 255) for image in images]
    low, high = min(array.min() for array in arrays), max(array.max() for array in arrays)
    if low < 0 or high > 1:
        arrays = [(array - low) / max(high - low, 1e-12) for array in arrays]
    return [array[:, 0] if channels == 1 else array.transpose(0, 2, 3, 1) for array in arrays]


def _array(tensor: Tensor) -> np.ndarray:
    """A tensor of any device and type as a float64 array."""
    return tensor.detach().cpu().double().numpy()
