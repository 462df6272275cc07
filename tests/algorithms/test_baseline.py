"""Baselines without episodes: the classifiers are scikit-learn's and the papers', the training plain classification."""

import numpy as np
import pytest
import torch
from conftest import Maker
from torch import Tensor, nn
from torch.nn import functional as F

from mapsto import check, evaluate, fit
from mapsto.algorithms.metric.baseline import Baseline
from mapsto.algorithms.metric.solvers import logistic_regression
from mapsto.data import Labelled, Tasks
from mapsto.data.batches import Batches
from mapsto.episode import unstack
from mapsto.models import MLP, BatchNorm

KINDS = {
    "simpleshot": {},
    "logistic": {"classifier": "logistic"},
    "baseline++": {"head": "cosine", "classifier": "cosine", "steps": 7, "lr": 0.05},
}


def made(kind: str, model: nn.Module | None = None) -> Baseline:
    return Baseline(model or MLP(6, 5, (8,)), 5, 4, **KINDS[kind])  # type: ignore[arg-type]


def clusters(classes: int, each: int, seed: int) -> Labelled:
    rng = np.random.default_rng(seed)
    y = np.repeat(np.arange(classes), each)
    x = rng.normal(size=(classes, 6))[y] + 0.4 * rng.normal(size=(len(y), 6))
    return Labelled(torch.from_numpy(x).float(), y, [str(c) for c in range(classes)])


# ------------------------------------------------------------------------------------------------ the classifiers


def test_nearest_centroid_of_centred_normalised_features(make_episodes: Maker) -> None:
    learner, (one,) = made("simpleshot").double().eval(), unstack(make_episodes(tasks=1))
    learner.mean.copy_(torch.randn(5))

    def features(x: Tensor) -> np.ndarray:
        z = (learner.model(x) - learner.mean).detach().numpy()
        return z / np.linalg.norm(z, axis=1, keepdims=True)

    z, q, labels = features(one.support.x), features(one.query.x), one.support.y.argmax(1).numpy()
    centres = np.stack([z[labels == c].mean(0) for c in range(3)])
    expected = -(((q[:, None] - centres) ** 2).sum(2))
    found = learner.predict(learner.adapt(one.support), one.query.x)
    np.testing.assert_allclose(found.detach().numpy(), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("way", "shot", "d"), [(5, 1, 16), (3, 10, 8), (2, 5, 16)])
@pytest.mark.parametrize("cost", [1.0, 30.0])
def test_logistic_regression_is_scikit_learns(way: int, shot: int, d: int, cost: float) -> None:
    linear = pytest.importorskip("sklearn.linear_model", reason="pip install scikit-learn, to compare with it")
    labels = np.arange(way).repeat(shot)
    z = F.normalize(torch.randn(way, d)[labels] + torch.randn(len(labels), d)).double()
    weight, bias = logistic_regression(z, F.one_hot(torch.from_numpy(labels)).double(), cost)
    # For two classes theirs has one vector, the difference of ours, which is as penalised at twice the cost.
    theirs = linear.LogisticRegression(C=cost * (2 if way == 2 else 1), tol=1e-10, max_iter=10_000).fit(z, labels)
    coefficients, intercept = (weight.T, bias) if way > 2 else ((weight[:, 1] - weight[:, 0])[None], bias.diff())
    np.testing.assert_allclose(coefficients.numpy(), theirs.coef_, rtol=0, atol=1e-5)
    np.testing.assert_allclose(intercept.numpy(), theirs.intercept_, rtol=0, atol=1e-5)


def test_logistic_regression_sees_normalised_features(make_episodes: Maker) -> None:
    learner, (one,) = made("logistic").double(), unstack(make_episodes(tasks=1))
    learner.mean.copy_(torch.randn(5))  # which it does not use
    weight, bias = logistic_regression(F.normalize(learner.model(one.support.x)), one.support.y)
    expected = F.normalize(learner.model(one.query.x)) @ weight + bias
    torch.testing.assert_close(learner.predict(learner.adapt(one.support), one.query.x), expected)


