"""Batch norm whose statistics are an explicit choice, right under vmap and in second derivatives."""

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import batch_norm, conv2d, max_pool2d, relu

from mapsto.applied import TaskNorm, support_rows, vmapped
from mapsto.models import fused

Stats = Literal["transductive", "support", "running"]


class BatchNorm(TaskNorm):
    """Batch normalisation (Ioffe & Szegedy 2015) over all axes but the channels' (axis 1).

    The mode does not depend on `train()` or `eval()` unless it is "running":

    - "transductive": the statistics of whatever passes through, at test too, so queries are normalised together (as in
      MAML's and Reptile's published scores; a query's prediction then depends on the other queries);
    - "support": a task's queries are normalised with the statistics of its support set, at the adapted weights;
    - "running": batch statistics in training, their running average at test, as `torch.nn.BatchNorm2d`.

    Args:
        channels: the size of axis 1.
        stats: the mode.
        affine: learn a scale and a shift.
        momentum: of the running averages.
        fused: on a CPU, take kernels of ours (`mapsto.models.fused`) for images; False takes torch's own.
    """

    mean: Tensor
    var: Tensor

    def __init__(
        self,
        channels: int,
        stats: Stats = "transductive",
        affine: bool = True,
        eps: float = 1e-5,
        momentum: float = 0.1,
        fused: bool = True,
    ) -> None:
        super().__init__()
        if stats not in ("transductive", "support", "running"):
            raise ValueError(f"stats={stats!r} is none of 'transductive', 'support' and 'running'")
        self.stats, self.eps, self.momentum, self.fused = stats, eps, momentum, fused
        self.weight = nn.Parameter(torch.ones(channels)) if affine else None
        self.bias = nn.Parameter(torch.zeros(channels)) if affine else None
        if stats == "running":
            self.register_buffer("mean", torch.zeros(channels))
            self.register_buffer("var", torch.ones(channels))

    @property
    def fixed(self) -> bool:
        """Whether it is now the same map for any input: running averages, and not in training."""
        return self.stats == "running" and not self.training

    def affine(self) -> tuple[Tensor, Tensor]:
        """That map: the factor and the summand of each channel `[channels]`."""
        scale = (self.var + self.eps).rsqrt()
        if self.weight is not None:
            scale = scale * self.weight
        shift = -self.mean * scale
        return scale, shift if self.bias is None else shift + self.bias

    def forward(self, x: Tensor, activate: bool = False, pool: bool = False, conv: nn.Conv2d | None = None) -> Tensor:
        """Normalise `[n, channels, ...]`; where asked for, ReLU and 2x2 max-pooling come next, a convolution before.

        That has no bias: it would be subtracted again.
        """
        if self.fixed:
            scale, shift = self.affine()
            if conv is not None:  # the norm is part of it
                x = conv2d(x, conv.weight * scale.view(-1, 1, 1, 1), shift, conv.stride, conv.padding)
                return finish(x, activate, pool)
            shape = [1, -1] + [1] * (x.ndim - 2)
            return finish(x * scale.view(shape) + shift.view(shape), activate, pool)
        rows = support_rows() if self.stats == "support" else None
        channels = x.shape[1] if conv is None else conv.out_channels
        if rows is None and self.fused and fused.native(x) and channels > 1:
            how: Any = {} if conv is None else {"stride": conv.stride, "padding": conv.padding}
            kernel, affine = None if conv is None else conv.weight, (self.weight, self.bias)
            y, mean, var, size = fused.block(x, kernel, *affine, self.eps, relu=activate, pool=pool, **how)
            if self.stats == "running":
                self.mean.lerp_(mean, self.momentum)
                self.var.lerp_(var * (size / (size - 1)), self.momentum)
            return y
        x = x if conv is None else conv(x)
        if rows is None and not vmapped():
            # The kernel: the same numbers, and outside vmap the same derivatives.
            averages = (self.mean, self.var) if self.stats == "running" else (None, None)
            x = batch_norm(x, *averages, self.weight, self.bias, True, self.momentum, self.eps)
            return finish(x, activate, pool)
        source = x if rows is None else x[:rows]
        axes = [axis for axis in range(x.ndim) if axis != 1]
        var, mean = torch.var_mean(source, axes, correction=0)
        return finish(self._scaled(x, mean, var), activate, pool)

    def _scaled(self, x: Tensor, mean: Tensor, var: Tensor) -> Tensor:
        shape = [1, -1] + [1] * (x.ndim - 2)
        scale = (var + self.eps).rsqrt()
        if self.weight is not None:
            scale = scale * self.weight
        x = (x - mean.view(shape)) * scale.view(shape)
        return x if self.bias is None else x + self.bias.view(shape)

    def extra_repr(self) -> str:
        return f"stats={self.stats!r}, affine={self.weight is not None}, eps={self.eps}"


def finish(x: Tensor, activate: bool, pool: bool) -> Tensor:
    """ReLU and 2x2 max-pooling, where asked for; the pooling first, as that leaves a quarter for the other."""
    x = max_pool2d(x, 2) if pool else x
    return relu(x) if activate else x
