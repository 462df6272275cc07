"""Metrics: `(prediction, y) -> scalar`, one task's score."""

import torch
from torch import Tensor

from mapsto.calibration import expected_calibration_error
from mapsto.losses import gaussian_nll, mse

__all__ = ["accuracy", "expected_calibration_error", "log_likelihood", "mse"]


def accuracy(prediction: Tensor, y: Tensor) -> Tensor:
    """The share of examples (or pixels) whose largest output is the labelled class; both `[n, way, ...]`.

    NaN predictions make the score NaN.

    Raises:
        ValueError: the shapes differ, or there is one output only, so that every answer would be right.
    """
    if prediction.shape != y.shape or y.shape[1] < 2:
        raise ValueError(
            f"accuracy wants predictions and one-hot targets of one shape [n, way >= 2, ...], "
            f"got {tuple(prediction.shape)} and {tuple(y.shape)}: for real-valued targets pass metric=mse"
        )
    right = (prediction.argmax(1) == y.argmax(1)).to(torch.float64).mean()
    # argmax makes a class of NaN too, and its score would look like any other
    return right.where(~prediction.isnan().any(), torch.nan)


def log_likelihood(prediction: Tensor, y: Tensor) -> Tensor:
    """Mean over points of the log-likelihood, in nats, of `y` `[n, d]` under independent Gaussians `[n, 2 d]`."""
    return -gaussian_nll(prediction, y)
