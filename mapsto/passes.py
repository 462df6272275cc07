"""Fewer kernels for a recorded step: what autograd and vmap leave behind, and what two kernels do that one can."""

from collections.abc import Callable
from typing import Any

import torch
from torch import fx

aten = torch.ops.aten


def shorten(module: fx.GraphModule) -> None:
    """Take out what is there for autograd and vmap only, or can be had with fewer kernels."""
    from torch._functorch.compile_utils import fx_graph_cse

    _each(module, _skip)
    if not module.graph.find_nodes(op="call_function", target=aten.as_strided.default):  # which goes by the memory
        _each(module, _merge)
    _lay(module)
    _each(module, _skip)
    module.graph = fx_graph_cse(module.graph)
    module.recompile()


def fuse(module: fx.GraphModule) -> None:
    """For kernels that are called one by one: numbers go into the kernel that comes next, sums into products."""
    _each(module, _scale)
    _each(module, _accumulate)
    _lay(module)
    numbers = dict[tuple[float, torch.dtype], str]()
    for node in module.graph.nodes:  # a number is made into a tensor at every call, and cast to its type
        factor: Any = node.args[1] if _is(node, *_SCALED) else None
        if isinstance(factor, float | int) and node.meta["val"].is_floating_point():
            like = node.meta["val"]
            name = numbers.setdefault((float(factor), like.dtype), f"number{len(numbers)}")
            module.register_buffer(name, torch.tensor(factor, dtype=like.dtype, device=like.device))
            with module.graph.inserting_before(node):
                node.args = (node.args[0], module.graph.get_attr(name))
            node.target = _SCALED[node.target]
    module.graph.eliminate_dead_code()
    module.recompile()


def _lay(module: fx.GraphModule) -> None:
    """Note how tensors lie in memory now; those that can't be viewed as they were before are copied first."""
    from torch.fx.passes.fake_tensor_prop import FakeTensorProp

    class Laid(FakeTensorProp):
        def run_node(self, n: fx.Node) -> Any:
            if n.target is aten.view.default:
                source: Any = n.args[0]
                shape = n.args[1]
                try:
                    self.env[source].view(shape)
                except (RuntimeError, ValueError):
                    with n.graph.inserting_before(n):
                        copy = n.graph.call_function(aten.clone.default, (source,), _IN_ORDER)
                    n.args = (copy, shape)
                    self.env[copy] = super().run_node(copy)
            return super().run_node(n)

    inputs = [node.meta["val"] for node in module.graph.find_nodes(op="placeholder")]
    Laid(module, inputs[0].fake_mode).propagate_dont_convert_inputs(*inputs)


_IN_ORDER: dict[str, Any] = {"memory_format": torch.contiguous_format}
_TIMES = (aten.mul.Tensor, aten.mul.Scalar)
_SCALED = {aten.mul.Tensor: aten.mul.Tensor, aten.mul.Scalar: aten.mul.Tensor,
           aten.div.Tensor: aten.div.Tensor, aten.div.Scalar: aten.div.Tensor}  # fmt: skip
_SUMMED = {aten.mm.default: aten.addmm.default, aten.bmm.default: aten.baddbmm.default}


def _scale(node: fx.Node) -> None:
    """Tensors of one number throughout are that number; (x a) b is x (a b)."""
    if not _is(node, *_TIMES):
        return
    pair: list[Any] = list(node.args[:2])
    for x, factor in (pair, pair[::-1]):
        number = _number(factor)
        if number is None or not isinstance(x, fx.Node) or x.meta["val"].shape != node.meta["val"].shape:
            continue
        inner: Any = x
        while _is(inner, *_TIMES) and isinstance(inner.args[1], float | int) and len(inner.users) == 1:
            inner, number = inner.args[0], number * inner.args[1]
        node.target, node.args = aten.mul.Tensor, (inner, number)
        if number == 1 and _can_be(node, inner):
            node.replace_all_uses_with(inner)
        return


def _number(value: Any) -> float | None:
    """The number that all of a tensor's elements are, if the graph says so."""
    if not isinstance(value, fx.Node):
        return value
    one: Any = value.args[0] if value.args else None
    if _is(value, aten.ones_like.default, aten.zeros_like.default):
        return float(value.target is aten.ones_like.default)
    if _is(value, aten.pow.Tensor_Scalar):
        return 1.0 if value.args[1] == 0 else None
    if _is(value, *_ALIASES, aten.unsqueeze.default):
        return _number(one)
    if not _is(value, *_SCALED) or (number := _number(one)) is None or isinstance(value.args[1], fx.Node):
        return None
    other: Any = value.args[1]
    return number * other if _is(value, *_TIMES) else number / other


def _accumulate(node: fx.Node) -> None:
    """x + c A B in one kernel."""
    if not _is(node, aten.add.Tensor) or node.kwargs:
        return
    pair: list[Any] = list(node.args)
    for product, x in (pair[::-1], pair):
        seen: Any = product.args[0] if _is(product, *_VIEWS) else None
        if _is(seen, aten.mm.default) and len(seen.users) == len(product.users) == 1 and _is_row(x, seen, product):
            with node.graph.inserting_before(node):
                found = _call(node, aten.addmm.default, (x, *seen.args))
            node.target, node.args = product.target, (found, product.args[1])
            return
        if not (_is(product, *_SUMMED) and len(product.users) == 1 and isinstance(x, fx.Node)):
            continue
        factors = [_unscaled(node, factor) for factor in product.args]
        alpha = factors[0][1] * factors[1][1]
        if _is(x, aten.expand.default):  # which the kernels do themselves
            x = x.args[0]
        if factors[0][0].meta["val"].shape[-1] == 1:  # columns times rows
            node.target, node.kwargs = aten.addcmul.default, {"value": alpha}
        else:
            x, beta = _unscaled(node, x)
            node.target, node.kwargs = _SUMMED[product.target], {"alpha": alpha, "beta": beta}
        node.args = (x, factors[0][0], factors[1][0])
        return


