"""CAML: label vectors, one sequence a query, and the contract."""

import pytest
import torch
from conftest import Maker
from torch import nn

from mapsto import Examples, check
from mapsto.algorithms.model_based.caml import CAML, elmes
from mapsto.attention import Block
from mapsto.episode import unstack
from mapsto.models.frozen import Frozen


def small(way: int = 3) -> CAML:
    return CAML(nn.Linear(6, 8), 8, way, label=8, depth=2, heads=2).double()


@pytest.mark.parametrize(("way", "size"), [(2, 2), (5, 5), (5, 64), (20, 32)])
def test_label_vectors(way: int, size: int) -> None:
    vectors = elmes(way, size).double()
    expected = torch.full((way, way), -1 / (way - 1), dtype=torch.float64).fill_diagonal_(1)
    torch.testing.assert_close(vectors @ vectors.T, expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(vectors.sum(0), torch.zeros(size, dtype=torch.float64), atol=1e-6, rtol=0)
    assert elmes(way, size).equal(elmes(way, size))
    # Permuted vectors are the same vectors, rotated: no class is special.
    order = torch.randperm(way)
    rotation = torch.linalg.lstsq(vectors, vectors[order]).solution
    torch.testing.assert_close(vectors @ rotation, vectors[order], atol=1e-6, rtol=0)


def test_label_vectors_that_cannot_be() -> None:
    for way, size in ((1, 8), (5, 4)):
        with pytest.raises(ValueError, match=f"size {size} for {way} classes"):
            elmes(way, size)


def test_each_query_has_a_sequence_of_its_own(make_episodes: Maker) -> None:
    support, query = unstack(make_episodes(tasks=1))[0]
    learner = small()
    with torch.no_grad():
        learner.unknown.normal_()
    together = learner.predict(learner.adapt(support), query.x)
    for i in range(len(query.x)):  # one sequence as the paper writes it
        z = learner.model(torch.cat([query.x[i : i + 1], support.x]))
        labels = torch.cat([learner.unknown[None], support.y @ (learner.scale * learner.labels)])
        encoded = learner.encoder(torch.cat([z, labels], 1))
        torch.testing.assert_close(together[i], learner.head.weight @ encoded[0])
    asked = query.x.clone().requires_grad_()
    learner.predict(learner.adapt(support), asked)[2].sum().backward()
    assert asked.grad is not None
    assert [bool(row.any()) for row in asked.grad] == [i == 2 for i in range(len(asked))]


def test_the_support_is_a_set_and_its_labels_count(make_episodes: Maker) -> None:
    support, query = unstack(make_episodes(tasks=1))[0]
    learner, order = small(), torch.randperm(len(support.x))
    a, b, c = (
        learner.predict(learner.adapt(s), query.x)
        for s in (support, Examples(support.x[order], support.y[order]), Examples(support.x, support.y[order]))
    )
    torch.testing.assert_close(a, b)
    assert not torch.allclose(a, c, atol=1e-6)


def test_classes_that_swap_vectors_swap_predictions_if_the_encoder_is_blind_to_which_is_whose() -> None:
    """The label vectors alone favour no class: with a read-out by those vectors, a permutation of classes is exact."""
    learner = CAML(nn.Identity(), 2, 3, label=3, depth=1, heads=1).double()
    block, norm = learner.encoder
    assert isinstance(block, Block) and isinstance(norm, nn.RMSNorm)
    attention = block.attention
    with torch.no_grad():  # attention by features, values are labels; the perceptron and the norms' gains are idle
        for p in learner.parameters():
            p.zero_()
        block.before.weight.fill_(1)
        norm.weight.fill_(1)
        learner.scale.fill_(1)
        for linear in (attention.query, attention.key):
            linear.weight[:2, :2] = 0.3 * torch.eye(2)
        for linear in (attention.value, attention.out):
            linear.weight[2:, 2:] = torch.eye(3)
        learner.head.weight[:, 2:] = learner.labels
    x, q = torch.randn(6, 2).double(), torch.randn(4, 2).double()
    y, order = torch.eye(3).double().repeat(2, 1), torch.tensor([2, 0, 1])
    a = learner.predict(learner.adapt(Examples(x, y)), q)
    b = learner.predict(learner.adapt(Examples(x, y[:, order])), q)
    torch.testing.assert_close(a[:, order], b)
    assert a.std(1).min() > 1e-3


def test_contract(make_episodes: Maker) -> None:
    tasks = make_episodes(tasks=2, dtype=torch.float32)
    found = check(small().float(), tasks, train_steps=20)
    assert all(text.startswith("holds") for text in found.values())


def test_frozen_features_stay(make_episodes: Maker) -> None:
    learner = CAML(Frozen(nn.Linear(6, 8)), 8, 3, label=8, depth=1, heads=2)
    assert [name for name, p in learner.named_parameters() if not p.requires_grad] == [
        "model.model.weight", "model.model.bias"
    ]  # fmt: skip
    tasks = make_episodes(tasks=2, dtype=torch.float32)
    assert check(learner, tasks, train_steps=20)["learns"].startswith("holds")


def test_another_way_is_refused() -> None:
    with pytest.raises(ValueError, match="3-way tasks, this one is 2-way"):
        small().adapt(Examples(torch.zeros(2, 6).double(), torch.eye(2).double()))
