"""Probabilities that mean what they say: how far off they are, and the temperature that mends them.

C. Guo, G. Pleiss, Y. Sun, K. Weinberger. On Calibration of Modern Neural Networks. ICML 2017.
https://arxiv.org/abs/1706.04599.
"""

import torch
from torch import Tensor

BOUNDS = 1e-4, 1e4
"""Between which the inverse temperature is sought."""


def expected_calibration_error(probability: Tensor, y: Tensor, bins: int = 15) -> Tensor:
    """The gap between the highest probability and the accuracy, averaged over equal bins of the former (equation 3).

    Of one task's few queries it is too high by chance: join the queries of many tasks first.

    Args:
        probability: `[n, way]`, rows that sum to 1.
        y: one-hot classes `[n, way]`.
        bins: how many; bin b holds the examples with `b / bins < probability <= (b + 1) / bins`.

    Returns:
        A float64 scalar, 0 to 1.

    Raises:
        ValueError: the shapes differ, or the rows are not probabilities.
    """
    if probability.shape != y.shape:
        raise ValueError(f"probabilities have shape {tuple(probability.shape)} but targets {tuple(y.shape)}")
    if probability.min() < 0 or not torch.allclose(probability.sum(1), probability.new_ones(()), atol=1e-4):
        raise ValueError("calibration is a matter of probabilities: rows >= 0 that sum to 1; apply softmax to logits")
    confidence, guess = probability.double().max(1)
    right = (guess == y.argmax(1)).double()
    place = (confidence * bins).ceil().long().clamp(1, bins) - 1
    gaps = torch.zeros(bins, dtype=torch.float64, device=y.device).index_add_(0, place, right - confidence)
    return gaps.abs().sum() / len(y)


def fit_temperature(logits: Tensor, y: Tensor) -> float:
    """The temperature that minimises the mean cross-entropy of `logits / temperature` (section 4.2).

    The cross-entropy is convex in the inverse temperature, so bisection on its slope finds it.

    Args:
        logits: `[n, way]`.
        y: one-hot classes `[n, way]`.

    Returns:
        Between 1e-4 and 1e4: small where all answers are right, large where the logits are no help.
    """
    logits, truth = logits.double(), y.argmax(1)
    wanted = logits.gather(1, truth[:, None])[:, 0]
    low, high = BOUNDS
    for _ in range(60):
        middle = (low * high) ** 0.5
        slope = ((logits * middle).softmax(1) * logits).sum(1) - wanted
        low, high = (middle, high) if slope.mean() < 0 else (low, middle)
    return 1 / (low * high) ** 0.5
