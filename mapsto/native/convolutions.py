"""Convolutions, and their gradients of every order, which are convolutions and their gradients again."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx

from mapsto.native.values import Merged, Stored, Unsupported, Value

if TYPE_CHECKING:
    from mapsto.native.writer import Writer

aten = torch.ops.aten


def convolution(writer: "Writer", node: fx.Node, args: list[Any]) -> Value:
    """Of images, or (as second derivatives write it) its gradients."""
    x, w, bias, stride, padding, dilation, transposed, _, groups = args
    x, w = writer.store(writer.whole(x, node.args[0])), writer.store(writer.whole(w, node.args[1]))  # type: ignore
    shape = node.meta["val"].shape
    if groups != 1 or (bias is not None and transposed):
        raise Unsupported(f"a convolution in {groups} groups")
    if transposed and set(dilation) == {1}:
        return to_images(writer, x, w, shape, stride, padding)
    weights = not transposed and bias is None and set(stride) == {1}
    over = _is_images(x.meta.transpose(0, 1)) and not _is_images(x.meta)
    if weights and (over or set(dilation) != {1}):  # channels are examples
        found = to_filters(writer, _swapped(x), _swapped(w), shape[2:], dilation, padding)
        return _swapped(found)
    if transposed or set(dilation) != {1}:
        raise Unsupported("a dilated convolution")
    x, w = images(writer, x), images(writer, w)
    rows = w.meta.permute(2, 3, 1, 0).reshape(-1, w.meta.shape[0])  # a view: so they lie
    filters = writer.laid_out(Stored(w.buffer, rows))
    sizes = _sizes(x.meta.shape, w.meta.shape, shape, stride, padding)
    found = writer.fill(_images(shape), Merged("", [x, filters], x.meta),
                      lambda out: f"{sizes}::forward({x.buffer.name}, {filters.buffer.name}, {out});")  # fmt: skip
    if bias is None:
        return found
    wide = writer.view(writer.store(bias), lambda held: held.view(-1, 1, 1))
    return writer.store(Merged("{0} + {1}", [found, wide], found.meta))


def convolution_backward(writer: "Writer", node: fx.Node, args: list[Any]) -> list[Value]:
    grad, x, w, _, stride, padding, dilation, transposed, _, groups, mask = args
    if groups != 1 or transposed or set(dilation) != {1}:
        raise Unsupported("a dilated convolution")
    grad, x, w = (writer.store(writer.whole(v, n)) for v, n in zip(args[:3], node.args[:3], strict=True))  # type: ignore
    return [
        to_images(writer, grad, w, x.meta.shape, stride, padding) if mask[0] else 0.0,
        to_filters(writer, x, grad, w.meta.shape[2:], stride, padding) if mask[1] else 0.0,
        writer.reduced(grad, torch.empty(w.meta.shape[0], device="meta"), [0, 2, 3], aten.sum.dim_IntList)
        if mask[2] else 0.0,
    ]  # fmt: skip


def to_images(writer: "Writer", grad: Stored, w: Stored, shape: Sequence[int], stride: Any, padding: Any) -> Stored:
    grad, w = images(writer, grad), images(writer, w)
    sizes = _sizes(shape, w.meta.shape, grad.meta.shape, stride, padding)
    return writer.fill(_images(shape), Merged("", [grad, w], w.meta),
                     lambda out: f"{sizes}::to_images({grad.buffer.name}, {w.buffer.name}, {out});")  # fmt: skip


def to_filters(writer: "Writer", x: Stored, grad: Stored, kernel: Sequence[int], stride: Any, padding: Any) -> Stored:
    x, grad = images(writer, x), images(writer, grad)
    shape = (grad.meta.shape[1], x.meta.shape[1], *kernel)
    sizes = _sizes(x.meta.shape, shape, grad.meta.shape, stride, padding)
    return writer.fill(_images(shape), Merged("", [x, grad], x.meta),
                     lambda out: f"{sizes}::to_filters({x.buffer.name}, {grad.buffer.name}, {out});")  # fmt: skip


def images(writer: "Writer", value: Stored) -> Stored:
    """With the channels last in memory: a copy, made once, where they are not."""
    if _is_images(value.meta):
        return value
    key = value.buffer, value.meta.shape, value.meta.stride(), "images"
    if key not in writer.copies:
        writer.copies[key] = writer.copy(value, _images(value.meta.shape))
    return writer.copies[key]


def _images(shape: Sequence[int]) -> Tensor:
    n, c, h, w = shape
    return torch.empty(n, h, w, c, device="meta").permute(0, 3, 1, 2)


def _is_images(meta: Tensor) -> bool:
    steps = zip(meta.shape, meta.stride(), _images(meta.shape).stride(), strict=True)
    return not meta.storage_offset() and all(n == 1 or ours == theirs for n, ours, theirs in steps)


def _swapped(value: Stored) -> Stored:
    return Stored(value.buffer, value.meta.transpose(0, 1))


def _sizes(x: Sequence[int], w: Sequence[int], y: Sequence[int], stride: Any, padding: Any) -> str:
    numbers = (x[0], *x[2:], x[1], w[0], *w[2:], *y[2:], *stride, *padding)
    return f"Convolution<{', '.join(map(str, numbers))}>"


CONVOLUTIONS = {aten.convolution.default: convolution, aten.convolution_backward.default: convolution_backward}
