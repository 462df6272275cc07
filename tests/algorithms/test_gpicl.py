"""GPICL: what a query may look at, and the contract."""

import pytest
import torch
from conftest import Maker
from tiny import Tiny
from torch.nn.functional import one_hot

from mapsto import Examples, check, evaluate, fit
from mapsto.algorithms.model_based.gpicl import GPICL
from mapsto.algorithms.model_based.in_context import InContext
from mapsto.data.projections import Projections
from mapsto.episode import unstack


def small() -> GPICL:
    return GPICL(6, 3, width=16, depth=2, heads=2).double()


def test_a_query_sees_itself_and_the_support_only(make_episodes: Maker) -> None:
    support, query = unstack(make_episodes(tasks=1))[0]
    learner = small()
    asked, known = query.x.clone().requires_grad_(), support.x.clone().requires_grad_()
    learner.predict(learner.adapt(Examples(known, support.y)), asked)[3].sum().backward()
    assert asked.grad is not None and known.grad is not None
    seen = asked.grad.abs().sum(1) > 0
    assert seen.tolist() == [i == 3 for i in range(len(seen))]
    assert (known.grad.abs().sum(1) > 0).all()


def test_the_support_is_a_set(make_episodes: Maker) -> None:
    support, query = unstack(make_episodes(tasks=1))[0]
    learner, order = small(), torch.randperm(len(support.x))
    shuffled = Examples(support.x[order], support.y[order])
    a, b = (learner.predict(learner.adapt(s), query.x) for s in (support, shuffled))
    torch.testing.assert_close(a, b)
    wrong = Examples(support.x, support.y.roll(1, 1))
    assert not torch.allclose(a, learner.predict(learner.adapt(wrong), query.x), atol=1e-3)


def test_one_pass_over_support_and_query_with_a_mask_says_the_same(make_episodes: Maker) -> None:
    """The transformer as papers draw it: one sequence, and a mask with the support's columns alone."""
    support, query = unstack(make_episodes(tasks=1))[0]
    learner, n = small(), len(support.x)
    x = torch.cat([support.x, query.x])
    y = torch.cat([support.y, torch.zeros(len(query.x), 3, dtype=torch.float64)])
    tokens = learner.embed(torch.cat([x, y], 1))
    mask = torch.zeros(len(x), len(x), dtype=torch.bool)
    mask[:, :n] = True
    for block in learner.transformer.blocks:
        tokens = block(tokens, mask=mask)
    expected = learner.head(learner.transformer.norm(tokens))[n:]
    torch.testing.assert_close(learner.predict(learner.adapt(support), query.x), expected)


def test_padding_is_not_seen() -> None:
    transformer, tokens, asked = InContext(8, 2, 2).double(), torch.randn(5, 8).double(), torch.randn(2, 8).double()
    padded = torch.cat([tokens, torch.randn(3, 8).double()])
    mask = torch.arange(8) < 5
    expected = transformer.answer(asked, transformer.read(tokens))
    torch.testing.assert_close(transformer.answer(asked, transformer.read(padded, mask), mask), expected)
    assert not torch.allclose(transformer.answer(asked, transformer.read(padded)), expected)


def test_contract(make_episodes: Maker) -> None:
    tasks = make_episodes(tasks=2, dtype=torch.float32)
    found = check(small().float(), tasks, train_steps=20)
    assert all(text.startswith("holds") for text in found.values())


def test_it_learns_to_learn_from_random_projections() -> None:
    """Held-out tasks, and so many in training that none can be known by heart."""
    data = Tiny().train
    train, test = (Projections(data, 3, 3, 4, features=4, seed=seed) for seed in range(2))
    learner = GPICL(4, 3, width=16, depth=1, heads=2)
    before = evaluate(learner, test, tasks=64).mean
    fit(learner, train, torch.optim.Adam(learner.parameters(), 1e-2), steps=100, batch=8)
    assert evaluate(learner, test, tasks=64).mean > max(before, 0.33) + 0.15


def test_what_does_not_fit_is_named() -> None:
    learner = GPICL(6, 3, width=16, depth=2, heads=2)
    y = one_hot(torch.arange(4), 4).float()
    with pytest.raises(ValueError, match="3-way tasks, this one is 4-way"):
        learner.adapt(Examples(torch.zeros(4, 6), y))
    with pytest.raises(ValueError, match="6 numbers an input, this one has 7"):
        learner.adapt(Examples(torch.zeros(4, 7), y[:, :3]))
    with pytest.raises(ValueError, match="3 heads do not divide"):
        GPICL(6, 3, width=16, heads=3)
    with pytest.raises(ValueError, match="depth=0"):
        GPICL(6, 3, depth=0)
