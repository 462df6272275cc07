"""Convolution, batch norm, ReLU and pooling for CPUs, whose second derivatives are as cheap as their first.

Torch's own second derivatives of these are right but slow: batch norm's is dozens of passes over memory. Here each is a
few native kernels on `channels_last` tensors, and of a block's large tensors only the convolution's result is kept.
Outside vmap only; third derivatives raise. `tests/models/test_fused.py` holds every path to torch's own in float64.
"""

# pyright: reportIncompatibleMethodOverride=false
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._C._autograd import _get_current_graph_task_keep_graph as _keeps_graph  # pyright: ignore
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from mapsto.applied import vmapped

aten = torch.ops.aten
Pair = tuple[int, int]


class _How(NamedTuple):
    stride: Pair
    padding: Pair
    eps: float
    relu: bool
    pool: bool


def block(
    x: Tensor,
    kernel: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float = 1e-5,
    *,
    stride: Pair = (1, 1),
    padding: Pair = (0, 0),
    relu: bool = True,
    pool: bool = True,
) -> tuple[Tensor, Tensor, Tensor, int]:
    """A convolution, batch norm with the batch's own statistics, ReLU, and 2x2 max-pooling, each where asked for.

    A monotone function commutes with a maximum, so pooling comes first and the rest works on a quarter of the pixels.

    Args:
        x: `[n, channels, h, w]`.
        kernel: the convolution's weight `[filters, channels, ...]`; None for no convolution.
        weight, bias: the norm's scale and shift `[filters]`; None for 1 and 0.
        eps: added to the variance.
        stride, padding: of the convolution.

    Returns:
        The result; the batch's mean and (biased) variance `[filters]`, which carry no gradient; of how many pixels.
    """
    channels = x.shape[1] if kernel is None else len(kernel)
    weight = x.new_ones(channels) if weight is None else weight
    bias = x.new_zeros(channels) if bias is None else bias
    how = _How(stride, padding, eps, relu, pool)
    y, z, mean, var = _Block.apply(channels_last(x), kernel, weight, bias, how)
    return y, mean, var, (x if z is None else z).numel() // channels


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


# ------------------------------------------------------------------------------------------------ derivatives
# A convolution is bilinear, and so are its two gradients: the derivatives of the three are the three again. For the
# rest, with z the convolution's result, h = (z - mean) r, r = 1 / sqrt(var + eps), w the scale, g the gradient after
# ReLU and pooling are undone, <.> the mean over a channel's M pixels:
#   first:   dz = w r (g - <g> - h <g h>),   dw = M <g h>,   db = M <g>
#   second, from u, a, b, the gradients with respect to dz, dw, db:
#   to g:    w r (u - <u> - h <u h>) + a h + b
#   to z:    P(r (a - w r <u h>) g - w r^2 <g h> u) - S r h / M,   P(v) = v - <v> - h <v h>
#   to w:    S / w,   where S = M w r (<u g> - <u> <g> - <u h> <g h>) = sum of u dz
# z is an output, so that what the second derivative finds for it comes to the first one's convolution.


class _Block(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, kernel: Tensor | None, weight: Tensor, bias: Tensor, how: _How) -> Any:
        z = x if kernel is None else _convolved(x, kernel, how)
        mean, var = _statistics(z)
        r = (var + how.eps).rsqrt()
        best, where = _pooled(z, weight) if how.pool else (z, None)
        scale = weight * r
        # What comes out tells what h was, wherever a gradient passes: (y - bias) / weight. So pooling's own result,
        # (best - mean) r, is not kept, unless a weight is so small beside its bias that digits would be lost.
        told = how.pool and how.relu and bool((weight.abs() >= bias.abs() / 128 + 1e-20).all())
        y = torch.addcmul(_wide(bias - mean * scale), best, _wide(scale), out=best if told else None)
        if how.relu:
            y.relu_()
        look, centre, spread = (y, bias, 1 / weight) if told else (best, mean, r)
        ctx.how, convolved = how, None if kernel is None else z
        kept = look, centre, spread, where, y if how.relu else None
        ctx.save_for_backward(x, kernel, convolved, weight, mean, r, *kept)
        ctx.mark_non_differentiable(mean, var)
        ctx.set_materialize_grads(False)
        return y, convolved, mean, var

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, to_z: Tensor | None, *_: None) -> Any:
        if grad is None and to_z is None:
            return (None,) * 5
        needed = ctx.needs_input_grad[:2]
        # Nobody asks for z again where this graph is freed after use: its memory is taken for the gradient.
        last = not torch.is_grad_enabled() and not _keeps_graph()
        return *_BlockBackward.apply(grad, to_z, *ctx.saved_tensors, needed, ctx.how, last), None


