"""Convolution, batch norm, ReLU and pooling for CPUs, whose second derivatives are as cheap as their first.

Torch's own second derivatives of these are right but slow: batch norm's is dozens of passes over memory. Here each is a
few native kernels on `channels_last` tensors. Outside vmap only; third derivatives raise. `tests/models/test_fused.py`
holds every path to torch's own in float64.
"""

# pyright: reportIncompatibleMethodOverride=false
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from mapsto.applied import vmapped

aten = torch.ops.aten
Pair = tuple[int, int]


def conv2d(x: Tensor, weight: Tensor, stride: Pair, padding: Pair) -> Tensor:
    """`torch.nn.functional.conv2d` without a bias: `[n, c, h, w]` to `[n, d, h', w']`, any number of derivatives."""
    return _Convolution.apply(channels_last(x), weight, stride, padding)


def norm_relu_pool(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, relu: bool = True, pool: bool = True
) -> tuple[Tensor, Tensor, Tensor]:
    """Batch norm with the batch's own statistics, then ReLU, then 2x2 max-pooling, each where asked for.

    A monotone function commutes with a maximum, so pooling comes first and the rest works on a quarter of the pixels.

    Args:
        x: `[n, channels, h, w]`.
        weight, bias: scale and shift `[channels]`; None for 1 and 0.
        eps: added to the variance.

    Returns:
        The result, and the batch's mean and (biased) variance `[channels]`, which carry no gradient.
    """
    weight = x.new_ones(x.shape[1]) if weight is None else weight
    bias = x.new_zeros(x.shape[1]) if bias is None else bias
    return _NormReluPool.apply(channels_last(x), weight, bias, eps, relu, pool)


def native(x: Tensor) -> bool:
    """Whether `x` are images to which these functions apply: on a CPU, in full precision, outside vmap."""
    plain = type(x) is Tensor and not vmapped()  # no tensor without data either, of a step being recorded
    full = x.dtype in (torch.float32, torch.float64) and not torch.is_autocast_enabled("cpu")
    return x.ndim == 4 and x.device.type == "cpu" and full and plain


def channels_last(x: Tensor) -> Tensor:
    """The same tensor in `channels_last` order, with strides that say so where there is only one channel."""
    x = x.contiguous(memory_format=torch.channels_last)
    _, c, h, w = x.shape
    return x.as_strided(x.shape, (h * w, 1, w, 1)) if c == 1 else x


# ------------------------------------------------------------------------------------------------ convolution
# A convolution is bilinear, and so are its two gradients: the derivatives of the three are the three again.


