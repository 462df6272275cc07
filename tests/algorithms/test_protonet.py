"""Prototypical networks: the plain formula, another way at test, unequal classes."""

# pyright: reportArgumentType=false, reportIndexIssue=false

import numpy as np
import pytest
import torch
from conftest import Maker
from torch import Tensor, nn
from torch.nn import functional as F

from mapsto import Examples, evaluate
from mapsto.algorithms import ProtoNet
from mapsto.algorithms.metric.distances import cosine, squared_euclidean
from mapsto.episode import unstack
from mapsto.models import MLP, BatchNorm


def logits(learner: ProtoNet, support: Examples, x: Tensor) -> Tensor:
    return learner.predict(learner.adapt(support), x)


def test_distance_is_squared() -> None:
    # pitfall: minus the distance, (-3, -2), where the paper has minus its square
    support = Examples(torch.tensor([[3.0, 0.0], [0.0, 2.0]]), torch.eye(2))
    assert logits(ProtoNet(nn.Identity()), support, torch.zeros(1, 2)).tolist() == [[-9.0, -4.0]]
    assert logits(ProtoNet(nn.Identity(), temperature=2.0), support, torch.zeros(1, 2)).tolist() == [[-4.5, -2.0]]


@pytest.mark.parametrize("distance", ["euclidean", "cosine"])
def test_logits_equal_the_plain_formula(distance: str, make_episodes: Maker) -> None:
    learner = ProtoNet(MLP(6, 4, (8,)).double(), distance, 0.5)
    (one,) = unstack(make_episodes(tasks=1))
    got, z, q = logits(learner, one.support, one.query.x), learner.model(one.support.x), learner.model(one.query.x)
    for i in range(len(q)):
        for c in range(3):
            prototype = z[one.support.y[:, c] == 1].mean(0)
            squared, angle = ((q[i] - prototype) ** 2).sum(), F.cosine_similarity(q[i], prototype, dim=0)
            plain = angle if distance == "cosine" else -squared
            torch.testing.assert_close(got[i, c], plain / 0.5, rtol=1e-11, atol=1e-11)


def test_distances_are_twice_differentiable() -> None:
    # pitfall: torch.cdist has no second derivative
    a, b = (torch.randn(n, 3, dtype=torch.float64, requires_grad=True) for n in (4, 2))
    for distance in (squared_euclidean, cosine):
        assert torch.autograd.gradgradcheck(distance, (a, b))


def test_a_zero_row_has_cosine_zero() -> None:
    a = torch.zeros(1, 3, requires_grad=True)
    similarity = cosine(a, torch.ones(2, 3))
    similarity.sum().backward()
    assert similarity.tolist() == [[0.0, 0.0]] and a.grad is not None and a.grad.isfinite().all()


@pytest.mark.parametrize("shots", [(2, 2, 2), (1, 4, 2)], ids=["balanced", "unbalanced"])
def test_prototypes_and_answers_are_those_of_scikit_learn(shots: tuple[int, ...]) -> None:
    neighbors = pytest.importorskip("sklearn.neighbors", reason="pip install scikit-learn, to compare with it")
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.repeat(np.arange(3), shots))
    x, q = rng.normal(size=(len(labels), 5)), rng.normal(size=(40, 5))
    theirs = neighbors.NearestCentroid().fit(x, labels)
    learner = ProtoNet(nn.Identity())
    fast = learner.adapt(Examples(torch.from_numpy(x), F.one_hot(torch.from_numpy(labels), 3).double()))
    np.testing.assert_allclose(fast.what.numpy(), theirs.centroids_, rtol=1e-12)
    np.testing.assert_array_equal(learner.predict(fast, torch.from_numpy(q)).argmax(1).numpy(), theirs.predict(q))


def test_another_way_at_test(make_episodes: Maker) -> None:
    learner = ProtoNet(MLP(6, 4).double())
    learner(make_episodes(way=3)).backward()
    for way in (2, 5, 9):
        (one,) = unstack(make_episodes(tasks=1, way=way))
        assert logits(learner, one.support, one.query.x).shape == (way * 4, way)
        assert len(evaluate(learner, [make_episodes(way=way)]).values) == 3


@pytest.mark.parametrize("norm", ["none", "transductive", "support", "running"])
def test_training_loss_is_that_of_adapt_and_predict(norm: str, make_episodes: Maker) -> None:
    layers = [] if norm == "none" else [BatchNorm(4, norm)]
    learner = ProtoNet(nn.Sequential(nn.Linear(6, 4), *layers).double())
    (one,) = unstack(make_episodes(tasks=1))
    both = torch.cat([one.support.x, one.query.x])
    if norm == "running":
        # As in the paper's code: support and query pass through batch norm together in training.
        weight = learner.model[0]
        z = F.batch_norm(weight(both), None, None, training=True)
        means = torch.stack([z[:6][one.support.y[:, c] == 1].mean(0) for c in range(3)])
        expected = F.cross_entropy(-(torch.cdist(z[6:], means) ** 2), one.query.y.argmax(1))
        torch.testing.assert_close(learner.loss(one), expected)
        learner.eval()
    expected = F.cross_entropy(logits(learner, one.support, one.query.x), one.query.y.argmax(1))
    torch.testing.assert_close(learner.loss(one), expected)


def test_segmentation_makes_every_pixel_an_example() -> None:
    x = torch.rand(2, 1, 3, 3)
    y = F.one_hot((x[:, 0] > 0.5).long(), 2).movedim(-1, 1).float()
    out = logits(ProtoNet(nn.Identity()), Examples(x, y), x)
    dark, bright = x[x <= 0.5].mean(), x[x > 0.5].mean()
    torch.testing.assert_close(out, torch.cat([-((x - dark) ** 2), -((x - bright) ** 2)], 1))


def test_unknown_distance() -> None:
    with pytest.raises(ValueError, match="manhattan"):
        ProtoNet(nn.Identity(), "manhattan")
