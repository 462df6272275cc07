"""A recorded step of a small network as one C++ function, with the tasks outermost: a task's tensors stay in the cache.

One task's graph is written out with its sizes as constants. Element-wise operations merge into the loops that use
them, matrix products run in vector registers, threads share out the tasks, and nothing is allocated on the way.
"""

import ctypes
import logging
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx

aten, prims = torch.ops.aten, torch.ops.prims

LARGEST = 16 << 20
"""Bytes of one task's tensors from which on torch's own compiler is left to it: they no longer fit into the caches."""


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


def function(graph: fx.GraphModule, shared: int) -> Callable[..., list[Tensor]] | None:
    """One task's graph as a function over many tasks, compiled once (torch keeps what was compiled).

    Args:
        graph: on a CPU, in core operations; its first inputs are the same for all tasks, and its outputs are to be
            averaged over the tasks.
        shared: how many inputs are the same for all tasks.

    Returns:
        From the shared tensors and all tasks' others to the means; None where the graph can't be written out.
    """
    from torch._inductor.codecache import CppCodeCache

    try:
        source, scratch, dtype = write(graph, shared)
    except Unsupported as reason:
        logging.getLogger("mapsto").info("left to torch's compiler: %s", reason)
        return None
    inputs = len(graph.graph.find_nodes(op="placeholder"))
    likes = [torch.empty(node.meta["val"].shape, dtype=dtype) for node in _outputs(graph)]
    step = CppCodeCache.load(source, extra_flags=_FLAGS).step
    pointers = ctypes.c_void_p * (inputs + len(likes))

    def run(*tensors: Tensor) -> list[Tensor]:
        tasks = tensors[-1].shape[0]
        threads = min(tasks, torch.get_num_threads())
        given = [t if t.is_contiguous() else t.contiguous() for t in tensors]
        found = [torch.empty_like(like) for like in likes]
        room = torch.empty(scratch * threads, dtype=dtype)
        places = pointers(*[t.data_ptr() for t in given], *[t.data_ptr() for t in found])
        step(places, ctypes.c_void_p(room.data_ptr()), tasks, threads)
        return found

    return run


_FLAGS = ("-ftree-loop-vectorize", "-mprefer-vector-width=512", "-ffp-contract=fast", "-fassociative-math",
          "-fno-signed-zeros", "-fno-trapping-math", "-fno-math-errno")  # fmt: skip
"""After torch's own, which turn vector loops off."""


def write(graph: fx.GraphModule, shared: int) -> tuple[str, int, torch.dtype]:
    """The C++ of one task's graph (see `function`), the numbers of scratch memory a thread needs, and their type.

    Raises:
        Unsupported: the message names what can't be written out.
    """
    writer, made = _Writer(), dict[fx.Node, Value]()
    inputs: list[Buffer] = []
    dtype = graph.graph.find_nodes(op="placeholder")[0].meta["val"].dtype
    if dtype not in _TYPES:
        raise Unsupported(f"numbers are {dtype}")
    for node in graph.graph.nodes:
        if node.op == "placeholder":
            meta = node.meta["val"]
            if meta.dtype != dtype:
                raise Unsupported(f"an input is {meta.dtype}")
            inputs.append(Buffer(f"p{len(inputs)}", meta.numel(), len(inputs) < shared))
            made[node] = Stored(inputs[-1], _plain(meta))
        elif node.op != "output":
            if node.target not in _KNOWN or node.meta["val"].dtype not in (dtype, torch.bool):
                raise Unsupported(f"{node.target}")
            made[node] = writer.add(node, made)
    outputs = [(made[node], _plain(node.meta["val"])) for node in _outputs(graph)]
    source, scratch = _source(writer.statements, inputs, outputs, dtype)
    return source, scratch, dtype


def _outputs(graph: fx.GraphModule) -> Sequence[fx.Node]:
    return graph.graph.output_node().args[0]  # type: ignore[return-value]


def _plain(like: Tensor) -> Tensor:
    return torch.empty(like.shape, device="meta")


