"""Pictures of a training: its curve, and the score by inner steps."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from mapsto.plots.style import BLUE, FAINT, GREEN, canvas, score_axis, whole_numbers

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def learning_curve(metrics: Sequence[Mapping[str, float]], metric: str) -> "Figure":
    """The training loss, raw and smoothed, and below it the validation score with its interval, if there is any.

    Args:
        metrics: rows with `step` and `loss`; those with a validation also have `score` and `interval` (half-width).
        metric: the name of the score; an `accuracy` is shown in per cent.
    """
    losses = [row for row in metrics if "loss" in row and np.isfinite(row["loss"])]
    scores = [row for row in metrics if "score" in row]
    figure, axes = canvas(2 if scores else 1, 1, height=5.2 if scores else 3.2, share=True)
    if losses:
        step, loss = np.array([(row["step"], row["loss"]) for row in losses], dtype=float).T
        smooth = _smooth(loss)
        axes[0].plot(step, loss, color=BLUE, alpha=0.25, linewidth=0.8)
        axes[0].plot(step, smooth, color=BLUE, linewidth=2, marker="o" if len(loss) < 3 else None)
        # A few outliers must not flatten the rest
        low, high = min(np.quantile(loss, 0.005), smooth.min()), max(np.quantile(loss, 0.995), smooth.max())
        if smooth.min() > 0 and smooth.max() > 10 * smooth.min():
            axes[0].set_yscale("log")
            axes[0].yaxis.set_major_formatter("{x:g}")
        elif high > low:
            axes[0].set_ylim(low - 0.08 * (high - low), high + 0.08 * (high - low))
    else:
        axes[0].text(0.5, 0.5, "no finite loss recorded", color=FAINT, ha="center", transform=axes[0].transAxes)
    axes[0].set_ylabel("training loss")
    if scores:
        step, score, half = np.array([(row["step"], row["score"], row.get("interval", 0.0)) for row in scores]).T
        half = np.nan_to_num(half)  # one task has no interval
        axes[1].fill_between(step, score - half, score + half, color=GREEN, alpha=0.2, linewidth=0)
        axes[1].errorbar(step, score, half, color=GREEN, linewidth=2, marker="o", markersize=4, elinewidth=0.8)
        score_axis(axes[1], f"validation {metric}", metric)
    axes[-1].set_xlabel("training step")
    whole_numbers(axes[-1])
    return figure


def score_by_steps(scores: Mapping[int, tuple[float, float]], metric: str, trained_steps: int) -> "Figure":
    """The score, with its interval, after each number of inner steps; a line marks the number trained with.

    Args:
        scores: score and half-width of its interval, by number of inner steps.
        metric: the name of the score; an `accuracy` is shown in per cent.
        trained_steps: the number of inner steps the learner was trained with.
    """
    figure, (axis,) = canvas(1, 1, height=3.2)
    steps = sorted(scores)
    means = [scores[step][0] for step in steps]
    halves = np.nan_to_num([scores[step][1] for step in steps])
    axis.axvline(trained_steps, color=FAINT, linestyle="dashed", linewidth=1.2)
    text = axis.text(trained_steps, 1.02, f"trained with {trained_steps}", color=FAINT, ha="center", size=9)
    text.set_transform(axis.get_xaxis_transform())
    axis.errorbar(steps, means, halves, color=BLUE, linewidth=2, marker="o", markersize=5, elinewidth=1.2, capsize=3)
    axis.set_xlabel("inner steps")
    score_axis(axis, metric, metric)
    whole_numbers(axis)
    return figure


def _smooth(values: np.ndarray) -> np.ndarray:
    """The centred moving average over a twentieth of the values."""
    window = np.ones(2 * (len(values) // 40) + 1)
    return np.convolve(values, window, "same") / np.convolve(np.ones(len(values)), window, "same")
