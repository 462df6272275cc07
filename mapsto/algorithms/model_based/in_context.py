"""A transformer that reads a support set once and answers queries one by one: what PFN and GPICL share."""

import torch
from torch import Tensor, nn

from mapsto.attention import Block


class InContext(nn.Module):
    """Blocks in which the support's tokens look at each other, and each query's token at the support's alone.

    Nothing tells a token its place, so the order of the support changes nothing, and no query sees another.

    Args:
        width: of the tokens.
        depth: blocks.
        heads: of the attention.
    """

    def __init__(self, width: int, depth: int, heads: int) -> None:
        super().__init__()
        if depth < 1:
            raise ValueError(f"a transformer wants at least one block, not depth={depth}")
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm = nn.RMSNorm(width)

    def read(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """What every block sees of the support `[n, width]`: `[depth, n, width]`.

        Args:
            tokens: the support's.
            mask: bool `[n]`, false where a token is padding.
        """
        seen = [tokens]
        for block in self.blocks[:-1]:
            seen.append(block(seen[-1], mask=_columns(mask)))
        return torch.stack(seen)

    def answer(self, tokens: Tensor, seen: Tensor, mask: Tensor | None = None) -> Tensor:
        """The queries' tokens `[n, width]` after all blocks, normed; `seen` and `mask` are the support's."""
        for block, context in zip(self.blocks, seen.unbind(0), strict=True):
            tokens = block(tokens, context, _columns(mask))
        return self.norm(tokens)


def _columns(mask: Tensor | None) -> Tensor | None:
    return None if mask is None else mask[None]