class _Convolution(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: Pair, padding: Pair) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.how = stride, padding
        return aten.convolution(x, weight, None, stride, padding, (1, 1), False, (0, 0), 1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        x, weight = ctx.saved_tensors
        to_x, to_weight = ctx.needs_input_grad[:2]
        return (
            _ToInput.apply(grad, weight, x.shape, *ctx.how) if to_x else None,
            _ToWeight.apply(x, grad, weight.shape, *ctx.how) if to_weight else None,
            None,
            None,
        )


class _ToInput(Function):
    """The convolution's gradient with respect to its input."""

    @staticmethod
    def forward(ctx: Any, grad: Tensor, weight: Tensor, shape: torch.Size, stride: Pair, padding: Pair) -> Tensor:
        ctx.save_for_backward(grad, weight)
        ctx.how = stride, padding
        x = _blank(shape, grad)
        return _native_backward(grad, x, weight, stride, padding, [True, False, False])[0]

    @staticmethod
    def backward(ctx: Any, u: Tensor) -> Any:
        grad, weight = ctx.saved_tensors
        to_grad, to_weight = ctx.needs_input_grad[:2]
        return (
            _Convolution.apply(channels_last(u), weight, *ctx.how) if to_grad else None,
            _ToWeight.apply(u, grad, weight.shape, *ctx.how) if to_weight else None,
            None,
            None,
            None,
        )


class _ToWeight(Function):
    """The convolution's gradient with respect to its weight."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, grad: Tensor, shape: torch.Size, stride: Pair, padding: Pair) -> Tensor:
        ctx.save_for_backward(x, grad)
        ctx.how = stride, padding
        weight = _blank(shape, grad)
        return _native_backward(grad, x, weight, stride, padding, [False, True, False])[1]

    @staticmethod
    def backward(ctx: Any, v: Tensor) -> Any:
        x, grad = ctx.saved_tensors
        to_x, to_grad = ctx.needs_input_grad[:2]
        return (
            _ToInput.apply(grad, v, x.shape, *ctx.how) if to_x else None,
            _Convolution.apply(x, v, *ctx.how) if to_grad else None,
            None,
            None,
            None,
        )


def _blank(shape: torch.Size, like: Tensor) -> Tensor:
    """What the kernel looks at for a shape and an order in memory, but does not read."""
    return torch.empty(shape, dtype=like.dtype, memory_format=torch.channels_last)


def _native_backward(grad: Tensor, x: Tensor, weight: Tensor, stride: Pair, padding: Pair, mask: list[bool]) -> Any:
    grad = grad.contiguous(memory_format=torch.channels_last)
    return aten.convolution_backward(grad, x, weight, None, stride, padding, (1, 1), False, (0, 0), 1, mask)


# ------------------------------------------------------------------------------------------------ norm, ReLU, pooling
# With h = (x - mean) r, r = 1 / sqrt(var + eps), w the scale, g the gradient after ReLU and pooling are undone, <.> the
# mean over a channel's M pixels:
#   first:   dx = w r (g - <g> - h <g h>),   dw = M <g h>,   db = M <g>
#   second, from u, a, b, the gradients with respect to dx, dw, db:
#   to g:    w r (u - <u> - h <u h>) + a h + b
#   to x:    P(r (a - w r <u h>) g - w r^2 <g h> u) - S r h / M,   P(v) = v - <v> - h <v h>
#   to w:    S / w,   where S = M w r (<u g> - <u> <g> - <u h> <g h>) = sum of u dx


class _NormReluPool(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float, relu: bool, pool: bool) -> Any:
        mean, var = _statistics(x)
        r = (var + eps).rsqrt()
        best, where = _pooled(x, weight) if pool else (x, None)
        scale = weight * r
        y = torch.addcmul(_wide(bias - mean * scale), best, _wide(scale))
        if relu:
            y.relu_()
        ctx.save_for_backward(x, weight, mean, r, best, where, y if relu else None)
        ctx.mark_non_differentiable(mean, var)
        ctx.set_materialize_grads(False)
        return y, mean, var

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, *_: None) -> Any:
        if grad is None:
            return (None,) * 6
        dx, dw, db = _NormReluPoolBackward.apply(grad, *ctx.saved_tensors)
        return dx, dw, db, None, None, None


class _NormReluPoolBackward(Function):
    @staticmethod
    def forward(
        ctx: Any, grad: Tensor, x: Tensor, weight: Tensor, mean: Tensor, r: Tensor, best: Tensor, where: Tensor | None,
        y: Tensor | None,
    ) -> Any:  # fmt: skip
        g = grad.contiguous(memory_format=torch.channels_last)
        if y is not None:
            g = aten.threshold_backward(g, y, 0)
        m = x.numel() / x.shape[1]
        dw, db = _sums(g, best, mean, r)
        scale = weight * r
        slope = -scale * r * dw / m
        dx = torch.addcmul(_wide(-scale * db / m - slope * mean), x, _wide(slope))
        _add_at(dx, where, g, scale)
        ctx.save_for_backward(g, x, weight, mean, r, best, where, y, dw, db)
        return dx, dw, db

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, u: Tensor, a: Tensor, b: Tensor) -> Any:
        g, x, weight, mean, r, best, where, y, dw, db = ctx.saved_tensors
        m = x.numel() / x.shape[1]
        u = u.contiguous(memory_format=torch.channels_last)
        at = (
            u
            if where is None
            else _rows(u).gather(1, _rows(where)).view(best.permute(0, 2, 3, 1).shape).permute(0, 3, 1, 2)
        )
        uh, su = _sums(u, x, mean, r)
        ug, _ = _sums(g, at, torch.zeros_like(mean), torch.ones_like(r))
        scale = weight * r
        inner = ug - su * db / m - uh * dw / m
        slope = r * (a - scale * uh / m)
        to_g = torch.addcmul(_wide(b - scale * su / m - slope * mean), best, _wide(slope)).addcmul_(at, _wide(scale))
        if y is not None:
            to_g = aten.threshold_backward(to_g, y, 0)
        from_u = -scale * r * dw / m
        from_h = -(from_u * uh + slope * dw + scale * r * inner) / m * r
        shift = -(from_u * su + slope * db) / m - from_h * mean
        to_x = torch.addcmul(_wide(shift), x, _wide(from_h)).addcmul_(u, _wide(from_u))
        _add_at(to_x, where, g, slope)
        return to_g, to_x, r * inner, None, None, None, None, None


def _wide(per_channel: Tensor) -> Tensor:
    return per_channel.view(1, -1, 1, 1)


def _rows(x: Tensor) -> Tensor:
    """`[n, c, h, w]` as `[n, h * w, c]`, which is how it lies in memory."""
    return x.permute(0, 2, 3, 1).flatten(1, 2)


def _lines(x: Tensor) -> Tensor:
    """A line of pixels as one wide pixel, `[n, c, h, w]` to `[1, w * c, n * h, 1]`, where there are many.

    Sums over pixels then have w partial sums a channel. With one, torch's kernels lose three digits in float32.
    """
    n, c, h, w = x.shape
    if n * h * w <= FEW:
        return x
    return x.permute(0, 2, 3, 1).reshape(1, n * h, 1, w * c).permute(0, 3, 1, 2)


FEW = 256
"""Pixels whose plain sum is precise enough."""


def _statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    means, variances = aten.batch_norm_update_stats(_lines(x), None, None, 0.0)
    if len(means) == x.shape[1]:
        return means, variances
    means, variances = means.view(x.shape[3], -1), variances.view(x.shape[3], -1)
    mean = means.mean(0)
    return mean, variances.mean(0) + (means - mean).square().mean(0)


def _sums(g: Tensor, x: Tensor, mean: Tensor, r: Tensor) -> tuple[Tensor, Tensor]:
    """The sums over pixels of g (x - mean) r and of g, `[channels]` each."""
    g, wide = _lines(g), _lines(x)
    w, c = wide.shape[1] // len(mean), len(mean)
    if w > 1:
        mean, r = mean.repeat(w), r.repeat(w)
    mask = [False, True, True]
    _, one, other = aten.native_batch_norm_backward(g, wide, None, None, None, mean, r, True, 0.0, mask)
    return (one.view(w, c).sum(0), other.view(w, c).sum(0)) if w > 1 else (one, other)


def _pooled(x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """What the norm's output has at its maxima, and where; of a channel with a negative scale that is x's minimum."""
    if bool((weight >= 0).all()):
        return aten.max_pool2d_with_indices(x, (2, 2), (2, 2))
    sign = _wide(torch.where(weight < 0, -1.0, 1.0).to(x.dtype))
    best, where = aten.max_pool2d_with_indices(x * sign, (2, 2), (2, 2))
    return best * sign, where


def _add_at(x: Tensor, where: Tensor | None, g: Tensor, scale: Tensor) -> None:
    """Add g times scale to x, at the places that pooling took where there was one."""
    if where is None:
        x.addcmul_(g, _wide(scale))
    else:
        _rows(x).scatter_add_(1, _rows(where), _rows(g * _wide(scale)))
