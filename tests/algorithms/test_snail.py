"""SNAIL: the paper's blocks written out, what a step may see, and the support set computed once."""

import math

import numpy as np
import pytest
import torch
from conftest import Maker
from torch import Tensor, nn
from torch.nn.functional import conv1d, linear, pad

from mapsto import Episode, Examples, check
from mapsto.algorithms.model_based.snail import SNAIL, Attention, Dense, Trunk, temporal
from mapsto.episode import unstack
from mapsto.models import MLP, Conv4
from mapsto.plots.sequences import looks as draw

SIZES = ((5, 4), (6, 3), (7, 4))


def snail(shot: int = 2) -> SNAIL:
    return SNAIL(MLP(6, 5, (8,)), 5, 3, shot, filters=4, attention=SIZES).double()


def run(layers: list[Dense], x: Tensor) -> Tensor:
    for layer in layers:
        x, _ = layer.read(x)
    return x


def plain_dense(layer: Dense, x: Tensor) -> Tensor:
    """torch's own convolution, padded on the left."""
    kernel = torch.stack([layer.past.weight, layer.now.weight], -1)
    padded = pad(x.T, (layer.dilation, 0))
    value, gate = conv1d(padded, kernel, layer.now.bias, dilation=layer.dilation).T.chunk(2, 1)
    return torch.cat([x, value.tanh() * gate.sigmoid()], 1)


def plain_attention(layer: Attention, x: Tensor) -> Tensor:
    """One step after the other."""
    read = []
    for t in range(len(x)):
        seen = x[: t + 1]
        scores = torch.stack([layer.query(x[t]) @ layer.key(s) for s in seen]) / math.sqrt(layer.key.out_features)
        read.append(scores.softmax(0) @ linear(seen, layer.value.weight, layer.value.bias))
    return torch.cat([x, torch.stack(read)], 1)


def plain(learner: SNAIL, support: Examples, query: Tensor) -> Tensor:
    """Each query as the last step of a sequence of its own, computed whole."""
    logits = []
    for q in query:
        z = learner.model(torch.cat([support.x, q[None]]))
        x = torch.cat([z, torch.cat([support.y, torch.zeros_like(support.y[:1])])], 1)
        for layer in learner.layers:
            x = plain_dense(layer, x) if isinstance(layer, Dense) else plain_attention(layer, x)
        logits.append(learner.head(x[-1]))
    return torch.stack(logits)


@pytest.mark.parametrize("shot", [1, 2, 4])
def test_equals_whole_sequences(shot: int, make_episodes: Maker) -> None:
    learner = snail()
    for support, query in unstack(make_episodes(shot=shot)):
        answers = learner.predict(learner.adapt(support), query.x)
        torch.testing.assert_close(answers, plain(learner, support, query.x))


def test_the_paper_s_sizes() -> None:
    learner = SNAIL(nn.Identity(), 64, 5, shot=5)  # sequences of 26: five convolutions in each block
    dilations = [layer.dilation for layer in learner.layers if isinstance(layer, Dense)]
    assert dilations == 2 * [2, 4, 8, 16, 32]
    assert learner.head.in_features == 64 + 5 + 32 + 5 * 128 + 128 + 5 * 128 + 256
    assert [layer.key.out_features for layer in learner.layers if isinstance(layer, Attention)] == [64, 256, 512]


def seen(out: Tensor, x: Tensor) -> list[list[int]]:
    """For each step of the output, the steps of the input that move it."""
    found = []
    for step in out:
        (gradient,) = torch.autograd.grad(step.square().sum(), x, retain_graph=True)
        found.append((gradient != 0).any(1).nonzero()[:, 0].tolist())
    return found


def test_a_convolution_sees_itself_and_one_step_before() -> None:
    x = torch.randn(7, 3, dtype=torch.float64, requires_grad=True)
    out, _ = Dense(3, 2, 4).double().read(x)
    assert seen(out, x) == [[t] if t < 2 else [t - 2, t] for t in range(7)]


