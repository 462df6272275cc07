"""Matching networks: equation 1 and appendix A written plainly, with torch's own LSTMs; the temperature's trap."""

import math

import pytest
import torch
from conftest import Maker
from torch import Tensor, nn
from torch.nn import functional as F

from mapsto import Examples, check, evaluate
from mapsto.algorithms.metric.matching import FullContext, LSTMCell, Matching
from mapsto.episode import unstack
from mapsto.models import MLP


def answers(learner: Matching, support: Examples, x: Tensor) -> Tensor:
    return learner.predict(learner.adapt(support), x)


def test_answers_equal_equation_1(make_episodes: Maker) -> None:
    learner = Matching(MLP(6, 4, (8,)).double(), 4, temperature=0.5)
    (one,) = unstack(make_episodes(tasks=1))
    got, z, q = answers(learner, one.support, one.query.x), learner.model(one.support.x), learner.model(one.query.x)
    for i in range(len(q)):
        raised = torch.stack([(F.cosine_similarity(q[i], known, dim=0) / 0.5).exp() for known in z])
        y = ((raised / raised.sum())[:, None] * one.support.y).sum(0)
        torch.testing.assert_close(got[i].exp(), y)
    cost = F.nll_loss(got, one.query.y.argmax(1))
    torch.testing.assert_close(learner.loss(one), cost)


def test_without_a_temperature_no_answer_is_sure() -> None:
    # pitfall: the paper's cosine has no temperature; whatever is learned, these are the best probabilities
    support = Examples(-torch.eye(5), torch.eye(5))
    opposite = Examples(torch.tensor([[1.0], [-1.0], [-1.0], [-1.0], [-1.0]]), torch.eye(5))
    for examples, expected in ((support, math.e / (math.e + 4)), (opposite, math.e / (math.e + 4 / math.e))):
        best = answers(Matching(nn.Identity(), 5, temperature=1.0), examples, examples.x[:1])[0, 0].exp()
        assert math.isclose(best, expected, rel_tol=1e-6)
        assert answers(Matching(nn.Identity(), 5), examples, examples.x[:1])[0, 0].exp() > 0.999
    assert round(math.e / (math.e + 4), 2) == 0.40 and round(math.e / (math.e + 4 / math.e), 2) == 0.65


def test_a_class_without_any_attention_costs_something_finite() -> None:
    model = nn.Linear(2, 2, bias=False)
    model.weight.data = torch.eye(2)
    learner = Matching(model, 2, temperature=1e-3)
    support = Examples(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]), torch.eye(2))
    loss = learner.criterion(answers(learner, support, torch.tensor([[1.0, 0.0]])), torch.tensor([[0.0, 1.0]]))
    loss.backward()
    assert 50 < loss.item() < 200
    assert all(p.grad is not None and p.grad.isfinite().all() for p in learner.parameters())


# ------------------------------------------------------------------------------------------------ full context


def copied(ours: LSTMCell, theirs: nn.Module, suffix: str = "") -> None:
    """Their weights become ours: one matrix for input and hidden state side by side, and the sum of their biases."""
    inputs = getattr(theirs, f"weight_ih{suffix}").shape[1]
    with torch.no_grad():
        getattr(theirs, f"weight_ih{suffix}").copy_(ours.gates.weight[:, :inputs])
        getattr(theirs, f"weight_hh{suffix}").copy_(ours.gates.weight[:, inputs:])
        getattr(theirs, f"bias_ih{suffix}").copy_(ours.gates.bias - 0.3)
        getattr(theirs, f"bias_hh{suffix}").fill_(0.3)


def test_support_in_context_is_a_bidirectional_lstm_with_skip() -> None:
    context = FullContext(4, 3).double()
    theirs = nn.LSTM(4, 4, bidirectional=True).double()
    copied(context.forth, theirs, "_l0")
    copied(context.back, theirs, "_l0_reverse")
    z = torch.randn(7, 4, dtype=torch.float64)
    forth, back = theirs(z)[0].chunk(2, 1)
    torch.testing.assert_close(context.support(z), forth + back + z)


@pytest.mark.parametrize("reads", [1, 3])
def test_query_in_context_is_an_attending_lstm(reads: int) -> None:
    context = FullContext(4, reads).double()
    theirs = nn.LSTMCell(8, 4).double()
    copied(context.reader, theirs)
    g, f = torch.randn(7, 4, dtype=torch.float64), torch.randn(5, 4, dtype=torch.float64)
    got = context.query(f, g)
    for i in range(len(f)):  # equations 3 to 6, one query at a time
        h, c = torch.zeros(4, dtype=torch.float64), torch.zeros(4, dtype=torch.float64)
        for _ in range(reads):
            a = torch.stack([(h * gi).sum() for gi in g]).exp()
            r = ((a / a.sum())[:, None] * g).sum(0)
            out, c = theirs(torch.cat([f[i], r])[None], (h[None], c.reshape(1, 4)))
            h = out[0] + f[i]
        torch.testing.assert_close(got[i], h)


def test_only_full_context_depends_on_the_order(make_episodes: Maker) -> None:
    (one,) = unstack(make_episodes(tasks=1))
    flipped = Examples(one.support.x.flip(0), one.support.y.flip(0))
    for full in (False, True):
        learner = Matching(MLP(6, 4), 4, full).double()
        gap = answers(learner, one.support, one.query.x) - answers(learner, flipped, one.query.x)
        assert (gap.abs().max() > 1e-4) == full


@pytest.mark.parametrize("full", [False, True])
def test_contract(full: bool) -> None:
    found = check(Matching(MLP(8, 16, (16,)), 16, full), train_steps=30)
    unclaimed = {clause for clause, text in found.items() if not text.startswith("holds")}
    assert unclaimed == ({"support order does not matter"} if full else set())


@pytest.mark.parametrize("full", [False, True])
def test_another_way_at_test(full: bool, make_episodes: Maker) -> None:
    learner = Matching(MLP(6, 4), 4, full).double()
    learner(make_episodes(way=3)).backward()
    (one,) = unstack(make_episodes(tasks=1, way=7, shot=3))
    torch.testing.assert_close(answers(learner, one.support, one.query.x).exp().sum(1), torch.ones(28).double())
    assert len(evaluate(learner, [make_episodes(way=2)]).values) == 3
