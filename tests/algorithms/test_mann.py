"""MANN and its baseline: against torch's own LSTM, the protocol of late labels, and the contract."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from conftest import Maker
from torch import Tensor, nn

from mapsto import Episode, Examples, check, evaluate, fit
from mapsto.algorithms.model_based.mann import LSTM, MANN
from mapsto.algorithms.model_based.memory import access, blank
from mapsto.algorithms.model_based.sequence import RecurrentLearner
from mapsto.axis import over_tasks
from mapsto.data import Tasks
from mapsto.data.presentations import Presentations
from mapsto.episode import unstack
from mapsto.losses import cross_entropy
from mapsto.models import MLP
from mapsto.plots.sequences import by_presentation, memory_over_time

LEARNERS: dict[str, Callable[[], RecurrentLearner]] = {
    "mann": lambda: MANN(MLP(6, 5, (8,)), 5, 3, hidden=7, slots=9, width=4, heads=2),
    "lstm": lambda: LSTM(MLP(6, 5, (8,)), 5, 3, hidden=7),
}


def shuffled(episodes: Episode, seed: int = 0) -> Episode:
    order = torch.randperm(episodes.support.y.shape[1], generator=torch.Generator().manual_seed(seed))
    return episodes._replace(support=Examples(episodes.support.x[:, order], episodes.support.y[:, order]))


def torchs(learner: RecurrentLearner, inputs: int, fed: int) -> nn.LSTMCell:
    """torch's LSTM cell with the learner's weights; its gates come in the order write, forget, new, output."""
    hidden = learner.cell.inputs.out_features // 4
    cell = nn.LSTMCell(inputs + fed - hidden, hidden).double()
    order = torch.cat([torch.arange(4 * hidden).view(4, hidden)[i] for i in (0, 1, 3, 2)])
    late = learner.cell.feedback.weight  # of the output fed back, then of whatever else
    with torch.no_grad():
        cell.weight_ih.copy_(torch.cat([learner.cell.inputs.weight, late[:, hidden:]], 1)[order])
        cell.weight_hh.copy_(late[order, :hidden])
        cell.bias_ih.copy_(learner.cell.inputs.bias[order])
        cell.bias_hh.zero_()
    return cell


def plain(learner: RecurrentLearner, x: Tensor, y: Tensor) -> Tensor:
    """The logits of every presentation in turn, with torch's cell; each label comes with the next input."""
    memory = isinstance(learner, MANN)
    fed = learner.cell.feedback.in_features
    cell = torchs(learner, 5 + 3, fed)
    h, c = torch.zeros(1, 7, dtype=x.dtype), torch.zeros(1, 7, dtype=x.dtype)
    r = torch.zeros(1, fed - 7, dtype=x.dtype)
    state, logits = blank(9, 4, 2, x), []
    for t in range(len(x)):
        label = y[t - 1] if t else torch.zeros(3, dtype=x.dtype)
        h, c = cell(torch.cat([learner.model(x[t : t + 1]), label[None], r], 1), (h, c))
        if memory:
            assert isinstance(learner, MANN)
            state, read = access(state, learner.keys(h).tanh().view(2, 4), learner.gates(h)[0].sigmoid(), 0.95)
            r = read.view(1, -1)
        logits.append(learner.head(torch.cat([h, r], 1)))
    return torch.cat(logits)


@pytest.mark.parametrize("name", LEARNERS)
def test_equals_the_sequence_step_by_step(name: str, make_episodes: Maker) -> None:
    learner, episode = LEARNERS[name]().double(), unstack(shuffled(make_episodes()))[0]
    (x, y), (queries, truth) = episode
    logits, _ = learner.present(learner.embed(x), y)
    torch.testing.assert_close(logits, plain(learner, x, y))
    answers = learner.predict(learner.adapt(episode.support), queries)
    nothing = torch.zeros(1, 3, dtype=x.dtype)  # the query's own label, which never comes
    each = [plain(learner, torch.cat([x, q[None]]), torch.cat([y, nothing]))[-1:] for q in queries]
    torch.testing.assert_close(answers, torch.cat(each))
    expected = cross_entropy(torch.cat([logits, answers]), torch.cat([y, truth]))
    torch.testing.assert_close(learner.loss(episode), expected)