def _is_row(x: Any, *tensors: fx.Node) -> bool:
    """Whether it is added to each row of the tensors, matrices or stacks of them."""
    shapes = {tensor.meta["val"].shape[-1:] for tensor in tensors}
    return isinstance(x, fx.Node) and shapes == {x.meta["val"].shape}


def _unscaled(node: fx.Node, factor: Any) -> tuple[fx.Node, float]:
    """A tensor, perhaps transposed or seen in another shape, as another one times a number."""
    scaled: Any = factor.args[0] if _is(factor, *_SWAPS, *_VIEWS) else factor
    if not _times(scaled) or (_is(factor, *_VIEWS) and not scaled.args[0].meta["val"].is_contiguous()):
        return factor, 1.0
    if scaled is factor:
        return scaled.args[0], scaled.args[1]
    with node.graph.inserting_before(node):
        return _call(node, factor.target, (scaled.args[0], *factor.args[1:])), scaled.args[1]


def _merge(node: fx.Node) -> None:
    """a - c g and -c g in one kernel, no sum with 0, no product with 1, and products whose transpose is wanted."""
    one: Any = node.args[0] if node.args else None
    other: Any = node.args[1] if len(node.args) > 1 else None
    if node.target is aten.sub.Tensor and _times(other) and len(node.args) == 2 and not node.kwargs:
        node.args, node.kwargs = (one, other.args[0]), {"alpha": other.args[1]}
    elif _times(node) and _is(one, aten.neg.default):
        node.args = (one.args[0], -other)
    elif node.target is aten.add.Tensor and not node.kwargs:
        for zeros, rest in ((one, other), (other, one)):
            if _number(zeros) == 0 and _can_be(node, rest):
                node.replace_all_uses_with(rest)
    elif node.target is aten.mul.Tensor and _number(other) == 1 and _can_be(node, one):
        node.replace_all_uses_with(one)
    elif _is(one, aten.bmm.default, aten.mm.default) and len(one.users) == 1 and _turns(node):
        with node.graph.inserting_before(node):
            swapped = [_call(node, node.target, (factor, *node.args[1:])) for factor in reversed(one.args)]
            node.replace_all_uses_with(product := _call(node, one.target, tuple(swapped)))
            product.meta["val"] = node.meta["val"].contiguous()


def _turns(node: fx.Node) -> bool:
    """Whether it is a matrix, or each of a stack of them, transposed."""
    ndim = node.meta["val"].ndim if node.target in _SWAPS else 0
    axes: Any = node.args[1:]
    return ndim > 0 and {axis % ndim for axis in axes} in (set(), {ndim - 2, ndim - 1})


def _skip(node: fx.Node) -> None:
    """Detaching, views that change nothing, factors of 1, and two transpositions."""
    source: Any = node.args[0] if node.args else None
    if not isinstance(source, fx.Node):
        return
    if node.target in _VIEWS and _is(source, aten.sum.dim_IntList) and len(source.users) == 1 and not source.kwargs:
        summed: Any = source
        whole = summed.args[0].meta["val"].shape
        over = {d % len(whole) for d in summed.args[1]}
        if [n for d, n in enumerate(whole) if d not in over] == list(node.meta["val"].shape):
            node.target, node.args = summed.target, summed.args[:2]
            return
    if node.target in _VIEWS and source.target in _VIEWS:
        shown: Any = source.args[0]
        node.replace_input_with(source, shown)
        source = shown
    same = node.target in _ALIASES and _layout(node) == _layout(source)
    one = node.target in (aten.mul.Scalar, aten.pow.Tensor_Scalar) and node.args[1] == 1
    if node.target is aten.detach.default or same or one:
        node.replace_all_uses_with(source)
        node.graph.erase_node(node)
    elif node.target in _SWAPS and source.target is node.target and set(node.args[1:]) == set(source.args[1:]):
        origin: Any = source.args[0]
        node.replace_all_uses_with(origin)
        node.graph.erase_node(node)


def _is(node: Any, *targets: Any) -> bool:
    return isinstance(node, fx.Node) and node.target in targets


def _times(node: Any) -> bool:
    """Whether it is a tensor times a number."""
    return _is(node, aten.mul.Tensor) and isinstance(node.args[1], float)


def _can_be(node: fx.Node, other: Any) -> bool:
    """Whether the other can take its place: of its shape and type, and so in memory that views of it are there."""
    if not isinstance(other, fx.Node):
        return False
    here, there = node.meta["val"], other.meta["val"]
    return here.shape == there.shape and here.dtype == there.dtype and there.is_contiguous()


def _call(like: fx.Node, target: Any, args: tuple) -> fx.Node:
    made = like.graph.call_function(target, args)
    made.meta["val"] = target(*(arg.meta["val"] if isinstance(arg, fx.Node) else arg for arg in args))
    return made


_VIEWS = (aten.view.default, aten._unsafe_view.default)
_ALIASES = (*_VIEWS, aten.expand.default, aten.permute.default, aten.slice.Tensor)
_SWAPS = (aten.t.default, aten.transpose.int)


def _layout(node: fx.Node) -> Any:
    value = node.meta["val"]
    return value.shape, value.stride()


def _each(module: fx.GraphModule, rule: Callable[[fx.Node], None]) -> None:
    for node in list(module.graph.nodes):
        if node.op == "call_function":
            rule(node)
    module.graph.eliminate_dead_code()
