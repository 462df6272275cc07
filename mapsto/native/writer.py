"""A graph's operations as statements in C++: what is stored, what is merged into the loops that use it."""

import math
import operator
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx

from mapsto.native.convolutions import CONVOLUTIONS
from mapsto.native.operations import CONSTANTS, FORMS, POWERS, PRODUCTS, REDUCTIONS, SCATTERS, TURNS, VIEWS
from mapsto.native.values import (
    Buffer,
    Merged,
    Statement,
    Stored,
    Value,
    assign,
    element,
    expression,
    loops,
    order,
    plain,
    reads,
)

aten = torch.ops.aten


@dataclass
class Writer:
    """Writes operations as statements, in the graph's order."""

    statements: list[Statement] = field(default_factory=list)
    copies: dict[Any, Stored] = field(default_factory=dict)

    def add(self, node: fx.Node, made: dict[fx.Node, Any]) -> Any:
        """What a node gives."""
        target: Any = node.target
        meta: Any = node.meta.get("val")
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
        if target is operator.getitem:
            return args[0][args[1]]
        if target in CONVOLUTIONS:
            return CONVOLUTIONS[target](self, node, args)
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
        return merged if once or meta.dtype == torch.bool or _cheap(merged) else self.store(merged)

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
        """Over the dimensions (none: all): along memory, row upon row or number upon number, in parts for precision."""
        shape = value.meta.shape
        inner_last = [d for d in order(value.meta) if shape[d] > 1]
        over = [d for d in inner_last if not dims or d in dims or d - len(shape) in dims]
        kept = [d for d in inner_last if d not in over]
        start, form = REDUCTIONS[target]
        count = math.prod(shape[d] for d in over) if target in (aten.mean.dim, aten.mean.default) else 1
        sizes, axes = [1 if d in over else n for d, n in enumerate(shape)], order(value.meta)
        whole = torch.empty([sizes[d] for d in axes], device="meta").permute([axes.index(d) for d in range(len(axes))])
        at = [f"i{d}" for d in range(len(shape))]

        def code(out: str) -> str:
            place, term = element(out, whole, at), expression(value, at)
            if kept and (not over or kept[-1] == inner_last[-1]):
                each = f"for (int i = 0; i < {whole.numel()}; ++i)"

                def nested(dims: list[int], into: str) -> str:
                    if len(dims) < 2:
                        target = element(into, whole, at)
                        return f"{loops(shape, dims)} {loops(shape, kept)} {target} = {form.format(target, term)};"
                    part = f"part{len(dims)}"
                    added = form.format(f"{into}[i]", f"{part}[i]")
                    body = f"T {part}[{whole.numel()}]; {each} {part}[i] = {start}; {nested(dims[1:], part)}"
                    return f"{loops(shape, dims[:1])} {{ {body} {each} {into}[i] = {added}; }}"

                return f"{each} {out}[i] = {start}; {nested(over, out)} {each} {out}[i] /= {count};"
            sums = f"T sum = {start}; {loops(shape, over)} sum = {form.format('sum', term)};"
            return f"{loops(shape, kept)} {{ {sums} {place} = sum / {count}; }}"

        gone = tuple(d for d in range(len(shape)) if not dims or d in dims or d - len(shape) in dims)
        return Stored(self.fill(whole, value, code).buffer, whole if meta.dim() == len(shape) else whole.squeeze(gone))

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
            return f"{loops(batch, list(range(len(batch))))} product<{sizes}>({', '.join(places)});"

        found = self.fill(meta, Merged("", [a, b], meta), code)
        return _turned(found) if turned else found


def _like(values: list[Value], meta: Tensor) -> Tensor:
    """In the order that most of the tensors of that shape have which it is worked out from."""
    orders = [part.meta.stride() for value in values for part in _parts(value) if part.meta.shape == meta.shape]
    if not orders:
        return plain(meta)
    return torch.empty_like(torch.empty_strided(meta.shape, Counter(orders).most_common(1)[0][0], device="meta"))


def _cheap(value: Value) -> bool:
    """Whether working it out again costs no more than reading it would."""
    if isinstance(value, Merged):
        size = value.meta.numel()
        large = {part.buffer.name for part in _parts(value) if part.meta.numel() == size}
        return len(large) <= 1 and all(_light(part) for part in [value, *value.of])
    return True


def _light(value: Value) -> bool:
    return not isinstance(value, Merged) or (value.form in _LIGHT and all(map(_light, value.of)))


_LIGHT = {"{0} + {1}", "{0} - {1}", "{0} * {1}", "{0} + {2} * {1}", "{0} - {2} * {1}", "-{0}", "{0}", "square({0})"}


def _parts(value: Value) -> list[Stored]:
    if isinstance(value, Merged):
        return [part for inner in value.of for part in _parts(inner)]
    return [value] if isinstance(value, Stored) else []


def _turned(value: Stored) -> Stored:
    return Stored(value.buffer, value.meta.transpose(-1, -2))


def _step(value: Stored, dim: int) -> int:
    """From one element to the next; of a single one there is none to go to."""
    return value.meta.stride(dim) if value.meta.shape[dim] > 1 else 1
