"""The simple neural attentive meta-learner.

N. Mishra, M. Rohaninejad, X. Chen, P. Abbeel. A Simple Neural Attentive Meta-Learner. ICLR 2018.
https://arxiv.org/abs/1707.03141. No code of the authors is known to us.

What differs: the embedding is any model, and all queries of a task are the last steps of as many sequences, which share
the support set. That one is computed once.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mapsto.algorithms.model_based.sequence import Memorised, SequenceLearner
from mapsto.attention import attention_weights, causal
from mapsto.episode import Tree
from mapsto.losses import cross_entropy


class Dense(nn.Module):
    """A causal convolution over two steps, `dilation` apart, gated and concatenated (the paper's DenseBlock).

    Args:
        inputs: numbers of a step.
        dilation: how far back it looks; before the first step there are zeros.
        filters: numbers that it adds to a step.
    """

    def __init__(self, inputs: int, dilation: int, filters: int) -> None:
        super().__init__()
        self.now, self.past = nn.Linear(inputs, 2 * filters), nn.Linear(inputs, 2 * filters, bias=False)
        self.dilation, self.outputs = dilation, inputs + filters

    def read(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """A whole sequence `[n, inputs]` to `[n, outputs]`, and what the step after it sees of the past."""
        past = torch.cat([x.new_zeros(self.dilation, self.now.out_features), self.past(x)])
        return self.step(x, past[: len(x)]), past[len(x)]

    def step(self, x: Tensor, past: Tensor) -> Tensor:
        """Steps `[m, inputs]` to `[m, outputs]`, given what they see of the past."""
        value, gate = (self.now(x) + past).chunk(2, -1)
        return torch.cat([x, value.tanh() * gate.sigmoid()], -1)


class Attention(nn.Module):
    """A step looks at itself and all before it; what it reads is concatenated (the paper's AttentionBlock).

    Args:
        inputs: numbers of a step.
        key: size of keys and queries.
        value: numbers that it adds to a step.
    """

    def __init__(self, inputs: int, key: int, value: int) -> None:
        super().__init__()
        self.query, self.key = nn.Linear(inputs, key), nn.Linear(inputs, key)
        self.value, self.outputs = nn.Linear(inputs, value), inputs + value

    def read(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """A whole sequence `[n, inputs]` to `[n, outputs]`, and its keys and values."""
        keys, values = self.key(x), self.value(x)
        weights = attention_weights(self.query(x), keys, causal(len(x), x.device))
        return torch.cat([x, weights @ values], -1), (keys, values)

    def step(self, x: Tensor, past: tuple[Tensor, Tensor]) -> Tensor:
        """Steps `[m, inputs]` to `[m, outputs]`, each the next one after the past and not seen by the others."""
        weights = self.weights(x, past)
        read = weights[:, :-1] @ past[1] + weights[:, -1:] * self.value(x)
        return torch.cat([x, read], -1)

    def weights(self, x: Tensor, past: tuple[Tensor, Tensor]) -> Tensor:
        """Where steps `[m, inputs]` look among the `n` past ones and, last, at themselves: `[m, n + 1]`."""
        query = self.query(x)
        scores = torch.cat([query @ past[0].T, (query * self.key(x)).sum(-1, keepdim=True)], -1)
        return (scores / query.shape[-1] ** 0.5).softmax(-1)


def temporal(inputs: int, length: int, filters: int) -> list[Dense]:
    """A temporal convolution block (the paper's TCBlock): dilations 2, 4, 8 ... up to the sequence's length at least.

    WaveNet's begin with 1; the paper's with 2^1, so that this block sees only every other step.
    """
    blocks: list[Dense] = []
    for i in range(1, math.ceil(math.log2(length)) + 1):
        blocks.append(Dense(blocks[-1].outputs if blocks else inputs, 2**i, filters))
    return blocks


class SNAIL(SequenceLearner):
    """Temporal convolutions and causal attention over the support set and a query (section 3 and figure 2).

    Args:
        model: the embedding, `x -> [n, features]`.
        features: its size.
        way: classes of a task.
        shot: examples of each class that the temporal convolutions are made to span; others will do at test.
        filters: of the temporal convolutions.
        attention: sizes of the keys and the values of each attention block, between which the convolutions lie.
        criterion: `(logits, y) -> scalar`, of the queries.
    """

    def __init__(
        self,
        model: nn.Module,
        features: int,
        way: int,
        shot: int = 1,
        filters: int = 128,
        attention: Sequence[tuple[int, int]] = ((64, 32), (256, 128), (512, 256)),
        *,
        criterion: Callable[[Tensor, Tree], Tensor] = cross_entropy,
    ) -> None:
        super().__init__(model, way, criterion)
        layers: list[Dense | Attention] = []
        size = features + way
        for i, (key, value) in enumerate(attention):
            if i:
                layers += temporal(size, way * shot + 1, filters)
                size = layers[-1].outputs
            layers.append(Attention(size, key, value))
            size = layers[-1].outputs
        self.layers: Sequence[Any] = nn.ModuleList(layers)  # type: ignore[assignment]
        self.head = nn.Linear(size, way)

    def read(self, z: Tensor, y: Tensor) -> list[Tree]:
        """What each layer keeps of the support set for the step after it."""
        x, kept = torch.cat([z, y], 1), []
        for layer in self.layers:
            x, past = layer.read(x)
            kept.append(past)
        return kept

    def answer(self, state: list[Tree], z: Tensor) -> Tensor:
        x = self._unlabelled(z)
        for layer, past in zip(self.layers, state, strict=True):
            x = layer.step(x, past)
        return self.head(x)

    def looks(self, fast: Memorised, x: Tree) -> Tensor:
        """Where each attention block looks for a query: `[blocks, queries, support + 1]`, the last at the query itself.

        Args:
            fast: as `adapt` returned it.
            x: queries.
        """
        steps, found = self._unlabelled(self.embed(x, fast.support_x)), []
        for layer, past in zip(self.layers, fast.state, strict=True):
            if isinstance(layer, Attention):
                found.append(layer.weights(steps, past))
            steps = layer.step(steps, past)
        return torch.stack(found)

    def _unlabelled(self, z: Tensor) -> Tensor:
        assert self.way is not None
        return torch.cat([z, z.new_zeros(len(z), self.way)], 1)
