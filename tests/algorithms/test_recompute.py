"""Steps computed again give the gradient of steps remembered, in the memory of one."""

import copy

import pytest
import torch
from memory import peak
from torch import Tensor

from mapsto import check
from mapsto.algorithms import MAML, SGD, Adam, CoordinateRates, RMSProp
from mapsto.algorithms.optimization.inner import trainable, unroll
from mapsto.algorithms.optimization.recompute import recomputed
from mapsto.episode import Episode, Examples
from mapsto.models import MLP, Conv4


def tasks(shape: tuple[int, ...], way: int = 3) -> Episode:
    generator = torch.Generator().manual_seed(0)
    y = torch.eye(way, dtype=torch.float64).repeat(2, 1).expand(2, 2 * way, way)
    draw = lambda: torch.randn(2, 2 * way, *shape, generator=generator, dtype=torch.float64)  # noqa: E731
    return Episode(Examples(draw(), y), Examples(draw(), y))


def mlp() -> MLP:
    torch.manual_seed(0)
    return MLP(4, 3, (8, 8)).double()


SETTINGS = {
    "sgd": lambda: {"lr": 0.3},
    "anil": lambda: {"lr": 0.3, "adapts": "head."},
    "momentum": lambda: {"optimizer": SGD(0.1, momentum=0.9)},
    "adam": lambda: {"optimizer": Adam(0.05)},
    "rmsprop": lambda: {"optimizer": RMSProp(0.02)},
    "learned rates": lambda: {"optimizer": CoordinateRates(trainable(mlp()), 0.2).double()},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_the_meta_gradient_is_the_same(name: str) -> None:
    learner = MAML(mlp(), steps=4, **SETTINGS[name]())
    again = copy.deepcopy(learner)
    again.recompute = True
    for one in (learner, again):
        one(tasks((4,)), how="loop").backward()
    pairs = list(zip(learner.named_parameters(), again.parameters(), strict=True))
    assert all(p.grad is not None and q.grad is not None for (_, p), q in pairs)
    for (where, p), q in pairs:
        assert p.grad is not None and q.grad is not None
        assert torch.allclose(p.grad, q.grad, rtol=1e-10, atol=1e-14), where


def test_with_convolutions_and_batch_norm() -> None:
    torch.manual_seed(0)
    learner = MAML(Conv4(3, filters=4, size=16).double(), 0.1, 3)
    again = copy.deepcopy(learner)
    again.recompute = True
    for one in (learner, again):
        one(tasks((1, 16, 16)), how="loop").backward()
    for p, q in zip(learner.parameters(), again.parameters(), strict=True):
        assert p.grad is not None and q.grad is not None and torch.allclose(p.grad, q.grad, rtol=1e-9, atol=1e-13)


def test_the_contract_holds() -> None:
    assert check(MAML(MLP(8, 5, (16,)), 0.5, 3, recompute=True), train_steps=30)


def graph(learner: MAML) -> int:
    """The bytes of a meta-gradient with many examples a task."""
    episodes = Episode(*(Examples(part.x.repeat(1, 50, 1)[:1], part.y.repeat(1, 50, 1)[:1]) for part in tasks((4,))))
    return peak(lambda: learner(episodes, how="loop").backward())


def test_memory_grows_by_the_parameters_only() -> None:
    size = sum(p.numel() for p in mlp().parameters()) * 8
    few, many = (graph(MAML(mlp(), 0.01, steps, recompute=True)) for steps in (5, 55))
    assert (many - few) / 50 <= 2 * size
    few, many = (graph(MAML(mlp(), 0.01, steps)) for steps in (5, 55))
    assert (many - few) / 50 > 20 * size


def test_first_order_memory_is_flat() -> None:
    few, many = (graph(MAML(mlp(), 0.01, steps, first_order=True)) for steps in (5, 100))
    assert few == many


def test_first_order_and_no_grad_remember_nothing_anyway() -> None:
    learner = MAML(mlp(), 0.1, 3, first_order=True, recompute=True)
    plain = MAML(learner.model, 0.1, 3, first_order=True)
    found = [torch.autograd.grad(one(tasks((4,)), how="loop"), list(plain.parameters())) for one in (learner, plain)]
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    with torch.no_grad():
        episode = Episode(*(Examples(part.x[0], part.y[0]) for part in tasks((4,))))
        assert not learner.adapt(episode.support).params["head.weight"].requires_grad


def test_unroll_recomputes_for_others_too() -> None:
    """The loss may depend on more than the parameters, if it is named."""
    model, factor = mlp(), torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    x = tasks((4,)).support.x[0]

    def end(recompute: list[Tensor] | None) -> Tensor:
        loss = lambda params: (torch.func.functional_call(model, params, (x,)) * factor).square().mean()  # noqa: E731
        fast = unroll(loss, trainable(model), SGD(0.2), 3, recompute=recompute)
        return torch.stack([p.square().sum() for p in fast.values()]).sum()

    names = list(model.parameters())
    plain = torch.autograd.grad(end(None), [factor, *names])
    again = torch.autograd.grad(end([factor]), [factor, *names])
    assert all(torch.allclose(a, b, rtol=1e-10) for a, b in zip(plain, again, strict=True))


def test_trees_with_things_that_are_no_tensors() -> None:
    a = torch.tensor([1.0, 2.0], requires_grad=True)
    b = torch.tensor(3.0, requires_grad=True)
    result = recomputed(lambda x, state: ({"x": x["x"] ** 2 * b}, (state[0], None)), ({"x": a}, (7, None)), [b])
    assert result[1] == (7, None)
    result[0]["x"].sum().backward()
    assert a.grad is not None and b.grad is not None
    assert torch.equal(a.grad, 2 * a.detach() * 3) and b.grad == 5
