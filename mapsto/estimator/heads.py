"""What goes on top of features: a linear classifier of ours, or any classifier of scikit-learn's."""

from typing import Any, NamedTuple, Protocol

import numpy as np
from sklearn.base import BaseEstimator, clone
from sklearn.linear_model import LogisticRegression

BASES = "logistic", "centroid"
"""The classifiers of ours, which need no pickle to be kept."""
TINY = 1e-12
"""The probability of what an estimator takes for impossible."""


class Head(Protocol):
    """A fitted classifier of features."""

    def logits(self, z: np.ndarray) -> np.ndarray:
        """float64 `[n, way]` for features `[n, d]`: their softmax are probabilities, not yet calibrated."""
        ...


class Linear(NamedTuple):
    """`z @ weight.T + bias`; weight `[way, d]`, bias `[way]`."""

    weight: np.ndarray
    bias: np.ndarray

    def logits(self, z: np.ndarray) -> np.ndarray:
        return z.astype(np.float64) @ self.weight.T + self.bias


class Fitted(NamedTuple):
    """A fitted classifier of scikit-learn's for labels among 0 to `way - 1`."""

    estimator: Any
    way: int

    def logits(self, z: np.ndarray) -> np.ndarray:
        known = self.estimator.classes_
        result = np.full((len(z), self.way), np.log(TINY))
        if probabilities := getattr(self.estimator, "predict_proba", None):
            result[:, known] = np.log(np.maximum(probabilities(z), TINY))
        elif decision := getattr(self.estimator, "decision_function", None):
            scores = decision(z)
            result[:, known] = np.stack([-scores, scores], 1) / 2 if scores.ndim == 1 else scores
        else:
            result[np.arange(len(z)), self.estimator.predict(z)] = 0.0
        return result


def fit_head(base: Any, z: np.ndarray, labels: np.ndarray, way: int) -> Head:
    """Fit a classifier to features.

    Args:
        base: "logistic", multinomial logistic regression (Tian et al. 2020) in which every class weighs the same,
            however many its examples, and features count in units of their own spread; "centroid", the squared distance
            to the classes' means (Snell et al. 2017); or a classifier of scikit-learn's, of which a copy is fitted.
        z: features `[n, d]`.
        labels: int64 `[n]`, 0 to `way - 1`.
        way: the number of classes.

    Raises:
        ValueError: `base` is none of these, or fails.
    """
    z = z.astype(np.float64)
    if isinstance(base, str) and len(np.unique(labels)) < way:
        raise ValueError(f"{way} classes want an example each, but only {len(np.unique(labels))} have one")
    if base == "logistic":
        # Shrinkage of weights makes sense only for features of known size: networks' lie close together, or far from 0
        middle = z.mean(0)
        spread = np.sqrt(np.square(z - middle).sum(1).mean()) or 1.0
        fitted = LogisticRegression(class_weight="balanced", max_iter=1000).fit((z - middle) / spread, labels)
        weight, bias = fitted.coef_ / spread, fitted.intercept_
        if way == 2:
            weight, bias = weight * [[-0.5], [0.5]], bias * [-0.5, 0.5]
        return Linear(weight, bias - weight @ middle)
    if base == "centroid":
        means = np.stack([z[labels == k].mean(0) for k in range(way)])
        return Linear(2 * means, -np.square(means).sum(1))
    if not isinstance(base, BaseEstimator):
        raise ValueError(f"base={base!r} is neither 'logistic' nor 'centroid' nor a classifier of scikit-learn's")
    copy: Any = clone(base)
    return Fitted(copy.fit(z, labels), way)