def test_a_temporal_block_sees_every_other_step() -> None:
    x = torch.randn(11, 3, dtype=torch.float64, requires_grad=True)
    blocks = temporal(3, 11, 2)
    assert [block.dilation for block in blocks] == [2, 4, 8, 16]
    assert seen(run([block.double() for block in blocks], x), x) == [list(range(t % 2, t + 1, 2)) for t in range(11)]


def test_attention_sees_all_before_and_nothing_after() -> None:
    x = torch.randn(6, 3, dtype=torch.float64, requires_grad=True)
    out, _ = Attention(3, 4, 2).double().read(x)
    assert seen(out, x) == [list(range(t + 1)) for t in range(6)]


@pytest.mark.parametrize("chunks", [[1] * 9, [4, 1, 1, 3], [2, 7]])
def test_reading_on_equals_reading_whole(chunks: list[int]) -> None:
    trunk = Trunk(3, 9, 4, SIZES).double()
    x = torch.randn(2, 5, 9, 3, dtype=torch.float64)
    whole, kept = trunk.read(x)
    parts, past = [], None
    for chunk in x.split(chunks, -2):
        part, past = trunk.read(chunk, past)
        parts.append(part)
    torch.testing.assert_close(torch.cat(parts, -2), whole)
    torch.testing.assert_close(past, kept)


def test_a_batch_is_as_many_sequences() -> None:
    trunk = Trunk(3, 9, 4, SIZES).double()
    x = torch.randn(4, 9, 3, dtype=torch.float64)
    torch.testing.assert_close(trunk.read(x)[0], torch.stack([trunk.read(one)[0] for one in x]))


def test_a_query_sees_the_support_set_and_itself(make_episodes: Maker) -> None:
    learner, episode = snail(), unstack(make_episodes())[0]
    x, y, q = (t.clone().requires_grad_() for t in (*episode.support, episode.query.x))
    answers = learner.predict(learner.adapt(Examples(x, y)), q)
    for i, answer in enumerate(answers):
        for leaf, steps in ((x, range(6)), (y, range(6)), (q, [i])):
            (gradient,) = torch.autograd.grad(answer.square().sum(), leaf, retain_graph=True)
            assert (gradient != 0).any(1).nonzero()[:, 0].tolist() == list(steps)


def test_looks(make_episodes: Maker) -> None:
    learner, (support, query) = snail(), unstack(make_episodes())[0]
    looks = learner.looks(learner.adapt(support), query.x)
    assert looks.shape == (3, 12, 7)
    torch.testing.assert_close(looks.sum(2), torch.ones(3, 12, dtype=torch.float64))
    first = learner.layers[0]
    assert isinstance(first, Attention)
    z = learner.model(torch.cat([support.x, query.x[4:5]]))
    steps = torch.cat([z, torch.cat([support.y, torch.zeros(1, 3, dtype=torch.float64)])], 1)
    expected = (first.key(steps) @ first.query(steps[-1]) / math.sqrt(5)).softmax(0)
    torch.testing.assert_close(looks[0, 4], expected)
    figure = draw(looks, support.y.argmax(1), query.y.argmax(1))
    picture = np.asarray(figure.axes[0].images[0].get_array())  # support and queries are sorted by class already
    np.testing.assert_allclose(picture, looks[0].detach())


def test_contract(make_episodes: Maker) -> None:
    episodes = make_episodes(dtype=torch.float32)
    order = torch.randperm(6)
    support = Examples(episodes.support.x[:, order], episodes.support.y[:, order])
    found = check(snail().float(), Episode(support, episodes.query), train_steps=25)
    assert [clause for clause, text in found.items() if not text.startswith("holds")] == [
        "support order does not matter"
    ]


def test_support_and_query_go_through_running_norms_together(make_episodes: Maker) -> None:
    learner = SNAIL(Conv4(filters=4, stats="running"), 4, 3, filters=4, attention=SIZES).double()
    episode = unstack(make_episodes((1, 28, 28)))[0]
    before = learner.embed_both(episode)
    whole = learner.model(torch.cat([episode.support.x, episode.query.x]))
    torch.testing.assert_close(torch.cat(before), whole)


def test_another_way_is_refused(make_episodes: Maker) -> None:
    with pytest.raises(ValueError, match="SNAIL was built for 3-way tasks, but this one has 4 classes"):
        snail()(make_episodes(way=4))
