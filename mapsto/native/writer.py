"""A graph's operations as statements in C++: what is stored, what is merged into the loops that use it."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx

from mapsto.native.operations import CONSTANTS, FORMS, POWERS, PRODUCTS, REDUCTIONS, SCATTERS, TURNS, VIEWS

aten = torch.ops.aten


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


@dataclass
class Writer:
    """Writes operations as statements, in the graph's order."""

    statements: list[Statement] = field(default_factory=list)
    copies: dict[Any, Stored] = field(default_factory=dict)

    def add(self, node: fx.Node, made: dict[fx.Node, Value]) -> Value:
        """What a node gives."""
        target: Any = node.target
        meta: Tensor = node.meta["val"]
        args: list[Any] = [made[arg] if isinstance(arg, fx.Node) else arg for arg in node.args]
        if target in CONSTANTS:
            return float(args[-1] if CONSTANTS[target] is None else CONSTANTS[target])
        if target in VIEWS:
            value = args[0]
            same = isinstance(value, Merged) and value.meta.shape == meta.shape and target not in TURNS
            if same or isinstance(value, float):
                return value
            return self.view(self.store(value), lambda held: target(held, *args[1:], **node.kwargs))
        nodes: list[Any] = [*node.args]
        if target in REDUCTIONS:
            return self.reduced(self.whole(args[0], nodes[0]), meta, args[1] if args[1:] else None, target)
        if target is aten.cat.default:
            dim = args[1] if args[1:] else 0
            places = plain(meta).split([part.meta["val"].shape[dim] for part in nodes[0]], dim)
            return self.pieces(plain(meta), list(zip(places, [made[part] for part in nodes[0]], strict=True)))
        if target in SCATTERS:
            whole = plain(meta)
            return self.pieces(whole, [(whole, args[0]), (SCATTERS[target](whole, *args[2:]), args[1])])
        if target in PRODUCTS:
            factors = [self.store(self.whole(v, n)) for v, n in zip(args[-2:], nodes[-2:], strict=True)]
            product = self.product(*factors)
            if len(args) == 2:
                return product
            form, values = "{0} + {1}", [args[0], product]
        else:
            form, values = FORMS[target], [v for v in args if not isinstance(v, torch.dtype)]
            if target is aten.pow.Tensor_Scalar and args[1] in POWERS:
                form = POWERS[args[1]]
            if node.kwargs.get("alpha", 1) != 1:
                form, values = form.replace("{1}", "{2} * {1}"), [*values, float(node.kwargs["alpha"])]  # type: ignore
        values = [float(v) if isinstance(v, bool | int) else v for v in values]
        merged = Merged(form, values, _like(values, meta))
        users = list(node.users)
        once = len(users) == 1 and (users[0].op == "output" or users[0].target in (*FORMS, *REDUCTIONS))
        return merged if once or meta.dtype == torch.bool or not reads(merged) else self.store(merged)

    def whole(self, value: Value, node: fx.Node) -> Stored | Merged:
        """With a shape, also a number."""
        return value if isinstance(value, Stored | Merged) else Merged("{0}", [value], plain(node.meta["val"]))

    def fill(self, meta: Tensor, of: Value, code: Callable[[str], str]) -> Stored:
        """A new buffer for a tensor, and the statement that fills it: the code, given the buffer's name."""
        sources = reads(of)
        buffer = Buffer(f"b{len(self.statements)}", meta.numel(), all(source.shared for source in sources))
        self.statements.append(Statement(code(buffer.name), sources, buffer))
        return Stored(buffer, meta)

    def store(self, value: Stored | Merged) -> Stored:
        return value if isinstance(value, Stored) else self.copy(value, torch.empty_like(value.meta))

    def copy(self, value: Stored | Merged, meta: Tensor) -> Stored:
        return self.fill(meta, value, lambda out: assign(out, meta, value))

    def laid_out(self, value: Stored) -> Stored:
        """A tensor in order: a copy, made once, where it is not."""
        if value.meta.is_contiguous():
            return value
        key = value.buffer, value.meta.shape, value.meta.stride(), value.meta.storage_offset()
        if key not in self.copies:
            meta = plain(value.meta)
            if meta.dim() == 2 and value.meta.stride(0) == 1:
                sizes = f"{meta.shape[0]}, {meta.shape[1]}, {value.meta.stride(1)}"
                start = element(value.buffer.name, value.meta, ["0", "0"])
                self.copies[key] = self.fill(meta, value, lambda out: f"turn<{sizes}>(&{start}, {out});")
            else:
                self.copies[key] = self.copy(value, meta)
        return self.copies[key]

    def view(self, value: Stored, show: Callable[[Tensor], Tensor]) -> Stored:
        try:
            return Stored(value.buffer, show(value.meta))
        except RuntimeError:  # of an order of its own
            value = self.laid_out(value)
            return Stored(value.buffer, show(value.meta))

    def reduced(self, value: Stored | Merged, meta: Tensor, dims: Sequence[int] | None, target: Any) -> Stored:
        """Over the dimensions (none: all): along memory, row upon row or number upon number."""
        shape = value.meta.shape
        over = [d for d, n in enumerate(shape) if n > 1 and (not dims or d in dims or d - len(shape) in dims)]
        kept = [d for d, n in enumerate(shape) if n > 1 and d not in over]
        start, form = REDUCTIONS[target]
        count = math.prod(shape[d] for d in over) if target in (aten.mean.dim, aten.mean.default) else 1
        whole = torch.empty([1 if d in over else n for d, n in enumerate(shape)], device="meta")
        at = [f"i{d}" for d in range(len(shape))]

        def code(out: str) -> str:
            place, term = element(out, whole, at), expression(value, at)
            if kept and (not over or kept[-1] > over[-1]):
                each = f"for (int i = 0; i < {whole.numel()}; ++i) {out}[i]"
                means = f"{each} /= {count};" if count > 1 else ""
                rows = f"{_for(shape, over)} {_for(shape, kept)} {place} = {form.format(place, term)};"
                return f"{each} = {start}; {rows} {means}"
            sums = f"T sum = {start}; {_for(shape, over)} sum = {form.format('sum', term)};"
            return f"{_for(shape, kept)} {{ {sums} {place} = sum / {count}; }}"

        return Stored(self.fill(whole, value, code).buffer, plain(meta))

    def pieces(self, meta: Tensor, pieces: list[tuple[Tensor, Value]]) -> Stored:
        """A tensor that is filled piece by piece."""

        def code(out: str) -> str:
            return " ".join(assign(out, to, v) for to, v in pieces)

        return self.fill(meta, Merged("", [v for _, v in pieces], meta), code)

    def product(self, a: Stored, b: Stored) -> Stored:
        """A matrix product, or many. The inner loop runs along the rows of one factor: of B, or of A transposed."""
        turned = _step(b, -1) != 1 and _step(a, -2) == 1
        if turned:
            a, b = _turned(b), _turned(a)
        if _step(b, -1) != 1:
            b = self.laid_out(b)
        (*batch, m, k), n = a.meta.shape, b.meta.shape[-1]
        meta = torch.empty(*batch, m, n, device="meta")
        sizes = ", ".join(map(str, (m, n, k, _step(a, -2), _step(a, -1), _step(b, -2))))
        at = [*(f"i{d}" for d in range(len(batch))), "0", "0"]

        def code(out: str) -> str:
            places = [f"&{element(name, shown, at)}" for name, shown in
                      ((a.buffer.name, a.meta), (b.buffer.name, b.meta), (out, meta))]  # fmt: skip
            return f"{_for(batch, list(range(len(batch))))} product<{sizes}>({', '.join(places)});"

        found = self.fill(meta, Merged("", [a, b], meta), code)
        return _turned(found) if turned else found


