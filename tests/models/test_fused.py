"""The fused kernels equal torch's own in float64: values, first and second derivatives, any shape and sign."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import batch_norm, conv2d, max_pool2d

from mapsto import check, over_tasks
from mapsto.algorithms import MAML, ProtoNet
from mapsto.episode import Episode, Examples
from mapsto.models import BatchNorm, Conv4, fused
from mapsto.models.conv4 import ConvBlock

generator = torch.Generator().manual_seed(0)


def randn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def derivatives(fn, inputs: list[Tensor]) -> list[Tensor]:  # noqa: ANN001
    """The value, the first derivatives along a random direction, and the derivatives of their weighted sum."""
    inputs = [t.clone().requires_grad_() for t in inputs]
    y = fn(*inputs)
    weights = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view(y.shape).requires_grad_()
    first = torch.autograd.grad((y * weights).sum(), inputs, create_graph=True)
    mixed = torch.stack(
        [(g * torch.linspace(1, 2, g.numel(), dtype=g.dtype).view(g.shape).cos()).sum() for g in first]
    ).sum()
    second = torch.autograd.grad(mixed, [*inputs, weights], allow_unused=True)
    return [y, *first, *(torch.zeros((), dtype=y.dtype) if g is None else g for g in second)]


def assert_equal(ours: list[Tensor], theirs: list[Tensor]) -> None:
    for a, b in zip(ours, theirs, strict=True):
        assert torch.allclose(a, b, rtol=1e-9, atol=1e-9 * float(b.detach().abs().max()) + 1e-12)


@pytest.mark.parametrize("pool", [False, True])
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("signs", ["positive", "mixed", "none"])
@pytest.mark.parametrize("shape", [(3, 4, 6, 6), (2, 3, 7, 5), (4, 2, 2, 3)])
def test_norm(pool: bool, relu: bool, signs: str, shape: tuple[int, ...]) -> None:
    weight = randn(shape[1])
    if signs == "positive":
        weight = weight.abs() + 0.1
    if signs == "none":  # what comes out does not tell what came in
        weight[:2] = torch.tensor([1e-9, -1e-9])
    inputs = [randn(*shape) * 3 + 1, weight, randn(shape[1])]

    def theirs(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        y = batch_norm(x, None, None, w, b, True, 0.1, 1e-5)
        y = y.relu() if relu else y
        return max_pool2d(y, 2) if pool else y

    ours = derivatives(lambda x, w, b: fused.block(x, None, w, b, relu=relu, pool=pool)[0], inputs)
    assert_equal(ours, derivatives(theirs, inputs))


@pytest.mark.parametrize("given", [(True, True), (False, True), (True, False)])  # also x, also the bias
@pytest.mark.parametrize(
    ("channels", "stride", "padding", "size"), [(1, 2, 1, 9), (3, 1, 1, 8), (4, 2, 0, 7), (2, 1, 2, 5)]
)
@pytest.mark.parametrize("pool", [False, True])
def test_block(channels: int, stride: int, padding: int, size: int, pool: bool, given: tuple[bool, bool]) -> None:
    everything = [randn(3, channels, size, size), randn(5, channels, 3, 3), randn(5), randn(5)]
    first, last = 1 - given[0], 3 + given[1]

    def whole(fn):  # noqa: ANN001, ANN202
        return lambda *some: fn(*everything[:first], *some, *everything[last:])

    def theirs(x: Tensor, k: Tensor, w: Tensor, b: Tensor) -> Tensor:
        y = batch_norm(conv2d(x, k, None, stride, padding), None, None, w, b, True, 0.1, 1e-5).relu()
        return max_pool2d(y, 2) if pool else y

    def ours(x: Tensor, k: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return fused.block(x, k, w, b, stride=(stride, stride), padding=(padding, padding), pool=pool)[0]

    inputs = everything[first:last]
    assert_equal(derivatives(whole(ours), inputs), derivatives(whole(theirs), inputs))


@pytest.mark.parametrize("pool", [False, True])
def test_a_graph_that_is_kept_gives_the_same_again(pool: bool) -> None:
    """The memory of a graph that is freed is used again, so what is kept must not be."""
    inputs = [t.requires_grad_() for t in (randn(3, 2, 8, 8), randn(4, 2, 3, 3), randn(4), randn(4))]
    x, kernel, weight, bias = inputs
    y = fused.block(x, kernel, weight, bias, pool=pool)[0].square().sum()
    first, second, last = (torch.autograd.grad(y, inputs, retain_graph=keep) for keep in (True, True, False))
    assert_equal([*second, *last], [*first, *first])


def test_a_gradient_s_graph_is_not_used_after_its_block_is_freed() -> None:
    inputs = [t.requires_grad_() for t in (randn(3, 2, 8, 8), randn(4, 2, 3, 3), randn(4), randn(4))]
    x, kernel, weight, bias = inputs
    y = fused.block(x, kernel, weight, bias)[0].square().sum()
    recorded = torch.autograd.grad(y, inputs, create_graph=True)
    y.backward()
    with pytest.raises(RuntimeError, match=r"inplace operation|second time"):
        recorded[1].square().sum().backward()


def test_a_freed_block_s_memory_becomes_its_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Tensor] = []
    given: list[int] = []
    convolved, gradients = fused._convolved, fused._gradients
    monkeypatch.setattr(fused, "_convolved", lambda *args: made.append(convolved(*args)) or made[-1])
    monkeypatch.setattr(fused, "_gradients", lambda dz, *args: given.append(dz.data_ptr()) or gradients(dz, *args))
    y = fused.block(randn(3, 2, 8, 8), randn(4, 2, 3, 3).requires_grad_(), None, None)[0].square().sum()
    y.backward(retain_graph=True)
    y.backward()
    assert [place == made[0].data_ptr() for place in given] == [False, True]


def test_statistics_are_the_batch_s() -> None:
    x = randn(4, 3, 5, 6) + 2
    _, mean, var, _ = fused.block(x, None, None, None)
    assert torch.allclose(mean, x.mean((0, 2, 3))) and torch.allclose(var, x.var((0, 2, 3), correction=0))


@pytest.mark.parametrize(("n", "size", "error"), [(25, 84, 2e-6), (20, 14, 3e-7)])
def test_statistics_are_precise_in_float32(n: int, size: int, error: float) -> None:
    """Torch's own kernel on channels_last loses three digits of the variance at the larger size, one at the smaller."""
    x = torch.randn(n, 32, size, size, generator=generator) * 0.5 + 1
    _, _, var, _ = fused.block(x, None, None, None)
    exact = x.double().var((0, 2, 3), correction=0)
    assert float((var / exact - 1).abs().max()) < error


