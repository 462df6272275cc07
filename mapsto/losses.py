"""Criteria: `(prediction, y) -> scalar`, the mean over examples."""

import math

from torch import Tensor


def cross_entropy(prediction: Tensor, y: Tensor) -> Tensor:
    """Mean cross-entropy of logits `[n, way, ...]` against class probabilities of the same shape (one-hot labels)."""
    _same_shape(prediction, y)
    losses = -(y * prediction.log_softmax(1)).sum(1)
    return losses.mean()


def mse(prediction: Tensor, y: Tensor) -> Tensor:
    """Mean squared error over all elements; both `[n, d]`."""
    _same_shape(prediction, y)
    return (prediction - y).square().mean()


def gaussian_nll(prediction: Tensor, y: Tensor) -> Tensor:
    """Mean over points of the negative log-likelihood, in nats, of independent Gaussians.

    Args:
        prediction: means and standard deviations side by side, `[n, 2 d]`.
        y: `[n, d]`.

    Raises:
        ValueError: the shapes do not fit.
    """
    if prediction.shape != (*y.shape[:1], 2 * y.shape[1]):
        raise ValueError(
            f"a Gaussian likelihood wants means and deviations {(*y.shape[:1], 2 * y.shape[1])}, "
            f"got {tuple(prediction.shape)}: take a learner that predicts both, such as CNP"
        )
    mean, deviation = prediction.chunk(2, 1)
    losses = ((y - mean) / deviation).square() / 2 + deviation.log() + math.log(2 * math.pi) / 2
    return losses.sum(1).mean()


def _same_shape(prediction: Tensor, y: Tensor) -> None:
    # Broadcasting here would be silently wrong; most often the model's head has another way than the task.
    if prediction.shape != y.shape:
        raise ValueError(
            f"predictions have shape {tuple(prediction.shape)} but targets {tuple(y.shape)}: "
            "give the model's head as many outputs as the task has classes"
        )
