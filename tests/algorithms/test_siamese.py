"""Siamese networks: each objective written plainly, answers from one example and several, objectives of others."""

# pyright: reportArgumentType=false, reportMissingImports=false

import itertools
from typing import Any

import pytest
import torch
from conftest import Maker
from torch import Tensor, nn
from torch.nn import functional as F

from mapsto import Episode, Examples, check, evaluate
from mapsto.algorithms.metric.mining import MINERS
from mapsto.algorithms.metric.siamese import Siamese
from mapsto.episode import unstack
from mapsto.models import MLP

SETTINGS: dict[str, dict[str, Any]] = {
    "verification": {"objective": "verification"},
    "contrastive": {"objective": "contrastive", "margin": 2.0},
    "contrastive-plain": {"objective": "contrastive", "squared": False},
    **{f"triplet-{how}": {"objective": "triplet", "mining": how} for how in MINERS},
    "triplet-unit": {"objective": "triplet", "margin": 0.2, "unit": True},
}


def make(**settings: Any) -> Siamese:
    return Siamese(MLP(6, 4, (8,)), 4, **settings).double()


def task(make_episodes: Maker) -> tuple[Episode, Tensor, Tensor]:
    """One task, all its inputs, and all its labels."""
    (one,) = unstack(make_episodes(tasks=1))
    both = torch.cat([one.support.x, one.query.x]), torch.cat([one.support.y, one.query.y])
    return one, both[0], both[1].argmax(1)


def test_verification_is_equation_of_the_paper(make_episodes: Maker) -> None:
    learner = make()
    one, x, labels = task(make_episodes)
    z, (w, b) = learner.model(x), (learner.judge.weight[0], learner.judge.bias[0])
    costs: dict[bool, list[Tensor]] = {True: [], False: []}
    for i, j in itertools.combinations(range(len(z)), 2):
        p = torch.sigmoid((w * (z[i] - z[j]).abs()).sum() + b)
        same = bool(labels[i] == labels[j])
        costs[same].append(-torch.log(p if same else 1 - p))
    expected = (torch.stack(costs[True]).mean() + torch.stack(costs[False]).mean()) / 2
    torch.testing.assert_close(learner.loss(one), expected)


@pytest.mark.parametrize("squared", [True, False])
def test_contrastive(squared: bool, make_episodes: Maker) -> None:
    learner = make(objective="contrastive", margin=0.6, squared=squared)
    one, x, labels = task(make_episodes)
    z = learner.model(x)
    costs: dict[bool, list[Tensor]] = {True: [], False: []}
    for i, j in itertools.combinations(range(len(z)), 2):
        d, same = (z[i] - z[j]).norm(), bool(labels[i] == labels[j])
        cost = d if same else (0.6 - d).relu()
        costs[same].append(cost**2 / 2 if squared else cost)
    expected = (torch.stack(costs[True]).mean() + torch.stack(costs[False]).mean()) / 2
    torch.testing.assert_close(learner.loss(one), expected)


@pytest.mark.parametrize("squared", [True, False])
@pytest.mark.parametrize("unit", [True, False])
def test_triplet_with_hard_mining(squared: bool, unit: bool, make_episodes: Maker) -> None:
    learner = make(objective="triplet", margin=0.3, squared=squared, mining="hard", unit=unit)
    one, x, labels = task(make_episodes)
    z = learner.model(x)
    z = z / z.norm(dim=1, keepdim=True) if unit else z
    costs = []
    for a in range(len(z)):
        d = (z[a] - z).square().sum(1) if squared else torch.stack([(z[a] - other).norm() for other in z])
        costs.append((0.3 + d[labels == labels[a]].max() - d[labels != labels[a]].min()).relu())
    torch.testing.assert_close(learner.loss(one), torch.stack(costs).mean())


