"""BatchNorm: values, first and second derivatives and running averages are torch's; right under vmap, too."""

# pyright: reportArgumentType=false, reportCallIssue=false, reportIndexIssue=false
# pyright: reportUnusedExpression=false

from typing import Literal

import pytest
import torch
from conftest import Maker
from torch import Tensor, nn
from torch.nn import functional as F

from mapsto import evaluate
from mapsto.algorithms import MAML, ProtoNet
from mapsto.applied import call, norm_of
from mapsto.episode import unstack
from mapsto.models import BatchNorm, Conv4
from mapsto.models.conv4 import ConvBlock


def pair(stats: str, affine: bool = True) -> tuple[BatchNorm, nn.BatchNorm2d]:
    ours = BatchNorm(3, stats, affine).double()
    theirs = nn.BatchNorm2d(3, affine=affine, track_running_stats=stats == "running").double()
    if affine:
        with torch.no_grad():
            for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
                b.copy_(a.add_(torch.randn_like(a)))
    return ours, theirs


def images(seed: int = 0, n: int = 5) -> Tensor:
    return torch.randn(n, 3, 4, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) * 2 + 1


def derivatives(norm: nn.Module, x: Tensor) -> list[Tensor]:
    """The value, and its first and second derivatives, in the input and the affine parameters."""
    x = x.clone().requires_grad_()
    at = [x, *norm.parameters()]
    y = norm(x)
    first = torch.autograd.grad((y.sin() * torch.arange(y.numel()).view_as(y)).sum(), at, create_graph=True)
    second = torch.autograd.grad(sum(g.pow(3).sum() for g in first), at)
    return [y, *first, *second]


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("stats", ["transductive", "support", "running"])
def test_training_equals_torch_up_to_second_derivatives(stats: str, affine: bool) -> None:
    ours, theirs = pair(stats, affine)
    for a, b in zip(derivatives(ours, images()), derivatives(theirs, images()), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("shape", [(7, 3), (7, 3, 5), (7, 3, 2, 2, 2)])
def test_any_number_of_axes(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape)
    torch.testing.assert_close(BatchNorm(3)(x), F.batch_norm(x, None, None, training=True))
    running = BatchNorm(3, "running").eval()
    torch.testing.assert_close(running(x), x / (1 + 1e-5) ** 0.5)


def test_running_averages_equal_torch() -> None:
    # pitfall: a biased running variance, an average over integer buffers, or a gradient into buffers
    ours, theirs = pair("running")
    for seed in range(5):
        ours(images(seed)), theirs(images(seed))
    torch.testing.assert_close(ours.mean, theirs.running_mean)
    torch.testing.assert_close(ours.var, theirs.running_var)
    assert not any(b.requires_grad for b in ours.buffers()) and all(b.is_floating_point() for b in ours.buffers())
    ours.eval(), theirs.eval()
    before = ours.var.clone()
    for a, b in zip(derivatives(ours, images(9)), derivatives(theirs, images(9)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)
    assert ours.var.equal(before)


@pytest.mark.parametrize("stats", ["transductive", "support"])
def test_modes_without_running_averages_do_not_change_at_test(stats: str) -> None:
    norm = BatchNorm(3, stats).double()
    x = images()
    assert norm.train()(x).equal(norm.eval()(x)) and not list(norm.buffers())


def test_queries_are_normalised_by_the_support_set() -> None:
    norm, support, queries = BatchNorm(3, "support").double(), images(1), images(2, 4)
    mean, var = support.mean((0, 2, 3), keepdim=True), support.var((0, 2, 3), correction=0, keepdim=True)
    expected = (queries - mean) / (var + 1e-5).sqrt()
    together = call(norm, {}, queries, support)
    torch.testing.assert_close(together, expected)
    alone = torch.cat([call(norm, {}, query[None], support) for query in queries])
    torch.testing.assert_close(together, alone, rtol=1e-13, atol=1e-13)


def test_the_support_mode_of_deep_models_is_inductive_at_every_layer(make_episodes: Maker) -> None:
    # pitfall: accuracy that depends on which queries come together, here in an order sorted by class
    (one,) = unstack(make_episodes((1, 16, 16), tasks=1))
    for stats, inductive in (("support", True), ("running", True), ("transductive", False)):
        model = Conv4(3, filters=4, size=16, stats=stats).double()
        for learner in (MAML(model, steps=2).eval(), ProtoNet(model).eval()):
            with torch.no_grad():
                fast = learner.adapt(one.support)
                together = learner.predict(fast, one.query.x)
                few = torch.cat([learner.predict(fast, part) for part in one.query.x.split(4)])
            assert torch.allclose(together, few, rtol=1e-9, atol=1e-12) == inductive


@pytest.mark.parametrize("stats", ["transductive", "support"])
@pytest.mark.parametrize("first_order", [False, True])
def test_vmapped_meta_gradients_are_those_of_the_loop(stats: str, first_order: bool, make_episodes: Maker) -> None:
    # pitfall: torch's own norms are silently wrong here, in second derivatives in their affine parameters
    model = nn.Sequential(nn.Conv2d(1, 4, 3), BatchNorm(4, stats), nn.Tanh(), nn.Flatten(), nn.Linear(16, 3))
    learner, episodes = MAML(model, 0.5, 2, first_order).double(), make_episodes((1, 4, 4))
    found = []
    for how in ("loop", "vmap"):
        learner.zero_grad()
        learner(episodes, how=how).backward()
        found.append([p.grad.clone() for p in learner.parameters() if p.grad is not None])
    for loop, vmap in zip(*found, strict=True):
        torch.testing.assert_close(loop, vmap, rtol=1e-10, atol=1e-12)
    learner.zero_grad()
    weight, flat = model[1].weight, []
    for i in range(4):
        values = []
        for h in (1e-5, -1e-5):
            weight.data[i] += h
            values.append(learner(episodes, how="vmap").item())
            weight.data[i] -= h
        flat.append((values[0] - values[1]) / 2e-5)
    if not first_order:
        torch.testing.assert_close(found[1][2], torch.tensor(flat).double(), rtol=1e-5, atol=1e-8)


def test_running_averages_are_learned_in_training_and_left_alone_by_evaluation(make_episodes: Maker) -> None:
    # pitfall: running averages shared with, or changed by, the copies that adapt to test tasks
    model = nn.Sequential(nn.Linear(6, 4), BatchNorm(4, "running"), nn.Linear(4, 3)).double()
    learner, episodes = MAML(model, steps=2), make_episodes()
    learner(episodes).backward()
    assert not model[1].mean.equal(torch.zeros(4).double())
    before = model[1].mean.clone(), model[1].var.clone()
    evaluate(learner, [episodes], steps=5)
    assert model[1].mean.equal(before[0]) and model[1].var.equal(before[1])
    assert learner.training and model[1].training


def test_the_mode_of_a_model_is_told() -> None:
    assert norm_of(nn.Linear(2, 2)) == "none"
    for stats in ("transductive", "support", "running"):
        assert norm_of(Conv4(stats=stats)) == stats
    assert norm_of(nn.BatchNorm2d(3)) == "running"
    assert norm_of(nn.BatchNorm2d(3, track_running_stats=False)) == "transductive"
    assert norm_of(nn.Sequential(BatchNorm(2, "running"), BatchNorm(2))) == "transductive"


def test_unknown_mode() -> None:
    with pytest.raises(ValueError, match="batch"):
        BatchNorm(3, "batch")


@pytest.mark.parametrize("down", ["pool", "stride"])
def test_at_test_running_norms_are_part_of_the_convolutions(down: Literal["pool", "stride"]) -> None:
    model = Conv4(3, filters=6, down=down, stats="running").double().eval()
    x = torch.randn(5, 1, 28, 28, dtype=torch.float64, requires_grad=True)
    z = x
    for block in model.body:
        assert isinstance(block, ConvBlock)
        conv, norm = block.conv, block.norm
        for tensor in (norm.mean, norm.weight, norm.bias):
            assert tensor is not None
            torch.nn.init.normal_(tensor)  # scales of either sign
        torch.nn.init.uniform_(norm.var, 0.5, 2)
        z = torch.nn.functional.conv2d(z, conv.weight, None, conv.stride, 1)
        z = torch.nn.functional.batch_norm(z, norm.mean, norm.var, norm.weight, norm.bias, False, 0, norm.eps).relu()
        z = torch.nn.functional.max_pool2d(z, 2) if down == "pool" else z
    plain = model.head(z.flatten(1) if down == "pool" else z.mean((2, 3)))
    params = [x, *model.parameters()]
    ours = model(x)
    torch.testing.assert_close(ours, plain, rtol=1e-10, atol=1e-10)
    grads = (torch.autograd.grad(found.sin().sum(), params) for found in (ours, plain))
    torch.testing.assert_close(*grads, rtol=1e-9, atol=1e-10)
