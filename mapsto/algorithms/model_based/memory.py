"""An external memory with least recently used access: pure functions on an explicit state.

A. Santoro, S. Bartunov, M. Botvinick, D. Wierstra, T. Lillicrap. Meta-Learning with Memory-Augmented Neural Networks.
ICML 2016. https://proceedings.mlr.press/v48/santoro16.html; equations numbered as there.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Memory(NamedTuple):
    """A memory, and how it was used last.

    Attributes:
        rows: `[..., slots, width]`.
        read: where the last step read, a weighting of the slots for each head, `[..., heads, slots]`.
        usage: how much each slot was read and written lately, `[..., slots]`.
    """

    rows: Tensor
    read: Tensor
    usage: Tensor


def blank(slots: int, width: int, heads: int, like: Tensor) -> Memory:
    """A memory before its first step, its rows all 1e-6; of the type and on the device of `like`."""
    return Memory(like.new_full((slots, width), 1e-6), like.new_zeros(heads, slots), like.new_zeros(slots))


def similarity(key: Tensor, rows: Tensor) -> Tensor:
    """The cosines of keys `[..., heads, width]` and rows `[..., slots, width]`: `[..., heads, slots]` (equation 2)."""
    squares = key.square().sum(-1)[..., None] * rows.square().sum(-1)[..., None, :]
    return key @ rows.transpose(-1, -2) * squares.clamp(min=1e-24).rsqrt()


def least_used(usage: Tensor, heads: int) -> Tensor:
    """A slot for each head, least used first, one-hot `[..., heads, slots]` (equation 6); of equals, the first slot."""
    order = usage.argsort(stable=True, dim=-1)[..., :heads]
    return (order[..., None] == torch.arange(usage.shape[-1], device=usage.device)).to(usage.dtype)


def write(memory: Memory, key: Tensor, gate: Tensor) -> tuple[Tensor, Tensor]:
    """Write each head's key to where the head read last, or to the least used slot, as its gate says.

    With several heads each has a least used slot of its own; these are emptied before.

    Args:
        memory: as the step before left it.
        key: `[..., heads, width]`.
        gate: between 0, the least used slot, and 1, `[..., heads]`.

    Returns:
        The new rows (equation 8) and the weights written with, `[..., heads, slots]` (equation 7).
    """
    least = least_used(memory.usage, gate.shape[-1])
    weights = gate[..., None] * memory.read + (1 - gate[..., None]) * least
    kept = memory.rows * (1 - least.sum(-2))[..., None]
    return kept + weights.transpose(-1, -2) @ key, weights


def access(memory: Memory, key: Tensor, gate: Tensor, decay: float) -> tuple[Memory, Tensor]:
    """One step: write, then read by content.

    Args:
        memory: as the step before left it; leading axes may be missing.
        key: what is written and looked for, `[..., heads, width]`.
        gate: as in `write`.
        decay: of usage, gamma.

    Returns:
        The memory, and what each head read, `[..., heads, width]` (equations 3 to 5).
    """
    rows, written = write(memory, key, gate)
    read = similarity(key, rows).softmax(-1)
    usage = decay * memory.usage + (read + written).sum(-2)
    return Memory(rows, read, usage), read @ rows
