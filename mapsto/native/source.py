"""A graph's statements as one C++ source, with their places in memory."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils._pytree import tree_leaves

from mapsto.native.convolutions import images
from mapsto.native.operations import KNOWN
from mapsto.native.values import (
    Buffer,
    Statement,
    Stored,
    Unsupported,
    Value,
    assign,
    plain,
    reads,
)
from mapsto.native.writer import Writer

LARGEST = 256 << 20
"""Bytes of one task's tensors above which no cache holds them, and torch's own compiler does as well."""

_TYPES = {torch.float32: "float", torch.float64: "double"}


def write(graph: fx.GraphModule, shared: int) -> tuple[str, int, torch.dtype]:
    """The C++ of one task's graph (see `function`), the numbers of scratch memory a thread needs, and their type.

    Raises:
        Unsupported: the message names what can't be written out.
    """
    writer, made = Writer(), dict[fx.Node, Any]()
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
            held = Stored(inputs[-1], plain(meta))
            made[node] = images(writer, held) if meta.dim() == 4 else held
        elif node.op != "output":
            types = {value.dtype for value in tree_leaves(node.meta.get("val")) if isinstance(value, torch.Tensor)}
            if node.target not in KNOWN or not types <= {dtype, torch.bool}:
                raise Unsupported(f"{node.target}")
            made[node] = writer.add(node, made)
    outputs = [(made[node], plain(node.meta["val"])) for node in outputs_of(graph)]
    source, scratch = _source(writer.statements, inputs, outputs, dtype)
    return source, scratch, dtype


def outputs_of(graph: fx.GraphModule) -> Sequence[fx.Node]:
    return graph.graph.output_node().args[0]  # type: ignore[return-value]


def _source(
    statements: list[Statement], inputs: list[Buffer], outputs: list[tuple[Value, Tensor]], dtype: torch.dtype
) -> tuple[str, int]:
    """The statements with their memory: what is shared once a thread, the rest once a task in memory used again."""
    starts, free = dict[Buffer, int](), list[tuple[int, int]]()
    top = sums = _whole(sum(meta.numel() for _, meta in outputs))
    last = {buffer: place for place, statement in enumerate(statements) for buffer in statement.reads}
    last |= {buffer: len(statements) for value, _ in outputs for buffer in reads(value)}
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
        adds.append(assign(name, meta, value, "+="))
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
    source = (Path(__file__).with_name("template.cpp")).read_text()
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
