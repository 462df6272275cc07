"""What is written out in C++ gives what torch gives, operation by operation and for sizes that fit no vector."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._inductor.decomposition import select_decomp_table
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.functional import conv2d

from mapsto.native import function
from mapsto.native.source import write
from mapsto.native.values import Unsupported

TASKS = 5


def written(step: Callable[..., list[Tensor]], shared: list[Tensor], own: list[Tensor]) -> list[Tensor]:
    """The step's means over tasks, in C++."""
    one = [*shared, *(x[:1] for x in own)]
    graph = make_fx(step, decomposition_table=select_decomp_table(), tracing_mode="fake")(*one)
    return function(graph, len(shared))(*shared, *own)


def expected(step: Callable[..., list[Tensor]], shared: list[Tensor], own: list[Tensor]) -> list[Tensor]:
    found = [step(*shared, *(x[i : i + 1] for x in own)) for i in range(TASKS)]
    return [torch.stack(outputs).mean(0) for outputs in zip(*found, strict=True)]


def check(step: Callable[..., list[Tensor]], shared: list[Tensor], own: list[Tensor]) -> None:
    for ours, theirs in zip(written(step, shared, own), expected(step, shared, own), strict=True):
        tolerance = 1e-12 if ours.dtype == torch.float64 else 1e-5
        torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)


def step(weight: Tensor, bias: Tensor, x: Tensor, y: Tensor) -> list[Tensor]:
    x, y = x[0], y[0]  # [2, 3, 7], [2, 7, 3]
    positive = x.square() + 0.5
    return [
        x + 2 * y.mT - bias, torch.sub(x, bias, alpha=0.3), x * y.transpose(1, 2) / positive, -x.abs(), 1 / positive,
        torch.relu(x), torch.where(x > 0.2, x, y.mT), x.clamp(-0.5, 0.5), torch.maximum(x, y.mT),
        torch.minimum(x, y.mT),
        (x <= 0).to(x.dtype) * ((y.mT < 0) | (x >= 1)).to(x.dtype), torch.where(~(x == y.mT), x, 0.0),
        positive.log(), x.exp(), x.expm1(), positive.log1p(), x.sin(), x.cos(), x.tanh(), x.sigmoid(), x.erf(),
        positive.sqrt(), positive.rsqrt(), x**3, positive**1.7, positive**-0.5, 0.9**x, x**0,
        x.sum(), x.sum(0), x.sum(1), x.sum(-1), x.sum((0, 2)), x.mean((1, 2), keepdim=True), x.amax(1), x.amax(),
        x.mean(),
        y.transpose(0, 2).sum(1), x.softmax(-1), x.log_softmax(0), y.permute(2, 0, 1).reshape(3, 14) * 1.5,
        torch.cat([x, y.mT[:, :2], torch.zeros_like(x)], 1), x[:, 1:, ::2] - x[:, :2, ::2], x[:, 1], x[1],
        torch.slice_scatter(x, y.mT[:, :1], 1, 1, 2), torch.select_scatter(x, x[0] + 1, 0, 1),
        x @ weight + bias[:5], x @ y, y @ x, (y @ x).mT @ y.mT.mT, weight.mT @ weight, torch.ones_like(x) * x.mean(),
        (x.unsqueeze(0).expand(3, 2, 3, 7) * y.mT).sum((0, 1)), torch.full((2, 3), 0.7, dtype=x.dtype), weight.sum(0),
    ]  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_operations(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    shared = [torch.randn(7, 5, dtype=dtype), torch.randn(7, dtype=dtype)]
    check(step, shared, [torch.randn(TASKS, 2, 3, 7, dtype=dtype), torch.randn(TASKS, 2, 7, 3, dtype=dtype)])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_products_of_all_sizes_and_orders(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    sizes = [(1, 1, 1), (1, 40, 3), (13, 1, 5), (5, 2, 1), (3, 7, 9), (2, 17, 4), (31, 33, 8), (6, 70, 11), (4, 100, 2)]
    own = [torch.randn(TASKS, *shape, dtype=dtype) for m, n, k in sizes for shape in ((m, k), (k, n), (k, m), (n, k))]

    def products(*tensors: Tensor) -> list[Tensor]:
        return [
            left @ right
            for a, b, at, bt in zip(*[iter([t[0] for t in tensors])] * 4, strict=True)
            for left in (a, at.mT)
            for right in (b, bt.mT)
        ]

    check(products, [], own)


CONVOLUTIONS = [
    (2, 3, 5, 6, 3, 1, 1),
    (3, 1, 4, 7, 3, 2, 1),
    (2, 4, 16, 8, 3, 2, 1),
    (2, 3, 6, 9, (3, 2), (2, 1), (0, 1)),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])  # of both at once: libraries share no memory
@pytest.mark.parametrize(("n", "channels", "filters", "size", "kernel", "stride", "padding"), CONVOLUTIONS)
def test_convolutions_and_their_derivatives(
    n: int, channels: int, filters: int, size: int, kernel: Any, stride: Any, padding: Any, dtype: torch.dtype
) -> None:
    def convolutions(weight: Tensor, bias: Tensor, x: Tensor) -> list[Tensor]:
        x, weight = x[0].detach().requires_grad_(), weight.detach().requires_grad_()
        with torch.enable_grad():
            y = conv2d(x, weight, bias, stride, padding)
            first = torch.autograd.grad(y.square().sum() / 2 + y.sin().sum(), (x, weight), create_graph=True)
            second = torch.autograd.grad(first[0].cos().mean() + first[1].square().mean(), (x, weight))
        return [tensor.detach() for tensor in (y, *first, *second)]

    torch.manual_seed(0)
    kernel = kernel if isinstance(kernel, tuple) else (kernel, kernel)
    shared = [torch.randn(filters, channels, *kernel, dtype=dtype) / 4, torch.randn(filters, dtype=dtype)]
    check(convolutions, shared, [torch.randn(TASKS, n, channels, size, size, dtype=dtype) / 2])


def test_threads_and_numbers_of_tasks_make_no_difference() -> None:
    torch.manual_seed(0)
    shared, own = [torch.randn(7, 5), torch.randn(7)], [torch.randn(TASKS, 2, 3, 7), torch.randn(TASKS, 2, 7, 3)]
    threads = torch.get_num_threads()
    try:
        found = []
        for number in (1, 2, 4):
            torch.set_num_threads(number)
            found.append(written(step, shared, own))
    finally:
        torch.set_num_threads(threads)
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=1e-5, atol=1e-6)


def test_what_cant_be_written_out_is_named() -> None:
    x = torch.rand(1, 3)
    graph = make_fx(lambda x: [x.atan()], tracing_mode="fake")(x)
    with pytest.raises(Unsupported, match="atan"):
        write(graph, 0)
    with pytest.raises(Unsupported, match="int64"):
        write(make_fx(lambda x: [x + 1], tracing_mode="fake")(torch.tensor([1])), 0)
    huge = make_fx(lambda x: [x.exp() @ x.cos()], tracing_mode="fake")(torch.rand(9000, 9000))
    with pytest.raises(Unsupported, match="MiB"):
        write(huge, 0)


def test_not_a_number_goes_through() -> None:
    x = torch.tensor([[1.0, float("nan"), -1.0]])

    def steps(x: Tensor) -> list[Tensor]:
        return [torch.relu(x), x.amax(), x.clamp(min=0), torch.maximum(x, -x)]

    graph = make_fx(steps, decomposition_table=select_decomp_table(), tracing_mode="fake")(x)
    torch.testing.assert_close(function(graph, 0)(x), steps(x), equal_nan=True)