@pytest.mark.parametrize("gradients", [True, False])
def test_a_cosine_head_is_fine_tuned_from_the_class_means(gradients: bool, make_episodes: Maker) -> None:
    learner, (one,) = made("baseline++").double(), unstack(make_episodes(tasks=1))
    z, q = (learner.model(x).detach() for x in (one.support.x, one.query.x))
    z, labels = z / z.norm(dim=1, keepdim=True), one.support.y.argmax(1)
    weight = torch.stack([z[labels == c].mean(0) for c in range(3)]).requires_grad_()
    optimizer = torch.optim.SGD([weight], 0.05)
    for _ in range(7):
        optimizer.zero_grad()
        F.cross_entropy(10 * F.cosine_similarity(z[:, None], weight, dim=2), labels).backward()
        optimizer.step()
    with torch.set_grad_enabled(gradients):
        found = learner.predict(learner.adapt(one.support), one.query.x)
    torch.testing.assert_close(found, 10 * F.cosine_similarity(q[:, None], weight, dim=2))
    assert evaluate(learner, [make_episodes()], steps=0).values.shape == (3,)


# ------------------------------------------------------------------------------------------------ the training


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_is_that_of_all_training_classes(kind: str) -> None:
    learner = made(kind)
    (one,) = unstack(Batches(clusters(4, 6, 0), 9).batch(0, 1))
    z = learner.model(one.query.x)
    if kind == "baseline++":
        logits = 10 * F.cosine_similarity(z[:, None], learner.head.weight, dim=2)
    else:
        logits = z @ learner.head.weight.T + learner.head.bias
    torch.testing.assert_close(learner.loss(one), F.cross_entropy(logits, one.query.y.argmax(1)))


def test_the_mean_of_the_training_features_is_tracked_in_training_only() -> None:
    learner, mean = made("simpleshot"), torch.zeros(5)
    for one in unstack(Batches(clusters(4, 6, 0), 9).batch(0, 5)):
        learner.loss(one)
        mean = 0.99 * mean + 0.01 * learner.model(one.query.x).mean(0)
    torch.testing.assert_close(learner.mean, mean)
    learner.eval().loss(one)  # type: ignore[possibly-unbound]
    torch.testing.assert_close(learner.mean, mean)


@pytest.mark.parametrize("kind", KINDS)
def test_trained_on_some_classes_it_tells_others_apart(kind: str) -> None:
    learner = made(kind, nn.Sequential(nn.Linear(6, 32), BatchNorm(32, "running"), nn.ReLU(), nn.Linear(32, 5)))
    source = Batches(clusters(4, 40, 0), 32)
    losses = fit(learner, source, torch.optim.Adam(learner.parameters(), 1e-2), steps=60)
    assert losses[-1] < 0.5 * losses[0]
    for way in (2, 5):
        scores = evaluate(learner, Tasks(clusters(8, 20, 1), way, 1, 5), tasks=40)
        assert scores.mean > 1 / way + 0.3 and scores.norm == "running"


@pytest.mark.parametrize("kind", KINDS)
def test_it_passes_the_contract(kind: str) -> None:
    found = check(Baseline(MLP(8, 16, (16,)), 16, 5, **KINDS[kind]), train_steps=25)  # type: ignore[arg-type]
    # Its running mean takes minibatches one after the other.
    assert {clause for clause, text in found.items() if not text.startswith("holds")} == {"loop equals vmap"}


def test_mistakes_are_named() -> None:
    with pytest.raises(ValueError, match="'svm' is neither"):
        Baseline(nn.Identity(), 5, 4, "svm")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="'knn' is none of"):
        Baseline(nn.Identity(), 5, 4, classifier="knn")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="choose both"):
        Baseline(nn.Identity(), 5, 4, classifier="cosine")
