"""Losses and miners: torch's own, pytorch-metric-learning's, plain formulas and a plain triple loop."""

# pyright: reportMissingImports=false

import itertools
import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from mapsto.algorithms.metric import mining, pairs
from mapsto.algorithms.metric.mining import MINERS

LABELS = torch.tensor([0, 1, 2, 0, 0, 1, 2, 2, 1, 3])
"""Of unequal classes in no order; class 3 has no pair."""


def points(n: int = 10) -> Tensor:
    return torch.randn(n, 4, dtype=torch.float64, requires_grad=True)


def same_class(labels: Tensor = LABELS) -> Tensor:
    return pairs.same_class(F.one_hot(labels).double())


def all_distances(z: Tensor) -> Tensor:
    return pairs.distance(z[:, None], z)


# ------------------------------------------------------------------------------------------------ losses


def test_distance() -> None:
    a, b = points(5), points(3)
    torch.testing.assert_close(pairs.distance(a[:, None], b), torch.cdist(a, b))
    torch.testing.assert_close(pairs.distance(a[:, None], b, squared=True), torch.cdist(a, b) ** 2)
    assert torch.autograd.gradgradcheck(lambda a, b: pairs.distance(a[:, None], b), (a, b))


def test_gradient_where_two_points_coincide() -> None:
    # pitfall: the derivative of the square root is infinite at 0, and 0 times infinity is NaN
    z = torch.tensor([[1.0, 2.0], [1.0, 2.0], [4.0, 6.0]], requires_grad=True)
    between = all_distances(z)
    assert between[0].tolist() == [0.0, 0.0, 5.0]
    (grad,) = torch.autograd.grad(between.sum(), z)
    torch.testing.assert_close(grad, torch.tensor([[-1.2, -1.6], [-1.2, -1.6], [2.4, 3.2]]))


def test_same_class() -> None:
    assert torch.equal(same_class(), LABELS[:, None] == LABELS)


@pytest.mark.parametrize("squared", [True, False])
def test_contrastive_equals_the_plain_formula(squared: bool) -> None:
    # pitfall: the paper's Y is 1 for pairs that DIFFER; `same` is true for those that do not
    between, same = [0.0, 0.4, 3.0, 0.0, 0.4, 3.0], [True, True, True, False, False, False]
    got = pairs.contrastive(torch.tensor(between), torch.tensor(same), margin=2.0, squared=squared)
    for loss, d, alike in zip(got.tolist(), between, same, strict=True):
        expected = d if alike else max(0.0, 2.0 - d)
        assert math.isclose(loss, expected**2 / 2 if squared else expected, rel_tol=1e-6)


def test_verification_is_minus_the_log_of_the_probability() -> None:
    p = torch.tensor([0.9, 0.9, 0.2])
    got = pairs.verification(p.logit(), torch.tensor([True, False, False]))
    torch.testing.assert_close(got, -torch.tensor([0.9, 0.1, 0.8]).log())


@pytest.mark.parametrize("squared", [True, False])
def test_triplet_equals_torch(squared: bool) -> None:
    a, p, n = points(), points(), points()
    got = pairs.triplet(pairs.distance(a, p, squared), pairs.distance(a, n, squared), 0.7)
    theirs = F.triplet_margin_with_distance_loss(
        a, p, n, distance_function=lambda x, y: ((x - y) ** 2).sum(1), margin=0.7, reduction="none"
    )
    if not squared:
        theirs = F.triplet_margin_loss(a, p, n, margin=0.7, eps=0.0, reduction="none")
    torch.testing.assert_close(got, theirs)
    assert 0 < (got == 0).sum() < len(got)


def test_balanced_weighs_both_kinds_alike() -> None:
    losses, same = torch.tensor([8.0, 1.0, 2.0, 3.0]), torch.tensor([True, False, False, False])
    assert pairs.balanced(losses, same) == (8 + 2) / 2
    assert pairs.mean(losses, torch.zeros(4, dtype=torch.bool)) == 0


# ------------------------------------------------------------------------------------------------ mining