class _BlockBackward(Function):
    @staticmethod
    def forward(
        ctx: Any, grad: Tensor | None, to_z: Tensor | None, x: Tensor, kernel: Tensor | None, z: Tensor | None,
        weight: Tensor, mean: Tensor, r: Tensor, look: Tensor, centre: Tensor, spread: Tensor, where: Tensor | None,
        y: Tensor | None, needed: tuple[bool, bool], how: _How, last: bool,
    ) -> Any:  # fmt: skip
        g = torch.zeros_like(look) if grad is None else grad.contiguous(memory_format=torch.channels_last)
        if y is not None:
            g = aten.threshold_backward(g, y, 0)
        held = x if z is None else z
        dw, db = _sums(g, look, centre, spread)
        ctx.how = how
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(g, to_z, x, kernel, z, weight, mean, r, look, centre, spread, where, y, dw, db)
        dz = _to_z(g, to_z, held, weight, mean, r, where, dw, db, z if last else None)
        to_x, to_kernel = (dz, None) if kernel is None else _gradients(dz, x, kernel, how, needed)
        return to_x, to_kernel, dw, db

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, u_x: Tensor | None, u_kernel: Tensor | None, a: Tensor | None, b: Tensor | None) -> Any:
        g, to_z, x, kernel, z, weight, mean, r, look, centre, spread, where, y, dw, db = ctx.saved_tensors
        to_x = to_kernel = None
        if kernel is None:
            u, z = u_x, x
        else:
            dz = _to_z(g, to_z, z, weight, mean, r, where, dw, db, None)  # again: it is as large as z
            u = None
            if u_x is not None:
                u_x = channels_last(u_x)
                u = _convolved(u_x, kernel, ctx.how)
                to_kernel = _gradients(dz, u_x, kernel, ctx.how, (False, ctx.needs_input_grad[3]))[1]
            if u_kernel is not None:
                more = _convolved(x, u_kernel, ctx.how)
                u = more if u is None else u.add_(more)
                to_x = _gradients(dz, x, u_kernel, ctx.how, (ctx.needs_input_grad[2], False))[0]
            del dz
        u = torch.zeros_like(z) if u is None else u.contiguous(memory_format=torch.channels_last)
        a, b = (torch.zeros_like(dw) if v is None else v for v in (a, b))
        m, at = z.numel() / z.shape[1], _at(u, where)
        uh, su = _sums(u, z, mean, r)
        ug, _ = _sums(g, at, torch.zeros_like(mean), torch.ones_like(r))
        scale = weight * r
        inner = ug - su * db / m - uh * dw / m
        slope = r * (a - scale * uh / m)
        steep = slope / r * spread
        to_g = torch.addcmul(_wide(b - scale * su / m - steep * centre), look, _wide(steep)).addcmul_(at, _wide(scale))
        if y is not None:
            to_g = aten.threshold_backward(to_g, y, 0)
        from_u = -scale * r * dw / m
        from_h = -(from_u * uh + slope * dw + scale * r * inner) / m * r
        shift = -(from_u * su + slope * db) / m - from_h * mean
        found = torch.addcmul(_wide(shift), z, _wide(from_h)).addcmul_(u, _wide(from_u))
        _add_at(found, where, g, slope)
        to_x, found = (found, None) if kernel is None else (to_x, found)
        return to_g, None if to_z is None else u, to_x, to_kernel, found, r * inner, *(None,) * 10


def _convolved(x: Tensor, kernel: Tensor, how: _How) -> Tensor:
    return aten.convolution(x, kernel, None, how.stride, how.padding, (1, 1), False, (0, 0), 1)


def _gradients(dz: Tensor, x: Tensor, kernel: Tensor, how: _How, needed: tuple[bool, bool]) -> Any:
    """Of a convolution: to its input and to its kernel, None where not needed."""
    mask = [*needed, False]
    if not any(mask):
        return None, None
    where = how.stride, how.padding, (1, 1), False, (0, 0), 1
    return aten.convolution_backward(dz, x, kernel, None, *where, mask)[:2]


def _to_z(
    g: Tensor, more: Tensor | None, z: Tensor, weight: Tensor, mean: Tensor, r: Tensor, where: Tensor | None,
    dw: Tensor, db: Tensor, out: Tensor | None,
) -> Tensor:  # fmt: skip
    """The gradient with respect to the convolution's result, and more that was found for it."""
    scale, m = weight * r, z.numel() / z.shape[1]
    slope = -scale * r * dw / m
    dz = torch.addcmul(_wide(-scale * db / m - slope * mean), z, _wide(slope), out=out)
    _add_at(dz, where, g, scale)
    return dz if more is None else dz.add_(more)


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
        best, where = aten.max_pool2d_with_indices(x, (2, 2), (2, 2))
    else:
        sign = _wide(torch.where(weight < 0, -1.0, 1.0).to(x.dtype))
        best, where = aten.max_pool2d_with_indices(x * sign, (2, 2), (2, 2))
        best = best * sign
    return best, where


def _at(x: Tensor, where: Tensor | None) -> Tensor:
    """x at the places that pooling took, where there was one."""
    if where is None:
        return x
    n, c, h, w = where.shape
    return _rows(x).gather(1, _rows(where)).view(n, h, w, c).permute(0, 3, 1, 2)


def _add_at(x: Tensor, where: Tensor | None, g: Tensor, scale: Tensor) -> None:
    """Add g times scale to x at those places."""
    if where is None:
        x.addcmul_(g, _wide(scale))
    else:
        _rows(x).scatter_add_(1, _rows(where), _rows(g * _wide(scale)))