@pytest.mark.parametrize("convolved", [False, True])
def test_a_third_derivative_is_refused(convolved: bool) -> None:
    x = randn(2, 3, 4, 4).requires_grad_()
    kernel = randn(3, 3, 3, 3).requires_grad_() if convolved else None
    y = fused.block(x, kernel, None, None)[0].square().sum()
    (first,) = torch.autograd.grad(y, x, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        second.sum().backward()


@pytest.mark.parametrize("down", ["pool", "stride"])
@pytest.mark.parametrize("stats", ["transductive", "running", "support"])
def test_conv4_with_and_without(down: str, stats: str) -> None:
    """One argument switches the kernels off; the whole second-order meta-gradient and the statistics stay the same."""
    torch.manual_seed(0)
    size = 16 if down == "pool" else 9
    model = Conv4(3, 2, 4, down, stats, size).double()  # type: ignore[arg-type]
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "norm" in name:
                p.copy_(randn(*p.shape))
    plain = Conv4(3, 2, 4, down, stats, size, fused=False).double()  # type: ignore[arg-type]
    plain.load_state_dict(model.state_dict())
    y = torch.eye(3, dtype=torch.float64).repeat(2, 1).expand(2, 6, 3)
    tasks = Episode(Examples(randn(2, 6, 2, size, size), y), Examples(randn(2, 6, 2, size, size), y))
    found = []
    for net in (model, plain):
        learner = MAML(net, 0.3, 2)
        loss = learner(tasks, how="loop")
        loss.backward()
        found.append([loss.detach(), *(p.grad for p in net.parameters()), *net.buffers()])
    assert_equal(found[0], found[1])


def test_conv4_in_vmap_and_autocast_takes_torch_s_own() -> None:
    model = Conv4(0, filters=4, down="stride", size=12)
    x = torch.randn(2, 3, 1, 12, 12, generator=generator)
    together = over_tasks(model, x, how="vmap")
    assert torch.allclose(together, over_tasks(model, x, how="loop"), atol=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        low = model(x[0])
    assert low.dtype == torch.bfloat16 and torch.allclose(low.float(), together[0], atol=0.1)


def test_a_block_holds_the_contract() -> None:
    body = nn.Sequential(ConvBlock(1, 4, "pool", "transductive", True), nn.Flatten())
    embedding = nn.Sequential(nn.Unflatten(1, (1, 4, 4)), body)
    y = torch.eye(3).repeat(4, 1).expand(4, 12, 3)
    centres = torch.randn(4, 3, 16, generator=generator).repeat(1, 4, 1)
    part = lambda: Examples(centres + 0.3 * torch.randn(4, 12, 16, generator=generator), y)  # noqa: E731
    assert check(ProtoNet(embedding), Episode(part(), part()), train_steps=10)


def test_batch_norm_alone() -> None:
    norm = BatchNorm(3, "running").double()
    other = copy.deepcopy(norm)
    other.fused = False
    x = randn(4, 3, 6, 6)
    assert_equal([norm(x), norm.mean, norm.var], [other(x), other.mean, other.var])


def test_few_and_many_pixels_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = [randn(3, 4, 6, 5) * 3 + 1, randn(4), randn(4)]
    few = derivatives(lambda x, w, b: fused.block(x, None, w, b)[0], inputs)
    monkeypatch.setattr(fused, "FEW", 0)
    assert_equal(few, derivatives(lambda x, w, b: fused.block(x, None, w, b)[0], inputs))
