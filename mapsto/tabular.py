"""A classifier for small tables: no training on the table, one look at its labelled rows (scikit-learn's habits)."""

import warnings
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from torch.nn.functional import one_hot

from mapsto.algorithms.model_based.pfn import PFN, Table
from mapsto.episode import Examples
from mapsto.errors import MapstoError
from mapsto.finished import load

try:
    from sklearn.base import BaseEstimator, ClassifierMixin
    from sklearn.utils.multiclass import check_classification_targets
    from sklearn.utils.validation import check_is_fitted, validate_data
except ImportError:
    raise MapstoError("mapsto.tabular wants scikit-learn: pip install 'mapsto[sklearn]'") from None

SHIPPED = Path(__file__).parent / "assets" / "pfn-tables"
"""The run that comes with mapsto, as from `mapsto train pfn/tables`."""
_ROWS = 2048
"""Rows answered at a time."""


class _Member(NamedTuple):
    """One look at the table: the columns seen, in what order the classes were numbered, and what was learned."""

    columns: np.ndarray
    order: np.ndarray
    fast: Table


class TabularPFN(ClassifierMixin, BaseEstimator):
    """Classify the rows of a small table by a prior-data fitted network (`mapsto.algorithms.model_based.pfn`).

    Features are numbers, standardised by the rows fitted; codes of categories are taken for numbers. The network was
    trained with some 24 to 128 labelled rows; it takes more, but need not be better for them.

    Args:
        network: a `PFN`, or the folder of a run of one; None for the weights shipped with mapsto.
        members: how often the table is looked at, with its columns and classes in another random order each time; the
            mean probability is the answer. A table with more columns than the network takes shows each member others.
        random_state: of those orders.

    Attributes:
        classes_: the labels, sorted `[k]`.
    """

    def __init__(self, network: Any = None, members: int = 8, random_state: int = 0) -> None:
        self.network = network
        self.members = members
        self.random_state = random_state

    def fit(self, X: Any, y: Any) -> Self:
        """Look at the labelled rows, and forget what came before.

        Args:
            X: numbers `[n, features]`.
            y: labels `[n]`.

        Raises:
            ValueError: X holds NaN or infinity or no numbers; there are fewer than two classes, or more than the
                network takes; `members` is not positive.
            MapstoError: `network` is no run of a `PFN`.
        """
        if self.members < 1:
            raise ValueError(f"members must be at least 1, not {self.members}")
        _check_finite(X)
        X, y = validate_data(self, X, y, dtype=np.float64)
        check_classification_targets(y)
        network = _network(self.network)
        self.classes_, labels = np.unique(y, return_inverse=True)
        k, features = len(self.classes_), X.shape[1]
        if not 2 <= k <= network.max_way:
            raise ValueError(f"y has {k} class{'es' * (k > 1)}; the network takes 2 to {network.max_way}")
        if features > network.max_inputs:
            warnings.warn(
                f"of {features} features each of the {self.members} members sees {network.max_inputs} at random: "
                "choose the best, or raise members",
                stacklevel=2,
            )
        # In float64, lest a large offset drown what a feature says; the network standardises once more.
        self.mean_, self.scale_ = X.mean(0), X.std(0)
        self.scale_[self.scale_ <= 1e-9 * np.abs(self.mean_)] = np.inf
        self.network_ = network
        rng = np.random.default_rng(self.random_state)
        rows, self.members_ = self._rows(X), []
        for _ in range(self.members):
            columns, order = rng.permutation(features)[: network.max_inputs], rng.permutation(k)
            targets = one_hot(torch.from_numpy(order[labels]), k).float()
            with torch.no_grad():
                self.members_.append(_Member(columns, order, network.adapt(Examples(rows[:, columns], targets))))
        return self

    def predict_proba(self, X: Any) -> np.ndarray:
        """Probabilities `[n, k]`, columns as in `classes_`.

        Raises:
            ValueError: X holds NaN or infinity, or has other columns than in `fit`.
        """
        check_is_fitted(self)
        _check_finite(X)
        rows = self._rows(validate_data(self, X, dtype=np.float64, reset=False))
        with torch.no_grad():
            return np.concatenate([self._answer(part) for part in rows.split(_ROWS)])

    def predict(self, X: Any) -> np.ndarray:
        """Labels `[n]`."""
        return self.classes_[self.predict_proba(X).argmax(1)]

    def _rows(self, X: Any) -> torch.Tensor:
        return torch.from_numpy((X - self.mean_) / self.scale_).float()

    def _answer(self, rows: torch.Tensor) -> np.ndarray:
        answers = [
            self.network_.predict(member.fast, rows[:, member.columns]).double().softmax(1)[:, member.order]
            for member in self.members_
        ]
        return torch.stack(answers).mean(0).numpy()


def _network(source: Any) -> PFN:
    if isinstance(source, PFN):
        return source.eval()
    folder = SHIPPED if source is None else Path(source)
    learner = load(folder, device="cpu").learner
    if not isinstance(learner, PFN):
        raise MapstoError(f"{folder} is a run of {type(learner).__name__}: take one of PFN, such as pfn/tables")
    return learner


def _check_finite(X: Any) -> None:
    """Name the first cell that is missing; all else is checked by scikit-learn.

    Raises:
        ValueError: it is NaN or infinite.
    """
    values = np.asarray(X)
    if values.ndim == 2 and values.dtype.kind == "f" and not np.isfinite(values).all():
        row, column = np.argwhere(~np.isfinite(values))[0]
        raise ValueError(
            f"row {row}, column {column} of X is {values[row, column]} (NaN or inf): fill in what is missing, with "
            "sklearn.impute.SimpleImputer, or drop the row"
        )
