"""Memory-augmented neural networks, and the LSTM that they are compared with.

A. Santoro, S. Bartunov, M. Botvinick, D. Wierstra, T. Lillicrap. Meta-Learning with Memory-Augmented Neural Networks.
ICML 2016. https://proceedings.mlr.press/v48/santoro16.html. No code of the authors is known to us;
https://github.com/tristandeleu/ntm-one-shot (Theano) is the one in use.

What follows that code where the paper is silent: keys pass through tanh, usage decays by 0.95, the head number h writes
to the h-th least used slot. What differs from it: keys themselves are written (equation 8), not a vector apart; each of
the heads' least used slots is emptied, not the first alone; usage and reads begin at zero.

In the paper an episode is one sequence in random order, in which every class comes ten times. Here it is the support
set; queries are the presentation after it, each by itself.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mapsto.algorithms.model_based.memory import Memory, access, blank
from mapsto.algorithms.model_based.sequence import LSTMCell, RecurrentLearner
from mapsto.episode import Examples, Tree
from mapsto.losses import cross_entropy


class Controlled(NamedTuple):
    """Between two steps: what is fed back (the controller's output and the memory's), its cell, the memory."""

    fed: Tensor
    cell: Tensor
    memory: Memory


class MANN(RecurrentLearner):
    """An LSTM that writes what it sees to a memory, and reads it by content (section 3 of the paper).

    Train it on long support sets in random order, ten of each class in the paper: every presentation is a lesson. Any
    shot will do at test, but only the way it was built for.

    Args:
        model: the embedding, `x -> [n, features]`; the paper has none but the pixels.
        features: its size.
        way: classes of a task.
        hidden: size of the LSTM.
        slots, width: of the memory.
        heads: how many keys are written and read at each step.
        decay: of usage, gamma.
        criterion: `(logits, y) -> scalar`, over support and query presentations together.
    """

    def __init__(
        self,
        model: nn.Module,
        features: int,
        way: int,
        hidden: int = 200,
        slots: int = 128,
        width: int = 40,
        heads: int = 4,
        decay: float = 0.95,
        *,
        criterion: Callable[[Tensor, Tree], Tensor] = cross_entropy,
    ) -> None:
        if heads > slots:
            raise ValueError(f"{heads} heads can't write to {slots} slots: give the memory more slots, or fewer heads")
        fed = hidden + heads * width
        super().__init__(model, way, LSTMCell(features + way, hidden, fed), fed, criterion)
        self.keys, self.gates = nn.Linear(hidden, heads * width), nn.Linear(hidden, heads)
        self.hidden, self.slots, self.width, self.heads, self.decay = hidden, slots, width, heads, decay

    def start(self) -> Controlled:
        weight = self.head.weight
        memory = blank(self.slots, self.width, self.heads, weight)
        return Controlled(weight.new_zeros(weight.shape[1]), weight.new_zeros(self.hidden), memory)

    def step(self, drive: Tensor, state: Controlled) -> tuple[Tensor, Controlled]:
        output, cell = self.cell(drive, state.fed, state.cell)
        key = self.keys(output).tanh().unflatten(-1, (self.heads, self.width))
        memory, read = access(state.memory, key, self.gates(output).sigmoid(), self.decay)
        fed = torch.cat([output, read.flatten(-2)], -1)
        return fed, Controlled(fed, cell, memory)

    def looks(self, support: Examples) -> tuple[Tensor, Tensor]:
        """Where the memory is read at each presentation, and how much each slot is in use after it.

        Both `[n, slots]`; reading is the mean over heads.
        """
        steps = self.unfold(self.embed(support.x), self.checked(support.y))
        memories = [state.memory for _, state in steps]
        return torch.stack([m.read.mean(0) for m in memories]), torch.stack([m.usage for m in memories])


class LSTM(RecurrentLearner):
    """The paper's baseline: the same controller without a memory.

    Args:
        model, features, way, hidden, criterion: as in `MANN`.
    """

    def __init__(
        self,
        model: nn.Module,
        features: int,
        way: int,
        hidden: int = 200,
        *,
        criterion: Callable[[Tensor, Tree], Tensor] = cross_entropy,
    ) -> None:
        super().__init__(model, way, LSTMCell(features + way, hidden, hidden), hidden, criterion)
        self.hidden = hidden

    def start(self) -> tuple[Tensor, Tensor]:
        zeros = self.head.weight.new_zeros(self.hidden)
        return zeros, zeros

    def step(self, drive: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        output, cell = self.cell(drive, *state)
        return output, (output, cell)
