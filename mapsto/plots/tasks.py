"""Pictures of tasks: images with their predictions, embeddings, fitted curves."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from mapsto.plots.style import (
    BLUE,
    CLASSES,
    FAINT,
    GREEN,
    GRID,
    INK,
    MARKERS,
    ORANGE,
    PINK,
    RED,
    SKY,
    WIDTH,
    array,
    canvas,
    pictures,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure


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

    images, queries = pictures(support, query)
    owner, truth, guess = (array(y).argmax(1) for y in (support_y, query_y, prediction))
    rows = min(support_y.shape[1], max_queries, 10)
    left = [np.flatnonzero(owner == row)[:5] for row in range(rows)]
    right = [np.flatnonzero(truth == row)[: min(6, max_queries // rows)] for row in range(rows)]
    start, down, across = max(map(len, left)) + 0.3, 1.34, 1.1
    width, height = (start + max(map(len, right))) * across + 0.7, rows * down + 0.75
    cell = min(0.8, WIDTH / width)
    limits = {"xlim": (-0.7, width - 0.7), "ylim": (height - 0.55, -0.55)}
    figure, (axis,) = canvas(1, 1, height=height * cell, width=width * cell)
    axis.axis("off")
    size = max(8.5, min(10, 15 * cell))

    def show(picture: np.ndarray, column: float, row: int, color: str, line: str, width: float) -> None:
        x, y = column * across, row * down
        axis.imshow(picture, cmap="gray", vmin=0, vmax=1, extent=(x, x + 1, y + 1, y), zorder=2)
        axis.add_patch(Rectangle((x, y), 1, 1, fill=False, color=color, linestyle=line, linewidth=width, zorder=3))

    for row in range(rows):
        axis.text(-0.2, row * down + 0.5, str(row), ha="right", va="center", color=INK, size=size, weight="bold")
        for column, i in enumerate(left[row]):
            show(images[i], column, row, GRID, "solid", 1)
        for column, i in enumerate(right[row]):
            if guess[i] == row:
                show(queries[i], start + column, row, GREEN, "solid", 2.5)
            else:
                show(queries[i], start + column, row, RED, "dashed", 2.5)
                x = (start + column) * across + 0.5
                axis.text(x, row * down + 1.05, f"✗ {guess[i]}", ha="center", va="top", color=RED, size=size)
    axis.text(0, -0.12, "support", color=INK, size=size)
    axis.text(start * across, -0.12, "queries", color=INK, size=size)
    x = (start - 0.15) * across - 0.05
    axis.plot((x, x), (-0.4, rows * down - 0.1), color=GRID, linewidth=1)
    # `imshow` narrows the limits to the last picture
    axis.set(aspect="equal", **limits)
    return figure


def embedding_map(embeddings: Tensor, labels: Tensor, is_support: Tensor, prototypes: Tensor | None = None) -> "Figure":
    """A test episode's embeddings in the plane of their two principal components, support as stars.

    Args:
        embeddings: `[n, d]`.
        labels: class numbers `[n]`.
        is_support: `[n]`, true where an embedding belongs to the support set.
        prototypes: `[way, d]`, row by class number, or None.
    """
    points, classes, starred = array(embeddings), array(labels).astype(int), array(is_support).astype(bool)
    middle = points.mean(0)
    _, singular, directions = np.linalg.svd(points - middle, full_matrices=False)
    plane = np.zeros((2, points.shape[1]))
    plane[: len(directions)] = directions[:2]
    # The sign of a component is arbitrary: the largest loading is made positive, so that pictures can be compared
    plane *= np.where(np.take_along_axis(plane, np.abs(plane).argmax(1)[:, None], 1) < 0, -1, 1)
    flat = (points - middle) @ plane.T
    centres = None if prototypes is None else (array(prototypes) - middle) @ plane.T
    explained = np.append(singular**2, (0, 0))[:2] / max((singular**2).sum(), 1e-12)

    figure, (axis,) = canvas(1, 1, height=4.8)
    for k in np.unique(classes):
        color, marker = CLASSES[k % len(CLASSES)], MARKERS[k // len(CLASSES) % len(MARKERS)]
        mine, stars = flat[(classes == k) & ~starred], flat[(classes == k) & starred]
        axis.scatter(*mine.T, color=color, marker=marker, s=26, alpha=0.65, linewidths=0)
        axis.scatter(*stars.T, color=color, marker="*", s=210, edgecolors="white", linewidths=0.9, zorder=3)
        place = flat[classes == k].mean(0)
        if centres is not None:
            place = centres[k]
            axis.scatter(*place, color=color, marker="X", s=110, edgecolors=INK, linewidths=1.2, zorder=4)
        box = {"boxstyle": "circle,pad=0.22", "facecolor": "white", "edgecolor": color, "linewidth": 1.2, "alpha": 0.92}
        axis.annotate(str(k), place, (11, 11), textcoords="offset points", color=INK, size=9, bbox=box, zorder=5)
    kinds = [("o", 26, FAINT, "query"), ("*", 150, FAINT, "support"), ("X", 80, INK, "prototype")]
    for marker, size, edge, name in kinds[: 2 if centres is None else 3]:
        axis.scatter([], [], color=FAINT, marker=marker, s=size, edgecolors=edge, label=name)
    figure.legend(loc="outside upper center", ncols=3, frameon=False, labelcolor=INK)
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
    given_x, given_y, grid, true = (array(tensor).reshape(len(tensor), -1)[:6] for tensor in everything)
    curves = {steps: array(predictions[steps]).reshape(len(support_x), -1) for steps in sorted(predictions)}
    columns = 2 if len(grid) == 4 else min(3, len(grid))
    rows = -(-len(grid) // columns)
    figure, axes = canvas(rows, columns, height=0.9 + 2.1 * rows, share=True)
    for unused in range(len(grid), len(axes)):
        axes[unused].axis("off")
        axes[unused - columns].tick_params(labelbottom=True)
    looks = [(ORANGE, "dotted"), (GREEN, "dashed"), (PINK, "dashdot"), (SKY, "solid")]
    looks = [looks[rank % 4] for rank in range(len(curves) - 1)] + [(BLUE, "solid")]
    for task, axis in enumerate(axes[: len(grid)]):
        order = grid[task].argsort()
        axis.plot(grid[task][order], true[task][order], color=FAINT, linewidth=5, alpha=0.4, label="truth")
        for (steps, curve), (color, style) in zip(curves.items(), looks, strict=False):
            label = f"{steps} step" if steps == 1 else f"{steps} steps"
            axis.plot(grid[task][order], curve[task][order], color=color, linestyle=style, lw=1.8, label=label)
        axis.scatter(given_x[task], given_y[task], color=INK, s=22, zorder=3, label="support")
    figure.supxlabel("x", color=INK, size=11)
    figure.supylabel("y", color=INK, size=11)
    low, high = min(true.min(), given_y.min()), max(true.max(), given_y.max())
    margin = 0.35 * (high - low) or 1.0
    axes[0].set_ylim(low - margin, high + margin)
    handles, _ = axes[0].get_legend_handles_labels()
    columns = min(5, len(handles))
    figure.legend(handles=handles, loc="outside upper center", ncols=columns, frameon=False, labelcolor=INK)
    return figure
