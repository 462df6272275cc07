"""The classifier for tables: scikit-learn's habits, and what its network is shown."""

import warnings
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_iris, load_wine
from sklearn.model_selection import cross_val_score, train_test_split
from torch.nn.functional import one_hot

from mapsto import Episode, Examples, fit
from mapsto.algorithms.model_based.pfn import PFN
from mapsto.errors import MapstoError
from mapsto.tabular import TabularPFN


@pytest.fixture(scope="module")
def trained() -> PFN:
    """Trained on three clusters in four dimensions, enough for irises."""
    torch.manual_seed(0)
    network = PFN(6, 4, width=16, depth=1, heads=2)
    y = torch.eye(3).repeat(8, 1).expand(16, 24, 3)

    def supply() -> Iterator[Episode]:
        while True:
            centres = 2 * torch.randn(16, 3, 4)
            support, query = (Examples(y @ centres + torch.randn(16, 24, 4), y) for _ in range(2))
            yield Episode(support, query)

    fit(network, supply(), torch.optim.Adam(network.parameters(), 1e-2), steps=100)
    return network


def test_it_has_learned_to_learn(trained: PFN) -> None:
    X, y = load_iris(return_X_y=True)
    X, X_test, y, y_test = train_test_split(X, y, train_size=60, random_state=0, stratify=y)
    assert TabularPFN(trained).fit(X, y).score(X_test, y_test) > 0.75  # chance is a third


def test_the_answer_is_the_members_mean() -> None:
    X, y = load_iris(return_X_y=True)
    network = PFN(6, 4, width=16, depth=1, heads=2)
    model = TabularPFN(network, members=3, random_state=5).fit(X[::2], y[::2])
    rng, expected = np.random.default_rng(5), np.zeros((75, 3))
    x, q = torch.from_numpy(X[::2]).float(), torch.from_numpy(X[1::2]).float()
    for _ in range(3):
        columns, order = rng.permutation(4), rng.permutation(3)
        fast = network.adapt(Examples(x[:, columns], one_hot(torch.from_numpy(order[y[::2]]), 3).float()))
        answer = network.predict(fast, q[:, columns]).softmax(1).detach().numpy()
        for c in range(3):
            expected[:, c] += answer[:, order[c]] / 3
    np.testing.assert_allclose(model.predict_proba(X[1::2]), expected, atol=1e-5)
    np.testing.assert_allclose(model.predict_proba(X[1::2]).sum(1), 1, atol=1e-6)
    # Units do not matter, and neither do large offsets.
    moved = TabularPFN(network, members=3, random_state=5).fit(X[::2] * 1e-3 + 1e4, y[::2])
    np.testing.assert_allclose(moved.predict_proba(X[1::2] * 1e-3 + 1e4), expected, atol=1e-4)


def test_scikit_learn_takes_it_for_one_of_its_own(trained: PFN) -> None:
    X, y = load_iris(return_X_y=True)
    names = np.array(["setosa", "versicolor", "virginica"])[y]
    model = TabularPFN(trained, members=2)
    copy = clone(model)
    assert isinstance(copy, TabularPFN) and copy.get_params()["members"] == 2
    scores = cross_val_score(model, X, names, cv=3)
    assert len(scores) == 3 and scores.mean() > 0.8
    fitted = model.fit(X, names)
    assert list(fitted.classes_) == sorted(set(names)) and set(fitted.predict(X)) <= set(names)
    again = copy.fit(X, names)
    np.testing.assert_array_equal(again.predict_proba(X), fitted.predict_proba(X))


def test_more_features_than_the_network_takes() -> None:
    X, y = load_wine(return_X_y=True)
    with pytest.warns(UserWarning, match="of 13 features each of the 4 members sees 6"):
        model = TabularPFN(PFN(6, 3, width=16, depth=1), members=4).fit(X, y)
    assert all(len(member.columns) == 6 for member in model.members_)
    assert len({c for member in model.members_ for c in member.columns}) > 9
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        TabularPFN(PFN(13, 3, width=16, depth=1), members=1).fit(X, y)


def test_mistakes_are_named() -> None:
    X, y = load_iris(return_X_y=True)
    network = PFN(6, 3, width=16, depth=1)
    holed = X.copy()
    holed[7, 2] = np.nan
    with pytest.raises(ValueError, match=r"row 7, column 2 of X is nan"):
        TabularPFN(network).fit(holed, y)
    model = TabularPFN(network).fit(X, y)
    holed[7, 2] = np.inf
    with pytest.raises(ValueError, match=r"row 7, column 2 of X is inf"):
        model.predict(holed)
    with pytest.raises(ValueError, match="3 features"):
        model.predict(X[:, :3])
    with pytest.raises(ValueError, match="y has 1 class; the network takes 2 to 3"):
        TabularPFN(network).fit(X[:50], y[:50])
    with pytest.raises(ValueError, match="y has 5 classes"):
        TabularPFN(network).fit(X, np.arange(150) % 5)
    with pytest.raises(ValueError, match="members must be at least 1"):
        TabularPFN(network, members=0).fit(X, y)
    with pytest.raises(MapstoError, match="not a run folder"):
        TabularPFN("/nowhere").fit(X, y)
