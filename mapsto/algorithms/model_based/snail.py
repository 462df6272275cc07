"""The simple neural attentive meta-learner.

N. Mishra, M. Rohaninejad, X. Chen, P. Abbeel. A Simple Neural Attentive Meta-Learner. ICLR 2018.
https://arxiv.org/abs/1707.03141. No code of the authors is known to us.

What differs: the embedding is any model, and all queries of a task are the last steps of as many sequences, which share
the support set. That one is computed once.
"""

import math
from collections.abc import Callable, Iterator, Sequence
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

    def read(self, x: Tensor, past: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """A sequence `[..., n, inputs]`, or what follows a past, to `[..., n, outputs]`; and the past after it.

        That is what the last steps, `dilation` of them, are to the steps that will look back at them.
        """
        if past is None:
            past = x.new_zeros(*x.shape[:-2], self.dilation, self.now.out_features)
        window = torch.cat([past, self.past(x)], -2)
        n = x.shape[-2]
        return self._add(x, window[..., :n, :]), window[..., n:, :]

    def step(self, x: Tensor, past: Tensor) -> Tensor:
        """Steps `[m, inputs]` to `[m, outputs]`, each the next one after the past and not seen by the others."""
        return self._add(x, past[:1])

    def _add(self, x: Tensor, past: Tensor) -> Tensor:
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

    def read(self, x: Tensor, past: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """A sequence `[..., n, inputs]`, or what follows a past, to `[..., n, outputs]`; and all keys and values."""
        keys, values, mask = self.key(x), self.value(x), causal(x.shape[-2], x.device)
        if past is not None:
            keys, values = (torch.cat([old, new], -2) for old, new in zip(past, (keys, values), strict=True))
            mask = torch.cat([mask.new_ones(len(mask), past[0].shape[-2]), mask], 1)
        weights = attention_weights(self.query(x), keys, mask)
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


class Trunk(nn.ModuleList):
    """Attention blocks with temporal convolutions between them: what reads the sequence, for images and for bandits.

    Args:
        inputs: numbers of a step.
        length: of the sequences that the temporal convolutions are made to span.
        filters: of the temporal convolutions.
        attention: sizes of the keys and the values of each attention block.
    """

    def __init__(self, inputs: int, length: int, filters: int, attention: Sequence[tuple[int, int]]) -> None:
        layers: list[Dense | Attention] = []
        for i, (key, value) in enumerate(attention):
            if i:
                layers += temporal(inputs, length, filters)
                inputs = layers[-1].outputs
            layers.append(Attention(inputs, key, value))
            inputs = layers[-1].outputs
        super().__init__(layers)
        self.outputs = inputs

    def read(self, x: Tensor, past: Sequence[Tree] | None = None) -> tuple[Tensor, list[Tree]]:
        """A sequence `[..., n, inputs]` to `[..., n, outputs]`, and what each layer keeps for the steps after it.

        Given what was kept, it reads on from there: the same numbers as in one go.
        """
        kept = []
        for layer, before in zip(self, past or [None] * len(self), strict=True):
            x, after = layer.read(x, before)
            kept.append(after)
        return x, kept

    def step(self, x: Tensor, past: Sequence[Tree]) -> Tensor:
        """Steps `[m, inputs]` to `[m, outputs]`, each the next one after the past and not seen by the others."""
        for layer, before in zip(self, past, strict=True):
            x = layer.step(x, before)
        return x

    def looks(self, x: Tensor, past: Sequence[Tree]) -> Tensor:
        """Where each attention block looks in `step`: `[blocks, m, n + 1]`, the last at the step itself."""
        found = []
        for layer, before in zip(self, past, strict=True):
            if isinstance(layer, Attention):
                found.append(layer.weights(x, before))
            x = layer.step(x, before)
        return torch.stack(found)

    def __iter__(self) -> Iterator[Any]:  # for type checkers, to which a module's items have no `read` or `step`
        return super().__iter__()


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
        self.layers = Trunk(features + way, way * shot + 1, filters, attention)
        self.head = nn.Linear(self.layers.outputs, way)

    def read(self, z: Tensor, y: Tensor) -> list[Tree]:
        """What each layer keeps of the support set for the step after it."""
        return self.layers.read(torch.cat([z, y], 1))[1]

    def answer(self, state: list[Tree], z: Tensor) -> Tensor:
        return self.head(self.layers.step(self._unlabelled(z), state))

    def looks(self, fast: Memorised, x: Tree) -> Tensor:
        """Where each attention block looks for a query: `[blocks, queries, support + 1]`, the last at the query itself.

        Args:
            fast: as `adapt` returned it.
            x: queries.
        """
        return self.layers.looks(self._unlabelled(self.embed(x, fast.support_x)), fast.state)

    def _unlabelled(self, z: Tensor) -> Tensor:
        assert self.way is not None
        return torch.cat([z, z.new_zeros(len(z), self.way)], 1)
