"""Pictures of learners that read a sequence: what they remember, and where they look."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from mapsto.plots.style import (
    BLUE,
    CLASSES,
    FAINT,
    GREEN,
    INK,
    MARKERS,
    ORANGE,
    array,
    canvas,
    score_axis,
    whole_numbers,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LINES = ((BLUE, "solid"), (ORANGE, "dashed"), (GREEN, "dashdot"))


def by_presentation(accuracy: Mapping[str, Tensor], chance: float) -> "Figure":
    """How often the n-th example of a class is named rightly before its label is told.

    Args:
        accuracy: for each learner, three at most, the accuracies `[presentations]`.
        chance: the accuracy of guessing, drawn as a line.
    """
    figure, (axis,) = canvas(1, 1, height=3.2)
    axis.axhline(chance, color=FAINT, linestyle="dotted", linewidth=1.5, label="chance")
    for (name, values), (color, style) in zip(accuracy.items(), _LINES, strict=False):
        right = array(values)
        axis.plot(np.arange(1, len(right) + 1), right, color=color, linestyle=style, marker="o", label=name, lw=2)
    axis.set_ylim(0, 1.005)
    axis.set_xlabel("presentation of the class")
    score_axis(axis, "accuracy", "accuracy")
    whole_numbers(axis)
    figure.legend(loc="outside upper center", ncols=4, frameon=False, labelcolor=INK)
    return figure


def memory_over_time(reads: Tensor, usage: Tensor, labels: Tensor) -> "Figure":
    """Which slots of a memory are in use after each presentation, and which are read; a mark tells its class.

    Dark is much, light little, on a scale of each side's own. Slots are sorted by the presentation after which they
    were used most.

    Args:
        reads: how much each slot was read, `[presentations, slots]`.
        usage: how much it was in use, `[presentations, slots]`.
        labels: the class of each presentation, `[presentations]`.
    """
    used, read, classes = array(usage), array(reads), array(labels).astype(int)
    order = used.argmax(0).argsort(kind="stable")
    figure, axes = canvas(1, 2, height=4.2)
    for axis, values, title in zip(axes, (used, read), ("in use", "read"), strict=True):
        _heat(axis, values[:, order].T)
        axis.set_title(title, color=INK, size=11, pad=16)
        _marks(axis, classes, -0.035)
        axis.set_xlabel("presentation")
        axis.set_yticks([])
    axes[0].set_ylabel("slot")
    return figure


def looks(weights: Tensor, support: Tensor, queries: Tensor) -> "Figure":
    """Where each attention block looks: a row a query, a column a support example, both sorted by class.

    Dark is much, light little, on a scale of each block's own. The last column is the query itself.

    Args:
        weights: `[blocks, queries, support + 1]`; the last column is the query itself.
        support: the class of each support example, `[support]`.
        queries: the class of each query, `[queries]`.
    """
    owner, truth = array(support).astype(int), array(queries).astype(int)
    columns, rows = owner.argsort(kind="stable"), truth.argsort(kind="stable")
    figure, axes = canvas(1, len(weights), height=3.6)
    for number, (axis, block) in enumerate(zip(axes, array(weights), strict=True), 1):
        _heat(axis, block[rows][:, np.append(columns, len(columns))])
        for edge in np.flatnonzero(np.diff(truth[rows])):
            axis.axhline(edge + 0.5, color="white", linewidth=1.5)
        axis.axvline(len(columns) - 0.5, color="white", linewidth=1.5)
        _marks(axis, owner[columns], -0.05)
        axis.set_title(f"block {number}", color=INK, size=11, pad=20)
        axis.set_xticks([])
        axis.set_yticks([])
    axes[0].set_ylabel("query, by class")
    figure.supxlabel("support example, by class; last, the query itself", color=INK, size=11)
    return figure


def _heat(axis: "Axes", values: np.ndarray) -> None:
    axis.grid(visible=False)
    axis.imshow(values, cmap="Blues", aspect="auto", interpolation="nearest")


def _marks(axis: "Axes", classes: np.ndarray, height: float) -> None:
    """A mark over each column: its class's."""
    for k in np.unique(classes):
        places = np.flatnonzero(classes == k)
        marker = MARKERS[k % len(MARKERS)]
        axis.scatter(places, np.full(len(places), 1 - height), color=CLASSES[k % len(CLASSES)], marker=marker, s=12,
                     transform=axis.get_xaxis_transform(), clip_on=False)  # fmt: skip
