"""Meta networks: Algorithm 1 written out example by example, and the contract."""

import math

import pytest
import torch
from conftest import Maker
from torch import Tensor, nn

from mapsto import Examples, check
from mapsto.algorithms.model_based.metanetworks import MetaNetworks, preprocess
from mapsto.episode import unstack
from mapsto.models import MLP


def meta(hidden: int = 7) -> MetaNetworks:
    return MetaNetworks(MLP(6, 5, (8,)), 5, 3, hidden=hidden, units=4).double()


def sized(value: float) -> list[float]:
    """A gradient as (log size, sign), equation by equation, p = 7."""
    if abs(value) >= math.exp(-7):
        return [math.log(abs(value)) / 7, math.copysign(1, value)]
    return [-1, math.exp(7) * value]


def gradient_of(first: Tensor, second: Tensor, z: Tensor, label: int) -> tuple[Tensor, Tensor]:
    a, b = (w.detach().clone().requires_grad_() for w in (first, second))
    logits = b @ (a @ z.detach()).clamp(min=0)
    first_grad, second_grad = torch.autograd.grad(logits.logsumexp(0) - logits[label], (a, b))
    return first_grad, second_grad


def plain(learner: MetaNetworks, support: Examples, query: Tensor) -> Tensor:
    """Algorithm 1, lines 1 to 20, with the code's networks d and m."""
    z, labels = learner.model(support.x), support.y.argmax(1).tolist()
    q, w, v = learner.key.weight, learner.hidden.weight, learner.head.weight

    steps = [gradient_of(q, learner.key_head.weight, x, label)[0] for x, label in zip(z, labels, strict=True)]
    cell = nn.LSTMCell(2, 4).double()
    order = torch.cat([torch.arange(16).view(4, 4)[i] for i in (0, 1, 3, 2)])  # torch's order of the gates
    d = learner.summary
    weights = {
        "weight_ih": d.inputs.weight[order], "bias_ih": d.inputs.bias[order],
        "weight_hh": d.feedback.weight[order], "bias_hh": torch.zeros(16, dtype=torch.float64),
    }  # fmt: skip
    task = torch.zeros_like(q)
    for i in range(q.shape[0]):
        for j in range(q.shape[1]):
            state = None
            for step in steps:
                x = torch.tensor([sized(step[i, j].item())], dtype=torch.float64)
                state = torch.func.functional_call(cell, weights, (x, state))
            assert state is not None
            task[i, j] = learner.summarised(state[0])[0, 0]

    memory, keys = [], []
    for x, label in zip(z, labels, strict=True):
        made = []
        for maker, g in zip((learner.hidden_maker, learner.head_maker), gradient_of(w, v, x, label), strict=True):
            coordinates = torch.tensor([sized(value) for value in g.flatten().tolist()], dtype=torch.float64)
            made.append(maker(coordinates).view(g.shape))
        memory.append(made)
        keys.append((q + task) @ x)

    logits = []
    for x in learner.model(query):
        r = (q + task) @ x
        attention = torch.stack([r @ k / (r.norm() * k.norm()) for k in keys]).softmax(0)
        fast_w, fast_v = (sum(a * pair[k] for a, pair in zip(attention, memory, strict=True)) for k in (0, 1))
        h = (w @ x).clamp(min=0) + (fast_w @ x).clamp(min=0)
        logits.append(v @ h + fast_v @ h)
    return torch.stack(logits)


@pytest.mark.parametrize("shot", [1, 2])
def test_equals_the_algorithm(shot: int, make_episodes: Maker) -> None:
    learner = meta()
    support, query = unstack(make_episodes(shot=shot))[1]
    torch.testing.assert_close(learner.predict(learner.adapt(support), query.x), plain(learner, support, query.x))


def test_preprocess() -> None:
    values = [3.0, -0.2, 1e-5, -1e-4, 0.0, math.exp(-7)]
    expected = torch.tensor([sized(v) for v in values], dtype=torch.float64)
    torch.testing.assert_close(preprocess(torch.tensor(values, dtype=torch.float64)), expected)


def test_attention_prefers_the_like(make_episodes: Maker) -> None:
    learner, (support, _) = meta(), unstack(make_episodes(shot=1))[0]
    fast = learner.adapt(support)
    looks = learner.attend(fast.state, learner.embed(support.x))
    assert looks.argmax(1).tolist() == [0, 1, 2]
    torch.testing.assert_close(looks.sum(1), torch.ones(3, dtype=torch.float64))


def test_loss_gradients_are_constants(make_episodes: Maker) -> None:
    """The classifier that only they depend on gets no gradient, and `exact` says that they are left out."""
    learner, episode = meta(), unstack(make_episodes())[0]
    learner.key_head.requires_grad_()
    learner.loss(episode).backward()
    assert learner.key_head.weight.grad is None and not learner.exact
    assert all(p.grad is not None for name, p in learner.named_parameters() if name != "key_head.weight")


def test_contract() -> None:
    found = check(MetaNetworks(MLP(8, 16, (16,)), 16, 3, hidden=16, units=8), train_steps=40)
    assert {clause for clause, text in found.items() if not text.startswith("holds")} == {
        "gradient equals finite differences", "support order does not matter",
    }  # fmt: skip


def test_another_way_is_refused(make_episodes: Maker) -> None:
    with pytest.raises(ValueError, match="MetaNetworks was built for 3-way tasks"):
        meta()(make_episodes(way=4))