@dataclass
class _Writer:
    """Writes operations as statements, in the graph's order."""

    statements: list[Statement] = field(default_factory=list)
    copies: dict[Any, Stored] = field(default_factory=dict)

    def add(self, node: fx.Node, made: dict[fx.Node, Value]) -> Value:
        """What a node gives."""
        target: Any = node.target
        meta: Tensor = node.meta["val"]
        args: list[Any] = [made[arg] if isinstance(arg, fx.Node) else arg for arg in node.args]
        if target in _CONSTANTS:
            return float(args[-1] if _CONSTANTS[target] is None else _CONSTANTS[target])
        if target in _VIEWS:
            value = args[0]
            same = isinstance(value, Merged) and value.meta.shape == meta.shape and target not in _TURNS
            if same or isinstance(value, float):
                return value
            return self.view(self.store(value), lambda held: target(held, *args[1:], **node.kwargs))
        nodes: list[Any] = [*node.args]
        if target in _REDUCTIONS:
            return self.reduced(self.whole(args[0], nodes[0]), meta, args[1] if args[1:] else None, target)
        if target is aten.cat.default:
            dim = args[1] if args[1:] else 0
            places = _plain(meta).split([part.meta["val"].shape[dim] for part in nodes[0]], dim)
            return self.pieces(_plain(meta), list(zip(places, [made[part] for part in nodes[0]], strict=True)))
        if target in _SCATTERS:
            whole = _plain(meta)
            return self.pieces(whole, [(whole, args[0]), (_SCATTERS[target](whole, *args[2:]), args[1])])
        if target in _PRODUCTS:
            factors = [self.store(self.whole(v, n)) for v, n in zip(args[-2:], nodes[-2:], strict=True)]
            product = self.product(*factors)
            if len(args) == 2:
                return product
            form, values = "{0} + {1}", [args[0], product]
        else:
            form, values = _FORMS[target], [v for v in args if not isinstance(v, torch.dtype)]
            if target is aten.pow.Tensor_Scalar and args[1] in _POWERS:
                form = _POWERS[args[1]]
            if node.kwargs.get("alpha", 1) != 1:
                form, values = form.replace("{1}", "{2} * {1}"), [*values, float(node.kwargs["alpha"])]  # type: ignore
        values = [float(v) if isinstance(v, bool | int) else v for v in values]
        merged = Merged(form, values, _like(values, meta))
        users = list(node.users)
        once = len(users) == 1 and (users[0].op == "output" or users[0].target in (*_FORMS, *_REDUCTIONS))
        return merged if once or meta.dtype == torch.bool or not _reads(merged) else self.store(merged)

    def whole(self, value: Value, node: fx.Node) -> Stored | Merged:
        """With a shape, also a number."""
        return value if isinstance(value, Stored | Merged) else Merged("{0}", [value], _plain(node.meta["val"]))

    def fill(self, meta: Tensor, of: Value, code: Callable[[str], str]) -> Stored:
        """A new buffer for a tensor, and the statement that fills it: the code, given the buffer's name."""
        reads = _reads(of)
        buffer = Buffer(f"b{len(self.statements)}", meta.numel(), all(read.shared for read in reads))
        self.statements.append(Statement(code(buffer.name), reads, buffer))
        return Stored(buffer, meta)

    def store(self, value: Stored | Merged) -> Stored:
        return value if isinstance(value, Stored) else self.copy(value, torch.empty_like(value.meta))

    def copy(self, value: Stored | Merged, meta: Tensor) -> Stored:
        return self.fill(
            meta, value, lambda out: _loops(meta, lambda at: f"{_at(out, meta, at)} = {_read(value, at)};")
        )

    def laid_out(self, value: Stored) -> Stored:
        """A tensor in order: a copy, made once, where it is not."""
        if value.meta.is_contiguous():
            return value
        key = value.buffer, value.meta.shape, value.meta.stride(), value.meta.storage_offset()
        if key not in self.copies:
            self.copies[key] = self.copy(value, _plain(value.meta))
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
        start, form = _REDUCTIONS[target]
        count = math.prod(shape[d] for d in over) if target in (aten.mean.dim, aten.mean.default) else 1
        whole = torch.empty([1 if d in over else n for d, n in enumerate(shape)], device="meta")
        at = [f"i{d}" for d in range(len(shape))]

        def code(out: str) -> str:
            place, term = _at(out, whole, at), _read(value, at)
            if kept and (not over or kept[-1] > over[-1]):
                each = f"for (int i = 0; i < {whole.numel()}; ++i) {out}[i]"
                means = f"{each} /= {count};" if count > 1 else ""
                rows = f"{_for(shape, over)} {_for(shape, kept)} {place} = {form.format(place, term)};"
                return f"{each} = {start}; {rows} {means}"
            sums = f"T sum = {start}; {_for(shape, over)} sum = {form.format('sum', term)};"
            return f"{_for(shape, kept)} {{ {sums} {place} = sum / {count}; }}"

        return Stored(self.fill(whole, value, code).buffer, _plain(meta))

    def pieces(self, meta: Tensor, pieces: list[tuple[Tensor, Value]]) -> Stored:
        """A tensor that is filled piece by piece."""

        def code(out: str) -> str:
            return " ".join(_loops(to, lambda at: f"{_at(out, to, at)} = {_read(v, at)};") for to, v in pieces)  # noqa: B023

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
            places = [f"&{_at(name, shown, at)}" for name, shown in
                      ((a.buffer.name, a.meta), (b.buffer.name, b.meta), (out, meta))]  # fmt: skip
            return f"{_for(batch, list(range(len(batch))))} product<{sizes}>({', '.join(places)});"

        found = self.fill(meta, Merged("", [a, b], meta), code)
        return _turned(found) if turned else found


