"""Attention, written once for all families: from primitives, so that it vmaps and has second derivatives."""

import torch
from torch import Tensor, nn


def attention_weights(query: Tensor, key: Tensor, mask: Tensor | None = None) -> Tensor:
    """softmax(q k' / sqrt(d)) over the keys (Vaswani et al. 2017, equation 1).

    Args:
        query: `[..., n, d]`.
        key: `[..., m, d]`.
        mask: bool `[n, m]`, true where a query may look; every query must see a key.

    Returns:
        `[..., n, m]`, rows that sum to 1.
    """
    scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    return scores.softmax(-1)


def causal(n: int, device: torch.device | None = None) -> Tensor:
    """The mask `[n, n]` with which a step sees itself and what came before."""
    return torch.ones(n, n, dtype=torch.bool, device=device).tril()


class MultiHead(nn.Module):
    """Attention of several heads with learned projections (Vaswani et al. 2017, section 3.2.2).

    Args:
        width: of queries, keys, values and outputs.
        heads: must divide `width`.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"{heads} heads do not divide a width of {width}")
        self.heads = heads
        self.query, self.key, self.value = (nn.Linear(width, width, bias=False) for _ in range(3))
        self.out = nn.Linear(width, width)

    def weights(self, query: Tensor, key: Tensor, mask: Tensor | None = None) -> Tensor:
        """Where each of `[n, width]` looks among `[m, width]`: `[heads, n, m]`."""
        return attention_weights(self._split(self.query(query)), self._split(self.key(key)), mask)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
        """`[n, width]` read from `[m, width]`; `mask` as in `attention_weights`."""
        read = self.weights(query, key, mask) @ self._split(self.value(value))
        return self.out(read.transpose(-2, -3).flatten(-2))

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(-2, -3)


class Block(nn.Module):
    """A transformer's block, norm first (Xiong et al. 2020), with RMS norms, which are right under vmap.

    Args:
        width: of the tokens.
        heads: of the attention.
        hidden: of the perceptron, by default four times the width.
    """

    def __init__(self, width: int, heads: int, hidden: int | None = None) -> None:
        super().__init__()
        self.before, self.between = nn.RMSNorm(width), nn.RMSNorm(width)
        self.attention = MultiHead(width, heads)
        hidden = hidden or 4 * width
        self.perceptron = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))

    def forward(self, tokens: Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """Tokens `[n, width]` that look at `context` `[m, width]`, by default at each other."""
        seen = tokens if context is None else context
        keys = self.before(seen)
        tokens = tokens + self.attention(self.before(tokens), keys, keys, mask)
        return tokens + self.perceptron(self.between(tokens))