def loop(d: list[list[float]], labels: list[int], how: str) -> set[tuple[int, int, int]]:
    """The triplets, by the definitions."""
    n, found = len(labels), set()
    for a in range(n):
        positives = [p for p in range(n) if p != a and labels[p] == labels[a]]
        negatives = [k for k in range(n) if labels[k] != labels[a]]
        if how == "hard" and positives:
            found.add((a, max(positives, key=lambda p: d[a][p]), min(negatives, key=lambda k: d[a][k])))
        for p in positives if how == "semihard" else []:
            further = [k for k in negatives if d[a][k] > d[a][p]]
            chosen = min(further, key=lambda k: d[a][k]) if further else max(negatives, key=lambda k: d[a][k])
            found.add((a, p, chosen))
    return found


def triplets(found: mining.Triplets) -> list[tuple[int, ...]]:
    anchor, positive, negative, valid = found
    return list(zip(anchor[valid].tolist(), positive[valid].tolist(), negative[valid].tolist(), strict=True))


@pytest.mark.parametrize("how", ["semihard", "hard"])
def test_mining_equals_a_plain_loop(how: str) -> None:
    for _ in range(20):
        between = all_distances(points()).detach()
        got = triplets(MINERS[how](between, same_class()))
        assert len(got) == len(set(got)) and set(got) == loop(between.tolist(), LABELS.tolist(), how)


def test_random_takes_every_pair_and_a_negative_at_random() -> None:
    counts = torch.zeros(4, 10)
    for seed in range(300):
        order = torch.randperm(10, generator=torch.Generator().manual_seed(seed))
        labels = LABELS[order]
        got = triplets(mining.random(torch.zeros(10, 10), same_class(labels)))
        plain = itertools.permutations(range(10), 2)
        assert [(a, p) for a, p, _ in got] == [(a, p) for a, p in plain if labels[a] == labels[p]]
        assert all(labels[a] != labels[k] for a, _, k in got)
        for a, _, k in got:
            counts[labels[a], order[k]] += 1
    for label in range(3):  # by the class of the anchor: each example that is not of it equally often
        drawn = counts[label][label != LABELS]
        share, draws = 1 / len(drawn), drawn.sum()
        assert (drawn / draws - share).abs().max() < 4 * (share * (1 - share) / draws) ** 0.5


def test_random_scatters_the_negatives_of_a_sorted_task() -> None:
    labels = torch.arange(20).repeat_interleave(6)
    got = triplets(mining.random(torch.zeros(120, 120), same_class(labels)))
    classes = [len({int(labels[k]) for a, _, k in got if a == anchor}) for anchor in range(120)]
    assert sum(classes) / 120 > 3.5  # of the five negatives of an anchor; neighbours would be of one class or two
    assert len({k for _, _, k in got}) == 120


@pytest.mark.parametrize("how", MINERS)
def test_mining_vmaps_and_does_without_triplets(how: str) -> None:
    between = torch.stack([all_distances(points()).detach() for _ in range(3)])
    for labels in (LABELS, torch.zeros(10, dtype=torch.long), torch.arange(10)):
        same = same_class(labels).expand(3, 10, 10)
        together = torch.vmap(MINERS[how])(between, same)
        for i in range(3):
            one = MINERS[how](between[i], same[i])
            assert all(a[i].equal(b) for a, b in zip(together, one, strict=True))
            assert one.valid.any() == (labels is LABELS)


def test_losses_are_those_of_pytorch_metric_learning() -> None:
    pytest.importorskip("pytorch_metric_learning", reason="pip install pytorch-metric-learning, to compare with it")
    from pytorch_metric_learning import distances, losses, miners, reducers

    plain = {"distance": distances.LpDistance(normalize_embeddings=False), "reducer": reducers.MeanReducer()}
    z, same = points(), same_class()
    between = all_distances(z)
    # Theirs adds the means of both kinds of pairs, ours halves that.
    theirs = losses.ContrastiveLoss(0.0, 2.5, **plain)(z, LABELS)
    first, second = torch.triu_indices(10, 10, 1)
    ours = pairs.contrastive(between[first, second], same[first, second], 2.5, squared=False)
    torch.testing.assert_close(2 * pairs.balanced(ours, same[first, second]), theirs)
    mined = miners.BatchHardMiner(distance=plain["distance"])(z, LABELS)
    theirs = losses.TripletMarginLoss(0.7, **plain)(z, LABELS, mined)
    anchor, positive, negative, valid = mining.hard(between, same)
    ours = pairs.triplet(between[anchor, positive], between[anchor, negative], 0.7)
    torch.testing.assert_close(pairs.mean(ours, valid), theirs)