def _like(values: list[Value], meta: Tensor) -> Tensor:
    """In the order of the first value of that shape."""
    shapes = [value.meta for value in values if isinstance(value, Stored | Merged) and value.meta.shape == meta.shape]
    return torch.empty_like(shapes[0]) if shapes else _plain(meta)


def _turned(value: Stored) -> Stored:
    return Stored(value.buffer, value.meta.transpose(-1, -2))


def _step(value: Stored, dim: int) -> int:
    """From one element to the next; of a single one there is none to go to."""
    return value.meta.stride(dim) if value.meta.shape[dim] > 1 else 1


def _reads(value: Value) -> set[Buffer]:
    """The buffers that a value is worked out from."""
    if isinstance(value, Stored):
        return {value.buffer}
    return set().union(*map(_reads, value.of)) if isinstance(value, Merged) else set()


def _at(name: str, meta: Tensor, at: Sequence[str]) -> str:
    """The element at an index, which may have more dimensions in front (broadcasting)."""
    steps = zip(at[len(at) - meta.dim() :], meta.shape, meta.stride(), strict=True)
    terms = [i if s == 1 else f"{s} * {i}" for i, n, s in steps if n > 1 and s and i != "0"]
    offset = [str(meta.storage_offset())] if meta.storage_offset() or not terms else []
    return f"{name}[{' + '.join([*terms, *offset])}]"


def _read(value: Value, at: Sequence[str]) -> str:
    """The expression of a value's element."""
    if isinstance(value, Stored):
        return _at(value.buffer.name, value.meta, at)
    if isinstance(value, Merged):
        own = zip(at[len(at) - value.meta.dim() :], value.meta.shape, strict=True)
        inner = [i if n > 1 else "0" for i, n in own]
        return f"({value.form.format(*(_read(part, inner) for part in value.of))})"
    return f"T({'-' if value < 0 else ''}INFINITY)" if math.isinf(value) else f"T({value!r})"


def _for(shape: Sequence[int], dims: Sequence[int]) -> str:
    """Loops over dimensions, the last one innermost and free of dependences."""
    loops = [f"for (int i{d} = 0; i{d} < {shape[d]}; ++i{d})" for d in dims if shape[d] > 1]
    return " ".join([*loops[:-1], '_Pragma("GCC ivdep")', loops[-1]]) if loops else ""


def _loops(meta: Tensor, body: Callable[[list[str]], str]) -> str:
    """The body at every index of a tensor, along its memory."""
    order = sorted(range(meta.dim()), key=lambda d: -meta.stride(d))
    return f"{_for(meta.shape, order)} {body([f'i{d}' for d in range(meta.dim())])}"


