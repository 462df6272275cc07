"""Transductive refinements: each paper's algorithm in NumPy, with loops; and the mark that every such score carries."""

# pyright: reportArgumentType=false

import numpy as np
import pytest
import torch
from conftest import Maker
from torch import Tensor, nn

from mapsto import check, evaluate
from mapsto.algorithms import MAML, ProtoNet
from mapsto.algorithms.metric.baseline import Baseline
from mapsto.algorithms.metric.refine import METHODS, Refined, laplacian, pt_map, soft_kmeans
from mapsto.episode import unstack
from mapsto.models import MLP

WAY, SHOT, QUERIES, SIZE = 3, 2, 6, 8


@pytest.fixture
def features() -> tuple[Tensor, Tensor, Tensor]:
    """Overlapping clusters of features that are not negative: support, its targets, queries."""
    centres, y = torch.randn(WAY, SIZE).double(), torch.eye(WAY).double()
    parts = [centres.repeat_interleave(n, 0) for n in (SHOT, QUERIES)]
    z, q = ((part + 0.8 * torch.randn(part.shape)).relu() for part in parts)
    return z, y.repeat_interleave(SHOT, 0), q


def softmax(logits: np.ndarray) -> np.ndarray:
    p = np.exp(logits - logits.max(1, keepdims=True))
    return p / p.sum(1, keepdims=True)


def squares(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.array([[((u - v) ** 2).sum() for v in b] for u in a])


# ------------------------------------------------------------------------------------------------ the algorithms


@pytest.mark.parametrize("steps", [1, 3])
def test_soft_kmeans(steps: int, features: tuple[Tensor, Tensor, Tensor]) -> None:
    z, y, q = (part.numpy() for part in features)
    centres = np.stack([z[y[:, c] == 1].mean(0) for c in range(WAY)])
    for _ in range(steps):
        p = softmax(-squares(q, centres))
        centres = np.stack([(y[:, c] @ z + p[:, c] @ q) / (y[:, c].sum() + p[:, c].sum()) for c in range(WAY)])
    np.testing.assert_allclose(soft_kmeans(*features, steps=steps).numpy(), -squares(q, centres), rtol=1e-10)


def test_laplacian(features: tuple[Tensor, Tensor, Tensor]) -> None:
    z, y, q = (part.numpy() for part in features)
    unary = squares(q, np.stack([z[y[:, c] == 1].mean(0) for c in range(WAY)]))
    votes = np.zeros((len(q), len(q)))
    for i, row in enumerate(squares(q, q)):
        others = [j for j in np.argsort(row) if j != i]
        votes[i, others[:2]] = 1.0
    p = softmax(-unary)
    for _ in range(20):
        p = softmax(-unary + 0.7 * votes @ p)
    found = laplacian(*features, weight=0.7).softmax(1).numpy()
    np.testing.assert_allclose(found, p, rtol=1e-8, atol=1e-12)
    assert abs(found - softmax(-unary)).max() > 0.05
    assert laplacian(*features[:2], features[2][:1]).shape == (1, WAY)  # a query without neighbours


def test_pt_map(features: tuple[Tensor, Tensor, Tensor]) -> None:
    # The released program, with its QR reduction (a rotation) left out.
    z, y, q = (part.numpy() for part in features)

    def unit(x: np.ndarray) -> np.ndarray:
        return x / np.linalg.norm(x, axis=1, keepdims=True)

    z, q = (unit((part + 1e-6) ** 0.5) for part in (z, q))
    z, q = (unit(part - part.mean(0)) for part in (z, q))

    def transported(centres: np.ndarray) -> np.ndarray:
        p = np.exp(-10 * squares(q, centres))
        p /= p.sum()
        for _ in range(1000):
            p *= (1 / p.sum(1))[:, None]
            p *= (QUERIES / p.sum(0))[None]
        return p

    centres = np.stack([z[y[:, c] == 1].mean(0) for c in range(WAY)])
    for _ in range(20):
        p = np.concatenate([y, transported(centres)])
        estimate = p.T @ np.concatenate([z, q]) / p.sum(0)[:, None]
        centres = centres + 0.2 * (estimate - centres)
    found = pt_map(*features, balance=1000).exp().numpy()
    np.testing.assert_allclose(found, transported(centres), rtol=1e-8, atol=1e-12)
    np.testing.assert_allclose(found.sum(0), QUERIES)
    np.testing.assert_allclose(pt_map(*features).exp().numpy(), found, atol=0.02)


# ------------------------------------------------------------------------------------------------ the learner


@pytest.mark.parametrize("method", METHODS)
def test_it_passes_the_contract_and_is_marked(method: str, make_episodes: Maker) -> None:
    learner = Refined(ProtoNet(MLP(8, 16, (16,))), method)
    found = check(learner, train_steps=20)
    unclaimed = {clause for clause, text in found.items() if not text.startswith("holds")}
    assert unclaimed == {"queries do not see each other"}
    plain, tasks = ProtoNet(MLP(6, 4)), make_episodes(dtype=torch.float32)
    assert (evaluate(plain, [tasks]).norm, evaluate(Refined(plain, method), [tasks]).norm) == ("none", "transductive")


@pytest.mark.parametrize("method", METHODS)
def test_it_trains_as_the_learner_and_refines_its_features(method: str, make_episodes: Maker) -> None:
    inner = Baseline(MLP(6, 5), 5, 3).double()
    inner.mean.copy_(torch.randn(5))
    learner, (one,) = Refined(inner, method).eval(), unstack(make_episodes(tasks=1))
    torch.testing.assert_close(learner.loss(one), inner.loss(one))
    assert learner.supervised and learner.exact
    expected = METHODS[method](inner.embed(one.support.x), one.support.y, inner.embed(one.query.x))
    torch.testing.assert_close(learner.predict(learner.adapt(one.support), one.query.x), expected)


def test_queries_help_each_other() -> None:
    # One example a class of clusters that overlap: twenty queries tell where the clusters are.
    generator = torch.Generator().manual_seed(0)
    right = dict.fromkeys(["alone", *METHODS], 0)
    for _ in range(20):
        centres, y = 1.2 * torch.randn(5, 16, generator=generator), torch.eye(5)
        z = centres + torch.randn(5, 16, generator=generator)
        q = centres.repeat_interleave(20, 0) + torch.randn(100, 16, generator=generator)
        labels = torch.arange(5).repeat_interleave(20)
        right["alone"] += int((torch.cdist(q, z).argmin(1) == labels).sum())
        for name, method in METHODS.items():
            right[name] += int((method(z, y, q).argmax(1) == labels).sum())
    assert all(right[name] > right["alone"] for name in METHODS), right


def test_mistakes_are_named() -> None:
    with pytest.raises(ValueError, match="'tim' is none of soft-kmeans"):
        Refined(ProtoNet(nn.Identity()), "tim")
    with pytest.raises(ValueError, match="MAML has no embedding"):
        Refined(MAML(MLP(6, 3)), "pt-map")