@pytest.mark.parametrize("name", LEARNERS)
def test_a_presentation_is_answered_before_its_label(name: str, make_episodes: Maker) -> None:
    learner, episode = LEARNERS[name]().double(), unstack(make_episodes())[0]
    y = episode.support.y.clone().requires_grad_()
    logits, _ = learner.present(learner.embed(episode.support.x), y)
    for step in range(len(y)):
        (gradient,) = torch.autograd.grad(logits[step].square().sum(), y, retain_graph=True, allow_unused=True)
        seen = (gradient != 0).any(1) if gradient is not None else torch.zeros(len(y), dtype=torch.bool)
        assert seen.tolist() == [t < step for t in range(len(y))]


@pytest.mark.parametrize("name", LEARNERS)
def test_contract(name: str, make_episodes: Maker) -> None:
    episodes = shuffled(make_episodes(dtype=torch.float32))
    found = check(LEARNERS[name](), episodes, train_steps=25, lr=2e-2)
    assert {clause for clause, text in found.items() if not text.startswith("holds")} == {
        "support order does not matter"
    }


def test_by_presentation(make_episodes: Maker) -> None:
    learner, episodes = LEARNERS["mann"]().double(), shuffled(make_episodes(shot=4))
    found = over_tasks(learner.by_presentation, episodes)
    for task, scores in zip(unstack(episodes), found, strict=True):
        seen, right = [0] * 3, [0] * 4
        guesses = plain(learner, *task.support).argmax(1).tolist()
        for guess, label in zip(guesses, task.support.y.argmax(1).tolist(), strict=True):
            right[seen[label]] += guess == label
            seen[label] += 1
        torch.testing.assert_close(scores, torch.tensor(right).double() / 3)
    (axis,) = by_presentation({"MANN": found.mean(0)}, 1 / 3).axes
    np.testing.assert_allclose(np.asarray(axis.lines[1].get_xydata()).T, [range(1, 5), found.mean(0)])


def test_looks(make_episodes: Maker) -> None:
    learner, episode = LEARNERS["mann"]().double(), unstack(make_episodes())[0]
    assert isinstance(learner, MANN)
    reads, usage = learner.looks(episode.support)
    assert reads.shape == usage.shape == (6, 9)
    torch.testing.assert_close(reads.sum(1), torch.ones(6, dtype=torch.float64))
    torch.testing.assert_close(usage[1:].sum(1), 0.95 * usage[:-1].sum(1) + 4)  # two heads read and write
    figure = memory_over_time(reads, usage, episode.support.y.argmax(1))
    left, right = (np.asarray(axis.images[0].get_array()) for axis in figure.axes)
    assert left.shape == right.shape == (9, 6)
    assert (np.diff(left.argmax(1)) >= 0).all()  # sorted by when they were used most
    np.testing.assert_allclose(np.sort(right, 0), np.sort(reads.detach().numpy().T, 0))


def test_bad_input(make_episodes: Maker) -> None:
    learner = LEARNERS["lstm"]().double()
    with pytest.raises(ValueError, match="LSTM was built for 3-way tasks, but this one has 4 classes"):
        learner(make_episodes(way=4))
    with pytest.raises(ValueError, match="4 heads can't write to 3 slots"):
        MANN(nn.Identity(), 6, 3, slots=3)


def test_presentations() -> None:
    tasks = Tasks((torch.arange(200.0)[:, None], torch.arange(200) // 10), 4, (1, 3), 2, seed=5)
    for shot in (3, (1, 3)):
        source, sorted_ = Presentations(tasks, 5).replace(shot=shot), tasks.replace(shot=shot)
        made, plain_ = unstack(source.batch(7, 6)), unstack(sorted_.batch(7, 6))
        assert source.shape == sorted_.shape and len({tuple(e.support.y.argmax(1).tolist()) for e in made}) > 3
        for i, (one, other) in enumerate(zip(made, plain_, strict=True)):
            pairs, others = (
                sorted(zip(e.support.x[:, 0].tolist(), e.support.y.tolist(), strict=True)) for e in (one, other)
            )
            assert pairs == others and one.query.x.equal(other.query.x)
            (again,) = unstack(source.batch(7 + i, 1))
            assert again.support.x.equal(one.support.x) and again.support.y.equal(one.support.y)


def test_learns_to_remember() -> None:
    """Tasks in which only memory helps: two symbols of three, whose labels are drawn afresh."""
    symbols = torch.eye(3).repeat_interleave(4, 0)
    tasks = Presentations(Tasks((symbols, torch.arange(12) // 4), 2, 2, 1))
    learner = MANN(nn.Identity(), 3, 2, hidden=32, slots=8, width=8, heads=1)
    fit(learner, tasks, torch.optim.Adam(learner.parameters(), 2e-2), steps=80, batch=16, how="vmap")
    assert evaluate(learner, tasks, tasks=64, batch=64).mean > 0.9
