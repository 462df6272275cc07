"""What the learners that read a support set as a sequence have in common."""

from abc import abstractmethod
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from mapsto.applied import call, norm_of
from mapsto.episode import Episode, Examples, Tree
from mapsto.learner import MetaLearner


class Memorised(NamedTuple):
    """What a task teaches: the state after its support set (and the support inputs, for norms that want them)."""

    state: Tree
    support_x: Tree


class SequenceLearner(MetaLearner):
    """Embed, read the support set in its order, answer each query by itself from the state that remains.

    Support sets should come in random order, in training and at test (`mapsto.data.Presentations`): sorted by class,
    an example's place would tell its label.

    Attributes:
        model: the embedding, `x -> [n, d]`.
    """

    headless = True
    ordered = True

    def __init__(self, model: nn.Module, way: int, criterion: Callable[[Tensor, Tree], Tensor]) -> None:
        super().__init__()
        self.model, self.way, self.criterion = model, way, criterion

    @abstractmethod
    def read(self, z: Tensor, y: Tensor) -> Tree:
        """The state after labelled embeddings `z` `[n, d]`, `y` one-hot `[n, way]`."""

    @abstractmethod
    def answer(self, state: Tree, z: Tensor) -> Tensor:
        """The logits `[n, way]` of queries' embeddings `[n, d]`, each as if it came next and alone."""

    def adapt(self, support: Examples) -> Memorised:
        return Memorised(self.read(self.embed(support.x), self.checked(support.y)), support.x)

    def predict(self, fast: Memorised, x: Tree) -> Tensor:
        return self.answer(fast.state, self.embed(x, fast.support_x))

    def loss(self, episode: Episode) -> Tensor:
        support, query = self.embed_both(episode)
        state = self.read(support, self.checked(episode.support.y))
        return self.criterion(self.answer(state, query), episode.query.y)

    def embed(self, x: Tree, support_x: Tree = None) -> Tensor:
        """Embeddings `[n, d]`."""
        return call(self.model, {}, x, support_x)

    def embed_both(self, episode: Episode) -> tuple[Tensor, Tensor]:
        """The embeddings of support and query, in one pass where norms let them (and running norms want it)."""
        support, query = episode.support.x, episode.query.x
        if norm_of(self.model) not in ("none", "running"):
            return self.embed(support), self.embed(query, support)
        rows = tree_leaves(support)[0].shape[0]
        z = self.embed(tree_map(lambda *parts: torch.cat(parts), support, query))
        return z[:rows], z[rows:]

    def checked(self, y: Tensor) -> Tensor:
        """One-hot labels of the way that the learner was built for.

        Raises:
            ValueError: they are of another.
        """
        if y.shape[-1] != self.way:
            raise ValueError(
                f"{type(self).__name__} was built for {self.way}-way tasks, but this one has {y.shape[-1]} classes: "
                f"give it {self.way}-way tasks, or train one with way={y.shape[-1]}"
            )
        return y


class LSTMCell(nn.Module):
    """Long short-term memory (Hochreiter & Schmidhuber 1997, with forget gates), one step at a time.

    From linear layers, because torch's own has no rule for vmap. What the inputs do to the gates, `cell.inputs(x)`, can
    be had for all steps at once.

    Args:
        inputs: size of a step's input.
        hidden: size of the output and of the cell.
        fed: size of what is fed back: the output, and what else.
    """

    def __init__(self, inputs: int, hidden: int, fed: int) -> None:
        super().__init__()
        self.inputs, self.feedback = nn.Linear(inputs, 4 * hidden), nn.Linear(fed, 4 * hidden, bias=False)

    def forward(self, drive: Tensor, fed: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
        """The output and the cell `[..., hidden]` from the drive `[..., 4 hidden]` of this step's input."""
        hidden = cell.shape[-1]
        gates, new = (drive + self.feedback(fed)).split([3 * hidden, hidden], -1)
        write, forget, output = gates.sigmoid().chunk(3, -1)
        cell = forget * cell + write * new.tanh()
        return output * cell.tanh(), cell


class Told(NamedTuple):
    """A recurrent network's state, and the label that it is told next: that of the presentation before."""

    state: Any
    label: Tensor


class RecurrentLearner(SequenceLearner):
    """Present one example after the other, each with the label of the one before (Santoro et al. 2016, section 2).

    Every presentation is answered before its label comes. All those answers, to the support set too, are trained.

    Args:
        model: the embedding, `x -> [n, d]`.
        way: classes of a task.
        cell: takes an embedding and a label.
        answering: size of what the logits are made of.
    """

    def __init__(
        self, model: nn.Module, way: int, cell: LSTMCell, answering: int, criterion: Callable[[Tensor, Tree], Tensor]
    ) -> None:
        super().__init__(model, way, criterion)
        self.cell, self.head = cell, nn.Linear(answering, way)

    @abstractmethod
    def start(self) -> Any:
        """The state before the first presentation."""

    @abstractmethod
    def step(self, drive: Tensor, state: Any) -> tuple[Tensor, Any]:
        """What the logits are made of, and the next state, where `drive` is what an input does to the cell's gates."""

    def unfold(self, z: Tensor, y: Tensor) -> Iterator[tuple[Tensor, Any]]:
        """What each presentation of a sequence gives: see `step`."""
        late = torch.cat([torch.zeros_like(y[:1]), y[:-1]])
        state = self.start()
        for drive in self.cell.inputs(torch.cat([z, late], 1)).unbind(0):
            made, state = self.step(drive, state)
            yield made, state

    def present(self, z: Tensor, y: Tensor) -> tuple[Tensor, Told]:
        """The logits `[n, way]` that answer each presentation before its label is told, and the state at the end."""
        made, states = zip(*self.unfold(z, y), strict=True)
        return self.head(torch.stack(made)), Told(states[-1], y[-1])

    def read(self, z: Tensor, y: Tensor) -> Told:
        return self.present(z, y)[1]

    def answer(self, state: Told, z: Tensor) -> Tensor:
        drives = self.cell.inputs(torch.cat([z, state.label.expand(len(z), -1)], 1))
        return self.head(self.step(drives, state.state)[0])

    def loss(self, episode: Episode) -> Tensor:
        support, query = self.embed_both(episode)
        presented, state = self.present(support, self.checked(episode.support.y))
        logits = torch.cat([presented, self.answer(state, query)])
        return self.criterion(logits, torch.cat([episode.support.y, episode.query.y]))

    def by_presentation(self, episode: Episode) -> Tensor:
        """How often the support set's n-th presentations of each class are answered rightly, for n = 1 to its shot.

        Of one task, `[shot]`; the mean over many is what the paper reports:
        `over_tasks(learner.by_presentation, episodes).mean(0)`, without gradients and in evaluation mode.
        """
        y = self.checked(episode.support.y)
        logits, _ = self.present(self.embed(episode.support.x), y)
        right = (logits.argmax(1) == y.argmax(1)).to(y.dtype)
        nth = (y.cumsum(0) * y).sum(1)
        places = (nth[:, None] == torch.arange(1, len(y) // y.shape[1] + 1, device=y.device)).to(y.dtype)
        return (right @ places) / places.sum(0)
