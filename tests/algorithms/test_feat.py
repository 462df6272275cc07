"""FEAT: the reference's attention and auxiliary loss written plainly, one task and one class at a time."""

import torch
from conftest import Maker
from torch import Tensor, nn
from torch.nn import functional as F

from mapsto import check, evaluate
from mapsto.algorithms.metric.feat import FEAT
from mapsto.episode import unstack
from mapsto.models import MLP


def attended(learner: FEAT, rows: list[Tensor]) -> list[Tensor]:
    """One head, vector by vector."""
    part = learner.attention
    query, key, value = ([m.weight @ row for row in rows] for m in (part.query, part.key, part.value))
    out = []
    for row, q in zip(rows, query, strict=True):
        share = torch.stack([(q @ k) / len(row) ** 0.5 for k in key]).softmax(0)
        read = sum(s * v for s, v in zip(share, value, strict=True))
        total = row + part.out.weight @ read + part.out.bias
        out.append(total / (total.square().mean() + torch.finfo(total.dtype).eps).sqrt() * learner.norm.weight)
    return out


def learner_of(contrast: float) -> FEAT:
    learner = FEAT(MLP(6, 5, (8,)), 5, contrast=contrast, temperature=2.0, contrast_temperature=3.0).double().eval()
    learner.norm.weight.data = torch.rand(5).double() + 0.5
    return learner


def test_logits_are_the_references(make_episodes: Maker) -> None:
    learner, (one,) = learner_of(0.0), unstack(make_episodes(tasks=1))
    z, q = learner.model(one.support.x), learner.model(one.query.x)
    means = [z[one.support.y[:, c] == 1].mean(0) for c in range(3)]
    adapted = attended(learner, means)
    expected = torch.stack([torch.stack([-(row - c).square().sum() / 2.0 for c in adapted]) for row in q])
    found = learner.predict(learner.adapt(one.support), one.query.x)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(learner.loss(one), F.cross_entropy(expected, one.query.y.argmax(1)))


def test_the_auxiliary_loss_is_the_references(make_episodes: Maker) -> None:
    plain, learner, (one,) = learner_of(0.0), learner_of(0.7), unstack(make_episodes(tasks=1))
    plain.load_state_dict(learner.state_dict())
    z = learner.model(torch.cat([one.support.x, one.query.x]))
    labels = torch.cat([one.support.y, one.query.y]).argmax(1)
    centres = [torch.stack(attended(learner, list(z[labels == c]))).mean(0) for c in range(3)]
    logits = torch.stack([torch.stack([-(row - c).square().sum() / 3.0 for c in centres]) for row in z])
    torch.testing.assert_close(learner.loss(one), plain.loss(one) + 0.7 * F.cross_entropy(logits, labels))


def test_dropout_is_of_what_is_added(make_episodes: Maker) -> None:
    learner = FEAT(nn.Identity(), 6, dropout=0.999999).double().train()
    (one,) = unstack(make_episodes(tasks=1))
    means = torch.stack([one.support.x[one.support.y[:, c] == 1].mean(0) for c in range(3)])
    torch.testing.assert_close(learner.adapt(one.support).what, F.rms_norm(means, (6,)))
    assert (learner.eval().adapt(one.support).what - F.rms_norm(means, (6,))).abs().max() > 0.01


def test_it_passes_the_contract() -> None:
    found = check(FEAT(MLP(8, 16, (16,)), 16, temperature=4.0), train_steps=25)
    assert all(text.startswith("holds") for text in found.values())


def test_another_way_at_test(make_episodes: Maker) -> None:
    learner = FEAT(MLP(6, 4), 4, heads=2)
    for way in (2, 7):
        assert len(evaluate(learner, [make_episodes(way=way, dtype=torch.float32)]).values) == 3