@pytest.mark.parametrize("objective", ["verification", "triplet"])
def test_answers_are_averaged_over_the_examples_of_a_class(objective: str) -> None:
    learner = make(objective=objective)
    x, q = torch.randn(5, 6, dtype=torch.float64), torch.randn(3, 6, dtype=torch.float64)
    labels = torch.tensor([1, 0, 1, 2, 1])  # unequal classes, in any order
    got = learner.predict(learner.adapt(Examples(x, F.one_hot(labels).double())), q)
    z, zq = learner.model(x), learner.model(q)
    for i, c in itertools.product(range(3), range(3)):
        known = z[labels == c]
        plain = torch.stack([-(zq[i] - k).norm() for k in known])
        if objective == "verification":
            p = torch.stack([torch.sigmoid(learner.judge((zq[i] - k).abs())[0]) for k in known])
            plain = (p / (1 - p)).log()
        torch.testing.assert_close(got[i, c], plain.mean())


@pytest.mark.parametrize("name", SETTINGS)
def test_contract(name: str) -> None:
    found = check(Siamese(MLP(8, 16, (16,)), 16, **SETTINGS[name]), train_steps=30)
    assert all(text.startswith("holds") for text in found.values())


@pytest.mark.parametrize("name", SETTINGS)
def test_gradient_is_finite_where_examples_are_equal(name: str, make_episodes: Maker) -> None:
    learner = make(**SETTINGS[name])
    one, _, _ = task(make_episodes)
    one.query.x[:] = one.support.x[0]
    learner.loss(one).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in learner.parameters())


def test_another_way_at_test(make_episodes: Maker) -> None:
    learner = make()
    learner(make_episodes(way=3)).backward()
    assert len(evaluate(learner, [make_episodes(way=7, shot=1)]).values) == 3


# ------------------------------------------------------------------------------------------------ objectives of others


def proxies(z: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of cosines to each class's mean."""
    means = torch.stack([z[labels == c].mean(0) for c in labels.unique()])
    return F.cross_entropy(F.cosine_similarity(z[:, None], means, dim=2), labels)


def test_a_function_is_an_objective(make_episodes: Maker) -> None:
    learner = make(objective=proxies)
    one, x, labels = task(make_episodes)
    assert learner.loss(one).equal(proxies(learner.model(x), labels))
    found = check(Siamese(MLP(8, 16, (16,)), 16, proxies, unit=True), train_steps=30)
    assert {clause for clause, text in found.items() if not text.startswith("holds")} == {"loop equals vmap"}


def test_objectives_and_miners_of_pytorch_metric_learning(make_episodes: Maker) -> None:
    pytest.importorskip("pytorch_metric_learning", reason="pip install pytorch-metric-learning, to plug it in")
    from pytorch_metric_learning import losses, miners

    criterion, miner = losses.TripletMarginLoss(), miners.BatchHardMiner()
    one, x, labels = task(make_episodes)
    learner = make(objective=criterion, mining=miner, unit=True)
    z = F.normalize(learner.model(x), dim=1)
    assert learner.loss(one).equal(criterion(z, labels, miner(z, labels)))
    assert not learner.loss(one).equal(criterion(z, labels))
    assert make(objective=criterion).loss(one).isfinite()
    assert check(Siamese(MLP(8, 16, (16,)), 16, criterion, mining=miner, unit=True), train_steps=30)
    # A loss with weights of its own has them learned.
    owner = Siamese(nn.Linear(6, 4), 4, losses.NormalizedSoftmaxLoss(num_classes=3, embedding_size=4)).double()
    owner.loss(one).backward()
    assert {name for name, p in owner.named_parameters() if p.grad is not None} == {
        "model.weight", "model.bias", "objective.W"
    }  # fmt: skip


def test_mistakes() -> None:
    for wrong in ({"objective": "quadruplet"}, {"mining": "soft"}):
        with pytest.raises(ValueError, match="is none of"):
            make(**wrong)
    with pytest.raises(ValueError, match="objective of your own"):
        make(objective="triplet", mining=lambda z, labels: labels)