_TYPES = {torch.float32: "float", torch.float64: "double"}

_FORMS = {
    aten.add.Tensor: "{0} + {1}", aten.add.Scalar: "{0} + {1}",
    aten.sub.Tensor: "{0} - {1}", aten.sub.Scalar: "{0} - {1}",
    aten.mul.Tensor: "{0} * {1}", aten.mul.Scalar: "{0} * {1}",
    aten.div.Tensor: "{0} / {1}", aten.div.Scalar: "{0} / {1}",
    aten.neg.default: "-{0}", aten.abs.default: "std::abs({0})", aten.reciprocal.default: "1 / {0}",
    aten.relu.default: "positive({0})", aten.threshold_backward.default: "{1} <= {2} ? T(0) : {0}",
    aten.where.self: "{0} ? {1} : {2}", aten.logical_not.default: "!{0}",
    aten.le.Scalar: "{0} <= {1}", aten.lt.Scalar: "{0} < {1}", aten.eq.Scalar: "{0} == {1}",
    aten.ge.Scalar: "{0} >= {1}", aten.gt.Scalar: "{0} > {1}", aten.ne.Scalar: "{0} != {1}",
    aten.le.Tensor: "{0} <= {1}", aten.lt.Tensor: "{0} < {1}", aten.eq.Tensor: "{0} == {1}",
    aten.ge.Tensor: "{0} >= {1}", aten.gt.Tensor: "{0} > {1}", aten.ne.Tensor: "{0} != {1}",
    aten.exp.default: "std::exp({0})", aten.expm1.default: "std::expm1({0})", aten.log.default: "std::log({0})",
    aten.log1p.default: "std::log1p({0})", aten.sin.default: "std::sin({0})", aten.cos.default: "std::cos({0})",
    aten.tanh.default: "std::tanh({0})", aten.sigmoid.default: "1 / (1 + std::exp(-{0}))",
    aten.erf.default: "std::erf({0})", aten.sqrt.default: "std::sqrt({0})", aten.rsqrt.default: "1 / std::sqrt({0})",
    aten.maximum.default: "larger({0}, {1})", aten.minimum.default: "-larger(-{0}, -{1})",
    aten.clamp_min.default: "larger({0}, {1})", aten.pow.Tensor_Scalar: "std::pow({0}, {1})",
    aten.pow.Scalar: "std::pow({0}, {1})", aten.clamp_max.default: "-larger(-{0}, -{1})",
    aten.bitwise_not.default: "!{0}", aten.bitwise_or.Tensor: "{0} || {1}", aten.bitwise_and.Tensor: "{0} && {1}",
    aten.copy.default: "{1}", aten.clone.default: "{0}", aten._to_copy.default: "T({0})",
    prims.convert_element_type.default: "T({0})",
}  # fmt: skip
"""Element by element, in C++. No part is named twice: it may be a long expression."""

_POWERS: dict[Any, str] = {0.0: "T(1)", 1.0: "{0}", 2.0: "square({0})", 3.0: "cube({0})",
                           0.5: "std::sqrt({0})", -0.5: "1 / std::sqrt({0})", -1.0: "1 / {0}"}  # fmt: skip

_REDUCTIONS = {aten.sum.dim_IntList: ("0", "{0} + {1}"), aten.sum.default: ("0", "{0} + {1}"),
               aten.mean.dim: ("0", "{0} + {1}"), aten.mean.default: ("0", "{0} + {1}"),
               aten.amax.default: ("-INFINITY", "larger({0}, {1})")}  # fmt: skip
"""Where to start, and how to go on."""

_PRODUCTS = {aten.mm.default, aten.bmm.default, aten.addmm.default, aten.baddbmm.default}

_CONSTANTS = {aten.full.default: None, aten.full_like.default: None, aten.scalar_tensor.default: None,
              aten.ones_like.default: 1, aten.zeros_like.default: 0, aten.empty.memory_format: 0}  # fmt: skip
"""The number, or None where it is the last argument."""

