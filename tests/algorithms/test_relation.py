"""Relation networks: the module on pairs put side by side, means over shots, and the embedding written in torch.nn."""

import pytest
import torch
from conftest import Maker
from torch import Tensor, nn
from torch.nn import functional as F

from mapsto import Examples, check, evaluate
from mapsto.algorithms.metric.relation import Relation
from mapsto.episode import unstack
from mapsto.models import Conv4
from mapsto.models.relation import ConvMaps


def small(filters: int = 8) -> Relation:
    """On vectors of 8, of which a linear layer makes maps of 4x4."""
    return Relation(nn.Sequential(nn.Linear(8, 64), nn.Unflatten(1, (4, 4, 4))), 4, filters)


def plainly(learner: Relation, of_class: Tensor, of_query: Tensor) -> Tensor:
    """The relation score of one class's and one query's maps, as figure 2 of the paper draws it."""
    part = learner.relation
    x = torch.cat([of_class, of_query])[None]
    for conv, norm in zip((part.first, part.second), part.norms, strict=True):
        x = F.max_pool2d(F.relu(norm(conv(x))), 2)
    inner, _, outer = part.head
    return torch.sigmoid(outer(F.relu(inner(x.flatten(1)))))[0, 0]


def test_scores_and_loss_equal_the_paper(make_episodes: Maker) -> None:
    learner = small().double()
    (one,) = unstack(make_episodes((8,), tasks=1))
    z, q = learner.model(one.support.x), learner.model(one.query.x)
    got = learner.predict(learner.adapt(one.support), one.query.x)
    errors = []
    for i in range(len(q)):
        for c in range(3):
            of_class = z[one.support.y[:, c] == 1].mean(0)
            expected = plainly(learner, of_class, q[i])
            torch.testing.assert_close(got[i, c], expected)
            errors.append((expected - one.query.y[i, c]) ** 2)
    torch.testing.assert_close(learner.loss(one), torch.stack(errors).mean())


def test_one_pixel_left_is_what_the_paper_flattens() -> None:
    learner = Relation(ConvMaps(filters=8), 8, 8)
    x = torch.rand(3, 1, 28, 28)
    maps = learner.model(x)
    got = learner.relation(maps[:2], maps[2:])
    torch.testing.assert_close(got[0, 1], plainly(learner, maps[1], maps[2]))


def test_contract() -> None:
    found = check(small(16), train_steps=40)
    assert all(text.startswith("holds") for text in found.values())


def test_another_way_at_test(make_episodes: Maker) -> None:
    learner = small().double()
    learner(make_episodes((8,), way=3)).backward()
    assert len(evaluate(learner, [make_episodes((8,), way=7)]).values) == 3


def test_images_with_running_statistics(make_episodes: Maker) -> None:
    learner = Relation(ConvMaps(3, 8, "running"), 8, 8).double()
    episodes = make_episodes((3, 28, 28), tasks=2)
    learner(episodes).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in learner.parameters())
    scores = evaluate(learner, [episodes], lambda p, y: ((p > 0) & (p < 1)).double().mean())
    assert scores.norm == "running" and scores.mean == 1


def test_an_embedding_without_maps() -> None:
    for model, features in ((Conv4(), 64), (nn.Conv2d(1, 4, 26), 4)):
        with pytest.raises(ValueError, match="ConvMaps"):
            Relation(model, features).adapt(Examples(torch.rand(2, 1, 28, 28), torch.eye(2)))


# ------------------------------------------------------------------------------------------------ the embedding


def test_embedding_equals_the_network_written_in_torch() -> None:
    def block(before: int, padding: int, pool: nn.Module) -> nn.Sequential:
        conv = nn.Conv2d(before, 5, 3, padding=padding, bias=False)
        return nn.Sequential(conv, nn.BatchNorm2d(5), nn.ReLU(), pool)

    pools = (nn.MaxPool2d(2), nn.MaxPool2d(2), nn.Identity(), nn.Identity())
    befores, paddings = (3, 5, 5, 5), (0, 0, 1, 1)
    theirs = nn.Sequential(*map(block, befores, paddings, pools)).double()
    ours = ConvMaps(3, 5, "running").double()
    with torch.no_grad():
        for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
            b.copy_(a.add_(0.1 * torch.randn_like(a)))
    x = torch.randn(4, 3, 28, 28, dtype=torch.float64)
    results = []
    for model in (ours, theirs):
        trained = model.train()(x)
        results.append([trained, model.eval()(x), *torch.autograd.grad(trained.sin().sum(), list(model.parameters()))])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("size", "left"), [(28, 5), (84, 19)])
def test_sizes_are_the_papers(size: int, left: int) -> None:
    assert ConvMaps(1, 64)(torch.rand(2, 1, size, size)).shape == (2, 64, left, left)
