"""How fast learners that read a sequence train: one step's loss and gradient, against the loops that are usual."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.nn.functional import conv1d, cosine_similarity, cross_entropy, one_hot, pad
from torch.utils._pytree import tree_map

from benchmarks.contest import Contest, Entry
from mapsto.algorithms.model_based.mann import MANN
from mapsto.algorithms.model_based.sequence import SequenceLearner
from mapsto.algorithms.model_based.snail import SNAIL, Attention, Dense
from mapsto.episode import Episode, Examples, unstack
from mapsto.meta_gradient import backward

WAY = 5

Loss = Callable[[nn.Module, Episode], Tensor]
"""The mean loss of many tasks, by the learner's own weights."""


def tasks(number: int, shot: int, query: int, features: int, device: str) -> Episode:
    """Clusters of noise, the support sets in random order."""
    generator = torch.Generator().manual_seed(2)
    centres = torch.randn(number, WAY, features, generator=generator)

    def examples(each: int) -> Examples:
        order = torch.stack([torch.randperm(WAY * each, generator=generator) % WAY for _ in range(number)])
        y = one_hot(order, WAY).float()
        return Examples(y @ centres + 0.5 * torch.randn(number, WAY * each, features, generator=generator), y)

    return tree_map(lambda leaf: leaf.to(device), Episode(examples(shot), examples(query)))


def entry(learner: SequenceLearner, step: Callable[[], Tensor]) -> Entry:
    """A contestant from a function that adds to the learner's gradients and returns the loss."""
    last: list[Tensor] = []

    def fresh() -> None:
        learner.zero_grad()
        last[:] = [step()]

    def outcome() -> dict:
        grads = [p.grad.flatten() for p in learner.parameters() if p.grad is not None]
        return {"loss": last[0].detach().cpu().numpy(), "gradient": torch.cat(grads).cpu().numpy()}

    return Entry(fresh, outcome)


def by_hand(learner: SequenceLearner, episodes: Episode, loss: Loss) -> Entry:
    """A published way."""

    def step() -> Tensor:
        value = loss(learner, episodes)
        value.backward()
        return value

    return entry(learner, step)


# ------------------------------------------------------------------------------------------------ MANN


def mann(device: str) -> tuple[MANN, Episode]:
    """The paper's sizes: 16 tasks, 50 presentations of 20x20 pixels."""
    torch.manual_seed(0)
    return MANN(nn.Identity(), 400, WAY).to(device), tasks(16, 10, 1, 400, device)


def present(learner: MANN, x: Iterable[Tensor], y: Iterable[Tensor]) -> tuple[list[Tensor], tuple[Tensor, ...]]:
    """Step by step for many sequences side by side, `[sequences, ...]` each: the logits, and the state at the end."""
    logits, state = [], None
    label = torch.zeros_like(next(iter(y)))
    for x_t, y_t in zip(x, y, strict=True):
        if state is None:
            state = _blank(learner, len(x_t), x_t)
        out, state = step(learner, torch.cat([x_t, label], 1), state)
        logits.append(out)
        label = y_t
    assert state is not None
    return logits, state


def _blank(learner: MANN, n: int, like: Tensor) -> tuple[Tensor, ...]:
    zeros = like.new_zeros
    return (
        zeros(n, learner.hidden), zeros(n, learner.hidden), zeros(n, learner.heads * learner.width),
        like.new_full((n, learner.slots, learner.width), 1e-6),
        zeros(n, learner.heads, learner.slots), zeros(n, learner.slots),
    )  # fmt: skip


