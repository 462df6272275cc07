"""Criteria: `(prediction, y) -> scalar`, the mean over examples."""

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


def _same_shape(prediction: Tensor, y: Tensor) -> None:
    # Broadcasting here would be silently wrong; most often the model's head has another way than the task.
    if prediction.shape != y.shape:
        raise ValueError(
            f"predictions have shape {tuple(prediction.shape)} but targets {tuple(y.shape)}: "
            "give the model's head as many outputs as the task has classes"
        )