_TURNS = {aten.t.default, aten.transpose.int, aten.permute.default}
_VIEWS = {*_TURNS, aten.view.default, aten._unsafe_view.default, aten.expand.default, aten.unsqueeze.default,
          aten.squeeze.dim, aten.squeeze.dims, aten.slice.Tensor, aten.select.int, aten.alias.default}  # fmt: skip

_SCATTERS = {aten.slice_scatter.default: aten.slice.Tensor, aten.select_scatter.default: aten.select.int}

_KNOWN = {aten.cat.default, *_SCATTERS, *_FORMS, *_REDUCTIONS, *_PRODUCTS, *_CONSTANTS, *_VIEWS}


def _source(
    statements: list[Statement], inputs: list[Buffer], outputs: list[tuple[Value, Tensor]], dtype: torch.dtype
) -> tuple[str, int]:
    """The statements with their memory: what is shared once a thread, the rest once a task in memory used again."""
    starts, free = dict[Buffer, int](), list[tuple[int, int]]()
    top = sums = _whole(sum(meta.numel() for _, meta in outputs))
    last = {buffer: place for place, statement in enumerate(statements) for buffer in statement.reads}
    last |= {buffer: len(statements) for value, _ in outputs for buffer in _reads(value)}
    ends: dict[int, list[Buffer]] = {}
    for place, buffer in enumerate(statement.writes for statement in statements):
        size = _whole(buffer.size)
        hole = next((hole for hole in reversed(free) if hole[1] == size), None)
        if hole is not None and not buffer.shared:
            free.remove(hole)
        starts[buffer], top = (top, top + size) if hole is None or buffer.shared else (hole[0], top)
        if not buffer.shared:
            ends.setdefault(last.get(buffer, place), []).append(buffer)
        free += [(starts[gone], _whole(gone.size)) for gone in ends.get(place, [])]
    if top * dtype.itemsize > LARGEST:
        raise Unsupported(f"one task's tensors take {top * dtype.itemsize / 2**20:.1f} MiB")
    given = {
        b: f"const T* {b.name} = at[{i}]{'' if b.shared else f' + task * {b.size}'};" for i, b in enumerate(inputs)
    }
    functions = dict[str, str]()
    lines = {s.writes: f"T* {s.writes.name} = scratch + {starts[s.writes]}; {_call(s, functions)}" for s in statements}
    adds, means, place = [], [], 0
    for i, (value, meta) in enumerate(outputs):
        name = f"(scratch + {place})"
        adds.append(_loops(meta, lambda at: f"{_at(name, meta, at)} += {_read(value, at)};"))  # noqa: B023
        means.append(f"mean(at[{len(inputs) + i}], {name}, {meta.numel()}, {top}, tasks, threads);")
        place += meta.numel()
    parts = {
        "TYPE": f"using T = {_TYPES[dtype]};  // {torch.backends.cpu.get_cpu_capability()}",
        "FUNCTIONS": "\n".join(f"static NOINLINE void {name}{body}" for body, name in functions.items()),
        "SHARED": "\n    ".join(line for buffer, line in {**given, **lines}.items() if buffer.shared),
        "EACH": "\n        ".join([*(line for buffer, line in {**given, **lines}.items() if not buffer.shared), *adds]),
        "MEANS": "\n    ".join(means),
        "SUMS": str(sums),
        "ROOM": str(top),
    }
    source = (Path(__file__).parent / "assets" / "native.cpp").read_text()
    for word, text in parts.items():
        source = source.replace(f"/*{word}*/", text)
    return source, top


def _call(statement: Statement, functions: dict[str, str]) -> str:
    """A statement as a call: inner steps are alike, and what is alike is compiled once."""
    names = list(dict.fromkeys(re.findall(r"\b[bp]\d+\b", statement.code)))
    code = re.sub(r"\b[bp]\d+\b", lambda found: f"x{names.index(found[0])}", statement.code)
    given = ", ".join(
        f"{'T* __restrict' if n == statement.writes.name else 'const T*'} x{i}" for i, n in enumerate(names)
    )
    body = f"({given}) {{ {code} }}"
    name = functions.setdefault(body, f"f{len(functions)}")
    return f"{name}({', '.join(names)});"


def _whole(size: int) -> int:
    """Up to a full cache line."""
    return size + -size % 16
