"""What a graph's tensors are in C++: memory, or expressions of others; and the loops over them."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


class Unsupported(ValueError):
    """The graph has an operation, a type or a size that is not written out here."""


@dataclass(eq=False)
class Buffer:
    """Memory: of one task's tensor, or (shared) of one that depends on the parameters only."""

    name: str
    size: int
    shared: bool


@dataclass
class Stored:
    """A tensor in memory: `meta`, a tensor without data, has its shape and strides."""

    buffer: Buffer
    meta: Tensor


@dataclass
class Merged:
    """A tensor that is worked out where it is used: an expression of others, element by element."""

    form: str
    of: "list[Value]"
    meta: Tensor


Value = Stored | Merged | float
"""A number is a tensor of that number, of any shape."""


@dataclass
class Statement:
    """C++ that fills a buffer."""

    code: str
    reads: set[Buffer]
    writes: Buffer


def plain(like: Tensor) -> Tensor:
    """A tensor's shape alone, in order."""
    return torch.empty(like.shape, device="meta")


FLAT = ["i0"]
"""The index of tensors that all lie in memory alike."""


def reads(value: Value) -> set[Buffer]:
    """The buffers that a value is worked out from."""
    if isinstance(value, Stored):
        return {value.buffer}
    return set().union(*map(reads, value.of)) if isinstance(value, Merged) else set()


def element(name: str, meta: Tensor, at: Sequence[str]) -> str:
    """The element at an index, which may have more dimensions in front (broadcasting)."""
    if at is FLAT:
        return f"{name}[i0]"
    steps = zip(at[len(at) - meta.dim() :], meta.shape, meta.stride(), strict=True)
    terms = [i if s == 1 else f"{s} * {i}" for i, n, s in steps if n > 1 and s and i != "0"]
    offset = [str(meta.storage_offset())] if meta.storage_offset() or not terms else []
    return f"{name}[{' + '.join([*terms, *offset])}]"


def expression(value: Value, at: Sequence[str]) -> str:
    """The expression of a value's element."""
    if isinstance(value, Stored):
        return element(value.buffer.name, value.meta, at)
    if isinstance(value, Merged):
        if at is FLAT:
            return f"({value.form.format(*(expression(part, at) for part in value.of))})"
        own = zip(at[len(at) - value.meta.dim() :], value.meta.shape, strict=True)
        inner = [i if n > 1 else "0" for i, n in own]
        return f"({value.form.format(*(expression(part, inner) for part in value.of))})"
    number = str(value).replace("inf", "INFINITY").replace("nan", "NAN")
    return f"T({number})"


def loops(shape: Sequence[int], dims: Sequence[int]) -> str:
    """Loops over dimensions, the last one innermost and free of dependences."""
    heads = [f"for (int i{d} = 0; i{d} < {shape[d]}; ++i{d})" for d in dims if shape[d] > 1]
    return " ".join([*heads[:-1], '_Pragma("GCC ivdep")', heads[-1]]) if heads else ""


def assign(name: str, meta: Tensor, value: Value, sign: str = "=") -> str:
    """The loops, along memory, that give a tensor the elements of a value."""
    dims = order(meta)
    shape, at = meta.shape, [f"i{d}" for d in range(meta.dim())]
    gapless = 1 + sum((n - 1) * s for n, s in zip(shape, meta.stride(), strict=True)) == meta.numel()
    if meta.numel() > 1 and gapless and not meta.storage_offset() and _alike(value, meta):
        shape, dims, at = [meta.numel()], [0], FLAT
    return f"{loops(shape, dims)} {element(name, meta, at)} {sign} {expression(value, at)};"


def _alike(value: Value, meta: Tensor) -> bool:
    """Whether all that a value is worked out from lies in memory as the tensor does."""
    if isinstance(value, Stored):
        shown = value.meta
        return (shown.shape, shown.stride(), shown.storage_offset()) == (meta.shape, meta.stride(), 0)
    return all(_alike(part, meta) for part in value.of) if isinstance(value, Merged) else True


def order(meta: Tensor) -> list[int]:
    """Dimensions as they lie in memory, the closest last."""
    return sorted(range(meta.dim()), key=lambda d: -meta.stride(d))
