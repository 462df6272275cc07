"""Matching networks.

O. Vinyals, C. Blundell, T. Lillicrap, K. Kavukcuoglu, D. Wierstra. Matching Networks for One Shot Learning. NeurIPS
2016. https://arxiv.org/abs/1606.04080. The authors published no code; another of the time:
https://github.com/twitter-research/meta-learning-lstm (Lua; S. Ravi, H. Larochelle).

What differs. Cosine similarities are divided by a temperature. The paper has none (`temperature=1.0` here), and then no
prediction can be sure: with cosines in [-1, 1] the most of 5 classes gets at one shot is e / (e + 4 / e) = 0.65, and
0.40 where embeddings are not negative, as after a ReLU. Support and query share one model before the context. What the
paper leaves open: the query's LSTM begins at zero, so its first reading is the mean of the support set.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mapsto.algorithms.metric.distances import cosine
from mapsto.algorithms.metric.embedded import Embedded
from mapsto.episode import Tree
from mapsto.losses import cross_entropy


class Memory(NamedTuple):
    """What a task teaches: its support examples' embeddings `[n, features]` and their targets `[n, way]`."""

    keys: Tensor
    y: Tensor


class Matching(Embedded):
    """Attend to the support examples by cosine similarity and answer with their labels (equation 1 of the paper).

    Any number of classes, also another one at test than in training. `predict` gives log-probabilities.

    Args:
        model: the embedding, `x -> [n, features]`.
        features: the embedding's size.
        full_context: embed each support example in view of the others, and each query in view of the support set
            (section 2.1.2 and appendix A). Then the order of the support examples matters.
        reads: how often a query reads the support set (K in the paper).
        temperature: divides the cosine similarities.
        criterion: `(log-probabilities, y) -> scalar`.
    """

    def __init__(
        self,
        model: nn.Module,
        features: int,
        full_context: bool = False,
        *,
        reads: int = 3,
        temperature: float = 0.1,
        criterion: Callable[[Tensor, Tree], Tensor] = cross_entropy,
    ) -> None:
        super().__init__()
        self.model, self.temperature, self.criterion = model, temperature, criterion
        self.context = FullContext(features, reads) if full_context else None
        self.ordered = full_context

    def attention(self, what: Memory, z: Tensor) -> Tensor:
        """How much each query `[q, features]` looks at each support example: `[q, n]`, rows that sum to 1."""
        if self.context is not None:
            z = self.context.query(z, what.keys)
        return (cosine(z, what.keys) / self.temperature).softmax(1)

    def learn(self, z: Tensor, y: Tensor) -> Memory:
        return Memory(z if self.context is None else self.context.support(z), y)

    def score(self, what: Memory, z: Tensor) -> Tensor:
        p = self.attention(what, z) @ what.y
        return p.clamp_min(torch.finfo(p.dtype).tiny).log()


class FullContext(nn.Module):
    """Embeddings that depend on the support set (the functions g and f of appendix A).

    Args:
        features: the embedding's size, which is also that of the LSTMs.
        reads: steps of the query's LSTM.
    """

    def __init__(self, features: int, reads: int) -> None:
        super().__init__()
        self.forth, self.back = LSTMCell(features, features), LSTMCell(features, features)
        # The paper appends what was read to the LSTM's hidden state. Its input, as here, is as good: both enter its
        # gates through a linear map.
        self.reader, self.reads = LSTMCell(2 * features, features), reads

    def support(self, z: Tensor) -> Tensor:
        """Each example plus what a bidirectional LSTM says of it, `[n, features]` (appendix A.2)."""
        return z + _states(self.forth, z) + _states(self.back, z.flip(0)).flip(0)

    def query(self, z: Tensor, keys: Tensor) -> Tensor:
        """Each query after some readings of the support set, `[q, features]` (appendix A.1, equations 3 to 6)."""
        hidden = cell = torch.zeros_like(z)
        for _ in range(self.reads):
            read = (hidden @ keys.T).softmax(1) @ keys
            hidden, cell = self.reader(torch.cat([z, read], 1), hidden, cell)
            hidden = hidden + z
        return hidden


class LSTMCell(nn.Module):
    """A long short-term memory cell from a linear layer, since torch's own has no rule for vmap.

    Args:
        inputs: size of an input.
        hidden: size of the hidden state and of the cell.
    """

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        self.gates = nn.Linear(inputs + hidden, 4 * hidden)

    def forward(self, x: Tensor, hidden: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
        """The next hidden state and cell, `[..., hidden]` each; gates in torch's order."""
        enter, forget, new, leave = self.gates(torch.cat([x, hidden], -1)).chunk(4, -1)
        cell = forget.sigmoid() * cell + enter.sigmoid() * new.tanh()
        return leave.sigmoid() * cell.tanh(), cell


def _states(cell: LSTMCell, z: Tensor) -> Tensor:
    """The hidden states `[n, features]` of a cell that goes along the rows of `z`."""
    hidden = memory = torch.zeros_like(z[0])
    states = []
    for row in z:
        hidden, memory = cell(row, hidden, memory)
        states.append(hidden)
    return torch.stack(states)
