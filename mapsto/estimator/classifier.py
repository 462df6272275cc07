"""A classifier for a handful of examples a class."""

from collections.abc import Iterable
from itertools import islice, repeat
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from scipy.special import softmax
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_consistent_length, check_is_fitted, column_or_1d, validate_data
from torch.nn.functional import one_hot

from mapsto.calibration import fit_temperature
from mapsto.episode import Episodes, Source, unstack
from mapsto.estimator import saved
from mapsto.estimator.extractor import FeatureExtractor
from mapsto.estimator.heads import fit_head


class FewShotClassifier(ClassifierMixin, BaseEstimator):
    """Features of a trained network, and on them a classifier that does with few examples.

    Classes may have different numbers of examples, from one on, and any labels that can be sorted.

    Args:
        extractor: a `FeatureExtractor`, or the source of one (None for the weights shipped with mapsto).
        base: "logistic" or "centroid" (`mapsto.estimator.heads.fit_head`), or a classifier of scikit-learn's.
        temperature: divides the logits. None for what was found on validation tasks for the shipped weights and
            "logistic", and 1 for all else, whose probabilities `calibrate` makes trustworthy.
        reject: `predict` answers None ("none of these") where no class has at least this probability.

    Attributes:
        classes_: the labels, sorted `[k]`.
        features_: of the examples fitted `[n, d]`, float32.
        labels_: their classes' numbers `[n]`.
        temperature_: the temperature in use.
    """

    def __init__(
        self,
        extractor: Any = None,
        base: Any = "logistic",
        temperature: float | None = None,
        reject: float | None = None,
    ) -> None:
        self.extractor = extractor
        self.base = base
        self.temperature = temperature
        self.reject = reject

    def fit(self, X: Any, y: Any) -> Self:
        """Learn from examples and forget what came before.

        Args:
            X: examples, as for `FeatureExtractor.transform`.
            y: their labels.

        Raises:
            ValueError: there is one class only, or X and y don't fit together.
        """
        X, y = self._checked(X, y)
        self.extractor_ = self._extractor()
        return self._learn(self.extractor_.fit_transform(X), y)

    def partial_fit(self, X: Any, y: Any, classes: Any = None) -> Self:
        """Add examples of known or new classes to those seen; without any, the same as `fit`.

        Args:
            X, y: the new examples.
            classes: all labels there may ever be; others are refused.

        Raises:
            ValueError: as by `fit`; also labels not among `classes`, or of another kind than those known.
        """
        if classes is not None and not np.isin(y, classes).all():
            raise ValueError(f"y holds labels that are not among classes={list(classes)}")
        if not self.__sklearn_is_fitted__():
            return self.fit(X, y)
        X, y = self._checked(X, y, reset=False)
        if y.dtype.kind != self.classes_.dtype.kind:
            raise ValueError(f"the labels are {y.dtype}, but those known are {self.classes_.dtype}: use one kind")
        features = np.concatenate([self.features_, self.extractor_.transform(X)])
        return self._learn(features, np.concatenate([self.classes_[self.labels_], y]))

    def predict_proba(self, X: Any) -> np.ndarray:
        """Probabilities `[n, k]`, columns as in `classes_`."""
        check_is_fitted(self)
        if self._numbers():
            X = validate_data(self, X, dtype=[np.float64, np.float32], reset=False)
        return softmax(self.head_.logits(self.extractor_.transform(X)) / self.temperature_, axis=1)

    def predict(self, X: Any) -> np.ndarray:
        """Labels `[n]`; with `reject`, an array of objects in which None stands for "none of these"."""
        probabilities = self.predict_proba(X)
        labels = self.classes_[probabilities.argmax(1)]
        if self.reject is None:
            return labels
        labels = labels.astype(object)
        labels[probabilities.max(1) < self.reject] = None
        return labels

    def calibrate(self, episodes: Source | Iterable[Episodes], tasks: int = 200) -> Self:
        """Set `temperature` to what makes probabilities right on tasks whose answers are known.

        They should be like the tasks to come in way and shot, and of classes on which the network was not trained.
        The few examples to learn from can't tell: they are all fitted well.

        Args:
            episodes: validation tasks, such as `mapsto.data.Tasks`.
            tasks: how many of them, at most.

        Raises:
            ValueError: there are no tasks.
        """
        logits, targets = self.answers(episodes, tasks)
        self.temperature = fit_temperature(logits, targets)
        if self.__sklearn_is_fitted__():
            self.temperature_ = self.temperature
        return self

    def answers(self, episodes: Source | Iterable[Episodes], tasks: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The logits, before any temperature, and the one-hot targets of all queries of some tasks, `[n, way]` each.

        Raises:
            ValueError: there are no tasks, or they differ in way.
        """
        if isinstance(episodes, Source):
            episodes = map(episodes.batch, range(tasks), repeat(1))
        extractor = self._extractor()
        logits, targets = [], []
        for support, query in islice((episode for many in episodes for episode in unstack(many)), tasks):
            z = extractor.fit_transform(torch.cat([support.x, query.x]))
            rows, way = support.y.shape
            head = fit_head(self.base, z[:rows], support.y.argmax(1).numpy(), way)
            logits.append(torch.from_numpy(head.logits(z[rows:])))
            targets.append(one_hot(query.y.argmax(1), way))
        if len({part.shape[1] for part in targets}) != 1:
            raise ValueError("calibration wants tasks, all with the same number of classes")
        return torch.cat(logits), torch.cat(targets)

    def save(self, path: str | Path) -> None:
        """Keep a fitted classifier as a folder of safetensors and JSON; nothing in it is code.

        Of a classifier of scikit-learn's the features and labels are kept, to which `load` fits it again.

        Raises:
            MapstoError: labels that JSON does not know.
        """
        check_is_fitted(self)
        saved.save(self, Path(path))

    @classmethod
    def load(cls, path: str | Path, extractor: Any = None, base: Any = None) -> Self:
        """Have back what `save` kept.

        Args:
            path: the folder.
            extractor: needed where the network was a module of one's own, which JSON can't hold.
            base: needed where it was a classifier of scikit-learn's.

        Raises:
            MapstoError: the folder holds no classifier, a damaged one, or one that wants `extractor` or `base`.
        """
        return saved.load(cls, Path(path), extractor, base)

    def _checked(self, X: Any, y: Any, reset: bool = True) -> tuple[Any, np.ndarray]:
        if y is None:
            raise ValueError("requires y to be passed, but the target y is None")
        if self._numbers():
            X, y = validate_data(self, X, y, dtype=[np.float64, np.float32], reset=reset)
        else:
            y = column_or_1d(y, warn=True)
            check_consistent_length(X, y)
        check_classification_targets(y)
        return X, y

    def _learn(self, features: np.ndarray, y: np.ndarray) -> Self:
        classes, labels = np.unique(y, return_inverse=True)
        if len(classes) < 2:
            raise ValueError(f"there is one class only, {classes.tolist()[0]!r}: give examples of another")
        self.head_ = fit_head(self.base, features, labels, len(classes))
        self.classes_, self.labels_, self.features_ = classes, labels, features
        self.temperature_ = self._temperature() if self.temperature is None else self.temperature
        return self

    def _temperature(self) -> float:
        """The one shipped for so many examples a class, interpolated if need be; 1 where there is none."""
        known = self.extractor_.encoder_.temperatures
        if not known or self.base != "logistic":
            return 1.0
        shots = sorted(known)
        usual = np.log(np.bincount(self.labels_)).mean()
        return float(np.exp(np.interp(usual, np.log(shots), np.log([known[shot] for shot in shots]))))

    def _extractor(self) -> FeatureExtractor:
        if isinstance(self.extractor, FeatureExtractor):
            return FeatureExtractor(**self.extractor.get_params(deep=False))  # a clone that shares the network
        return FeatureExtractor(self.extractor)

    def _numbers(self) -> bool:
        """Whether the data are features already, for which scikit-learn's own checks of arrays are right."""
        source = self._extractor().source
        return isinstance(source, str) and source == "identity"

    def __sklearn_is_fitted__(self) -> bool:
        return "head_" in vars(self)
