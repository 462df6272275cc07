"""Few-shot classification with scikit-learn's habits."""

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from samples import blobs, clone, tasks
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.neighbors import KNeighborsClassifier, NearestCentroid
from sklearn.svm import SVC
from sklearn.tree import DecisionTreeClassifier
from sklearn.utils.estimator_checks import check_estimator
from torch.nn.functional import cross_entropy

from mapsto.episode import unstack
from mapsto.estimator import FeatureExtractor, FewShotClassifier


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "estimator",
    [
        FewShotClassifier("identity"),
        FewShotClassifier("identity", "centroid"),
        FewShotClassifier("identity", DecisionTreeClassifier(random_state=0)),
        FeatureExtractor("identity"),
    ],
    ids=str,
)
def test_scikit_learns_own_checks(estimator: Any) -> None:
    """All that apply to numbers pass; those of pandas and of other arrays want libraries that need not be here."""
    found = check_estimator(estimator, on_skip=None)
    assert len(found) > 40
    assert {check["check_name"] for check in found if check["status"] != "passed"} <= {
        "check_array_api_input",
        "check_classifier_data_not_an_array",
        "check_transformer_data_not_an_array",
    }


@pytest.mark.parametrize("way", [2, 3])
def test_logistic_is_scikit_learns(way: int) -> None:
    """Its strength of shrinkage is that of features whose mean squared distance from their mean is 1."""
    x, y = blobs(5, way)
    new, _ = blobs(20, way, seed=1)
    found = FewShotClassifier("identity").fit(x, y).predict_proba(new)
    power = np.square(x - x.mean(0)).sum(1).mean()
    wanted = LogisticRegression(C=1 / power, tol=1e-8, max_iter=1000).fit(x, y).predict_proba(new)
    np.testing.assert_allclose(found, wanted, atol=1e-3)
    moved = FewShotClassifier("identity").fit(0.01 * x + 1, y).predict_proba(0.01 * new + 1)
    np.testing.assert_allclose(found, moved, atol=1e-3)


def test_centroid_is_the_squared_distance() -> None:
    x, y = blobs(5)
    new, _ = blobs(20, seed=1)
    found = FewShotClassifier("identity", "centroid", temperature=2.0).fit(x, y)
    assert (found.predict(new) == NearestCentroid().fit(x, y).predict(new)).all()
    means = np.stack([x[y == k].mean(0) for k in range(3)])
    logits = torch.from_numpy(-np.square(new[:, None] - means).sum(2) / 2)
    np.testing.assert_allclose(found.predict_proba(new), logits.softmax(1), atol=1e-4)


def test_unbalanced_classes_weigh_the_same() -> None:
    """Two clouds, 2 examples against 60: what lies half way belongs to both."""
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(30, 2)) * 0.3
    right = np.array([1.0, 0])
    x = np.concatenate([[-right, -right], right + noise, right - noise])
    y = np.array(["few", "few"] + ["many"] * 60)
    found = FewShotClassifier("identity").fit(x, y)
    share = found.predict_proba([[0.0, 0.0]])[0]
    plain = LogisticRegression().fit(x, y).predict_proba([[0.0, 0.0]])[0]
    assert abs(share[0] - 0.5) < 0.15 < abs(plain[0] - 0.5)


def test_classes_and_examples_come_later() -> None:
    x, y = blobs(5, way=4)
    names = np.array(["ant", "bee", "cat", "a longer name"])[y]
    first = y < 2
    found = FewShotClassifier("identity").partial_fit(x[first], names[first])
    assert found.classes_.tolist() == ["ant", "bee"]
    found.partial_fit(x[~first], names[~first])
    again = FewShotClassifier("identity").fit(x, names)
    assert found.classes_.tolist() == again.classes_.tolist() == sorted(set(names))
    np.testing.assert_allclose(found.predict_proba(x), again.predict_proba(x), atol=1e-5)
    with pytest.raises(ValueError, match="one kind"):
        found.partial_fit(x[:1], [7])
    with pytest.raises(ValueError, match="not among"):
        found.partial_fit(x[:1], ["dog"], classes=["ant", "bee"])
    with pytest.raises(ValueError, match="one class only, 'ant'"):
        FewShotClassifier("identity").fit(x[:5], names[:5])


def test_reject() -> None:
    x, y = blobs(5)
    names = np.array(["a", "b", "c"])[y]
    found = FewShotClassifier("identity", reject=0.9).fit(x, names)
    asked = np.concatenate([3 * x[:1], np.zeros((1, 6))])
    assert found.predict(asked).tolist() == ["a", None]
    assert FewShotClassifier("identity").fit(x, names).predict(asked).dtype.kind == "U"


class Nearest(ClassifierMixin, BaseEstimator):
    """Gives labels alone."""

    def fit(self, X: np.ndarray, y: np.ndarray) -> "Nearest":
        self.classes_, self.x_, self.y_ = np.unique(y), X, y
        return self

    def predict(self, X: np.ndarray) -> np.ndarray:
        return self.y_[np.square(X[:, None] - self.x_).sum(2).argmin(1)]


@pytest.mark.parametrize("base", [SVC(), RidgeClassifier(), KNeighborsClassifier(3), Nearest()])
@pytest.mark.parametrize("way", [2, 3])
def test_any_classifier_on_top(base: BaseEstimator, way: int) -> None:
    """Its own answers, whether it gives probabilities, scores or labels alone."""
    x, y = blobs(6, way)
    new, _ = blobs(20, way, seed=1)
    found = FewShotClassifier("identity", base).fit(x, np.array(["a", "b", "c"])[y])
    own: Any = clone(base)
    wanted = np.array(["a", "b", "c"])[own.fit(x, y).predict(new)]
    assert (found.predict(new) == wanted).mean() > 0.97  # float32 against float64
    np.testing.assert_allclose(found.predict_proba(new).sum(1), 1)


def test_unknown_base() -> None:
    for base in ("forest", SVC):
        with pytest.raises(ValueError, match="nor a classifier of scikit-learn's"):
            FewShotClassifier("identity", base).fit(*blobs(3))


# ------------------------------------------------------------------------------------------------ calibration


def test_calibrate() -> None:
    """The temperature is the best on queries of those tasks, each answered by a classifier of its own support."""
    found = FewShotClassifier("identity", "centroid").calibrate(tasks(), 30)
    logits, labels = [], []
    for support, query in unstack(tasks().batch(0, 30)):
        own = FewShotClassifier("identity", "centroid", temperature=1.0).fit(support.x, support.y.argmax(1))
        logits.append(np.log(own.predict_proba(query.x)))
        labels.append(query.y.argmax(1))
    all_logits, all_labels = torch.from_numpy(np.concatenate(logits)), torch.cat(labels)
    losses = [cross_entropy(all_logits / t, all_labels).item() for t in np.array([0.98, 1, 1.02]) * found.temperature]
    assert losses[1] < min(losses[0], losses[2])
    assert clone(found).fit(*blobs(3)).temperature_ == found.temperature
    before = FewShotClassifier("identity", "centroid").fit(*blobs(3))
    assert before.calibrate(
        list(unstack(tasks().batch(0, 30)) and [tasks().batch(0, 30)])
    ).temperature_ == pytest.approx(found.temperature)
    with pytest.raises(ValueError, match="same number of classes"):
        before.calibrate([])


CODE = """
import sys
sys.modules["sklearn"] = None
import mapsto
try:
    import mapsto.estimator
except mapsto.MapstoError as error:
    print(error)
"""


def test_without_scikit_learn() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    assert done.stdout == "mapsto.estimator wants scikit-learn: pip install 'mapsto[sklearn]'\n"