def step(learner: MANN, x: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The controller, the memory's equations one after the other, the classifier."""
    h, c, r, rows, read, usage = state
    gates = learner.cell.inputs(x) + learner.cell.feedback(torch.cat([h, r], 1))
    write, forget, out, new = gates.chunk(4, 1)
    c = forget.sigmoid() * c + write.sigmoid() * new.tanh()
    h = out.sigmoid() * c.tanh()
    key = learner.keys(h).tanh().view(-1, learner.heads, learner.width)
    gate = learner.gates(h).sigmoid()[:, :, None]
    least = one_hot(usage.argsort(dim=1, stable=True)[:, : learner.heads], learner.slots).to(x.dtype)
    weights = gate * read + (1 - gate) * least
    rows = rows * (1 - least.sum(1))[:, :, None] + weights.transpose(1, 2) @ key
    read = cosine_similarity(key[:, :, None], rows[:, None], dim=3).softmax(2)
    usage = learner.decay * usage + read.sum(1) + weights.sum(1)
    r = (read @ rows).flatten(1)
    return learner.head(torch.cat([h, r], 1)), (h, c, r, rows, read, usage)


def mann_loss(learner: nn.Module, episodes: Episode) -> Tensor:
    """All tasks side by side; queries side by side too, each with the state at the end."""
    assert isinstance(learner, MANN)
    (x, y), (queries, truth) = episodes
    number, asked = queries.shape[:2]
    logits, state = present(learner, x.unbind(1), y.unbind(1))
    repeated = tuple(part.repeat_interleave(asked, 0) for part in state)
    told = y[:, -1].repeat_interleave(asked, 0)
    answers, _ = step(learner, torch.cat([queries.flatten(0, 1), told], 1), repeated)
    every = torch.cat([torch.stack(logits, 1), answers.view(number, asked, WAY)], 1)
    return cross_entropy(every.flatten(0, 1), torch.cat([y, truth], 1).flatten(0, 1))


def mann_loop(learner: nn.Module, episodes: Episode) -> Tensor:
    """One task after the other, step by step."""
    losses = [mann_loss(learner, tree_map(lambda leaf: leaf[None], task)) for task in unstack(episodes)]
    return torch.stack(losses).mean()


# ------------------------------------------------------------------------------------------------ SNAIL


def snail(shot: int, device: str) -> tuple[SNAIL, Episode]:
    """The paper's sizes behind the embedding: 8 tasks of 64 features, 15 queries a class."""
    torch.manual_seed(0)
    return SNAIL(nn.Identity(), 64, WAY, shot).to(device), tasks(8, shot, 15, 64, device)


def whole(learner: SNAIL, x: Tensor) -> Tensor:
    """Whole sequences `[sequences, steps, numbers]`, each layer for all steps; the last step's logits."""
    for layer in learner.layers:
        if isinstance(layer, Dense):
            kernel = torch.stack([layer.past.weight, layer.now.weight], 2)
            padded = pad(x.transpose(1, 2), (layer.dilation, 0))
            both = conv1d(padded, kernel, layer.now.bias, dilation=layer.dilation).transpose(1, 2)
            value, gate = both.chunk(2, 2)
            x = torch.cat([x, value.tanh() * gate.sigmoid()], 2)
        else:
            assert isinstance(layer, Attention)
            scores = layer.query(x) @ layer.key(x).transpose(1, 2) / layer.key.out_features**0.5
            later = torch.ones_like(scores[0], dtype=torch.bool).triu(1)
            x = torch.cat([x, scores.masked_fill(later, float("-inf")).softmax(2) @ layer.value(x)], 2)
    return learner.head(x[:, -1])


def snail_task(learner: nn.Module, task: Episode) -> Tensor:
    """A sequence for each query, all of a task at once."""
    assert isinstance(learner, SNAIL)
    (x, y), (queries, truth) = task
    n = len(queries)
    z = torch.cat([x.expand(n, *x.shape), queries[:, None]], 1)
    labels = torch.cat([y.expand(n, *y.shape), torch.zeros_like(truth)[:, None]], 1)
    return cross_entropy(whole(learner, torch.cat([z, labels], 2)), truth)


def snail_loss(learner: nn.Module, episodes: Episode) -> Tensor:
    """A sequence for each query of each task, all at once."""
    assert isinstance(learner, SNAIL)
    (x, y), (queries, truth) = episodes
    n = queries.shape[1]
    z = torch.cat([x.repeat_interleave(n, 0), queries.flatten(0, 1)[:, None]], 1)
    blank = torch.zeros_like(truth).flatten(0, 1)[:, None]
    labels = torch.cat([y.repeat_interleave(n, 0), blank], 1)
    return cross_entropy(whole(learner, torch.cat([z, labels], 2)), truth.flatten(0, 1))


def snail_loop(learner: nn.Module, episodes: Episode) -> Tensor:
    """One task after the other."""
    return torch.stack([snail_task(learner, task) for task in unstack(episodes)]).mean()


# ------------------------------------------------------------------------------------------------ contests


def contest(about: str, make: Callable[[str], tuple[SequenceLearner, Episode]], loop: Loss, batched: Loss) -> Contest:
    """mapsto's `backward` against a plain loop over tasks, and against a batch of sequences."""

    def mapsto(device: str) -> Entry:
        learner, episodes = make(device)
        return entry(learner, lambda: backward(learner, episodes, "vmap"))

    return Contest(
        about,
        {
            "mapsto": mapsto,
            "loop": lambda device: by_hand(*make(device), loop),
            "batched loop": lambda device: by_hand(*make(device), batched),
        },
    )


SEQUENCES = {
    "h-mann": contest(
        "MANN, one meta-step: 16 tasks, 50 presentations of 400 pixels; memory of 128 x 40, 4 heads",
        mann, mann_loop, mann_loss,
    ),
    "h-snail": contest(
        "SNAIL behind its embedding, one meta-step: 8 tasks, 5-way 5-shot, 15 queries a class",
        lambda device: snail(5, device), snail_loop, snail_loss,
    ),
    "h-snail-1": contest(
        "SNAIL behind its embedding, one meta-step: 8 tasks, 5-way 1-shot, 15 queries a class",
        lambda device: snail(1, device), snail_loop, snail_loss,
    ),
}  # fmt: skip