def _like(values: list[Value], meta: Tensor) -> Tensor:
    """In the order of the first value of that shape."""
    shapes = [value.meta for value in values if isinstance(value, Stored | Merged) and value.meta.shape == meta.shape]
    return torch.empty_like(shapes[0]) if shapes else plain(meta)


def _turned(value: Stored) -> Stored:
    return Stored(value.buffer, value.meta.transpose(-1, -2))


def _step(value: Stored, dim: int) -> int:
    """From one element to the next; of a single one there is none to go to."""
    return value.meta.stride(dim) if value.meta.shape[dim] > 1 else 1


def reads(value: Value) -> set[Buffer]:
    """The buffers that a value is worked out from."""
    if isinstance(value, Stored):
        return {value.buffer}
    return set().union(*map(reads, value.of)) if isinstance(value, Merged) else set()


FLAT = ["i0"]
"""The index of tensors that all lie in memory alike."""


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


def _for(shape: Sequence[int], dims: Sequence[int]) -> str:
    """Loops over dimensions, the last one innermost and free of dependences."""
    loops = [f"for (int i{d} = 0; i{d} < {shape[d]}; ++i{d})" for d in dims if shape[d] > 1]
    return " ".join([*loops[:-1], '_Pragma("GCC ivdep")', loops[-1]]) if loops else ""


def assign(name: str, meta: Tensor, value: Value, sign: str = "=") -> str:
    """The loops, along memory, that give a tensor the elements of a value."""
    order = sorted(range(meta.dim()), key=lambda d: -meta.stride(d))
    shape, at = meta.shape, [f"i{d}" for d in range(meta.dim())]
    gapless = 1 + sum((n - 1) * s for n, s in zip(shape, meta.stride(), strict=True)) == meta.numel()
    if meta.numel() > 1 and gapless and not meta.storage_offset() and _alike(value, meta):
        shape, order, at = [meta.numel()], [0], FLAT
    return f"{_for(shape, order)} {element(name, meta, at)} {sign} {expression(value, at)};"


def _alike(value: Value, meta: Tensor) -> bool:
    """Whether all that a value is worked out from lies in memory as the tensor does."""
    if isinstance(value, Stored):
        shown = value.meta
        return (shown.shape, shown.stride(), shown.storage_offset()) == (meta.shape, meta.stride(), 0)
    return all(_alike(part, meta) for part in value.of) if isinstance(value, Merged) else True
