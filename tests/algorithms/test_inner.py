"""The inner gradient, the unrolled loop and the choice of what adapts."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mapsto.algorithms import SGD, Adam, InnerOptimizer, gradients, trainable, unroll
from mapsto.algorithms.optimization.inner import Params


def start() -> Params:
    generator = torch.Generator().manual_seed(0)
    shapes = {"a": (4, 3), "b": (4,)}
    return {n: torch.randn(s, generator=generator, dtype=torch.float64) for n, s in shapes.items()}


def loss(params: Params) -> Tensor:
    x = torch.linspace(-1, 1, 15, dtype=torch.float64).view(5, 3)
    return ((x @ params["a"].T + params["b"]).sin() ** 2).sum() + 0.1 * params["b"].pow(4).sum()


# ------------------------------------------------------------------------------------------------ the gradient


def test_constant_gradients_carry_no_graph() -> None:
    params = {n: p.requires_grad_() for n, p in start().items()}

    def graphs(differentiable: bool) -> set[bool]:
        grads, value = gradients(loss, params, differentiable)
        assert value == loss(params)
        return {g.requires_grad for g in [*grads.values(), value]}

    assert graphs(False) == {False} and graphs(True) == {True}
    with torch.no_grad():
        assert graphs(False) == graphs(True) == {False}  # nobody could use the graph


@pytest.mark.parametrize("differentiable", [False, True])
def test_each_parameter_is_a_variable_of_its_own(differentiable: bool) -> None:
    # A head made of the embedding (ProtoMAML): the embedding's inner gradient must not run through the head's making.
    def inner(params: Params) -> Tensor:
        return params["a"].square().sum() * params["b"].sum()

    def both(a: Tensor) -> Params:
        return gradients(inner, {"a": a, "b": 3 * a}, differentiable)[0]

    a = torch.tensor([1.0, 2.0], dtype=torch.float64, requires_grad=True)
    expected = {"a": 2 * a * (3 * a).sum(), "b": a.square().sum().expand(2)}
    together = torch.vmap(both)(torch.stack([a, a]))
    for name, grad in both(a).items():
        torch.testing.assert_close(grad, expected[name], check_stride=False)
        torch.testing.assert_close(together[name][1], expected[name], check_stride=False)
    if differentiable:  # yet the meta-gradient does run through it
        meta = torch.autograd.grad(both(a)["a"].sum(), a)
        torch.testing.assert_close(meta, torch.autograd.grad(expected["a"].sum(), a))


def test_a_start_that_is_no_parameter() -> None:
    # Zeros, as a context vector is at first, carry no graph: they are stepped all the same, in the loop as under vmap.
    def adapted(target: Tensor) -> Tensor:
        return unroll(lambda p: (p["c"] - target).square().sum(), {"c": torch.zeros(2)}, SGD(0.25), 1)["c"]

    targets = torch.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
    assert adapted(targets[0]).tolist() == [0.5, 1.0]
    assert torch.vmap(adapted)(targets).tolist() == [[0.5, 1.0], [1.5, 2.0]]
    (grad,) = torch.autograd.grad(adapted(targets[0]).sum(), targets)
    assert grad.tolist() == [[0.5, 0.5], [0.0, 0.0]]


# ------------------------------------------------------------------------------------------------ the loop


class Records(InnerOptimizer):
    """Adds the loss to every parameter, so that what it was told can be seen."""

    def init(self, params: Params) -> list[Tensor]:
        return []

    def step(self, params: Params, grads: Params, state: Any, loss: Tensor) -> tuple[Params, Any]:
        return {n: p + loss for n, p in params.items()}, [*state, loss]


def test_the_optimizer_is_told_the_loss_at_which_the_gradient_was_taken() -> None:
    params = {"a": torch.tensor(2.0, requires_grad=True)}
    out = unroll(lambda p: p["a"].square(), params, Records(), 2)["a"]
    assert out == 2 + 4 + 36
    assert torch.autograd.grad(out, params["a"])[0] == (1 + 4) * (1 + 2 * 6)  # through both losses
    constant = unroll(lambda p: p["a"].square(), params, Records(), 2, differentiable=False)["a"]
    assert constant == out and torch.autograd.grad(constant, params["a"])[0] == 1


def test_unroll_is_the_loop_written_out() -> None:
    params, optimizer = {n: p.requires_grad_() for n, p in start().items()}, Adam(0.1)
    by_hand, state = params, optimizer.init(params)
    for _ in range(4):
        value = loss(by_hand)
        grads = torch.autograd.grad(value, list(by_hand.values()), create_graph=True)
        by_hand, state = optimizer.step(by_hand, dict(zip(by_hand, grads, strict=True)), state, value)
    fast = unroll(loss, params, optimizer, 4)
    metas = [torch.autograd.grad(loss(end), list(params.values()), retain_graph=True) for end in (fast, by_hand)]
    torch.testing.assert_close(fast, by_hand, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(metas[0], metas[1], rtol=1e-12, atol=1e-12)
    assert unroll(loss, params, optimizer, 0) == params


def test_first_order_still_reaches_the_start() -> None:
    params = {n: p.requires_grad_() for n, p in start().items()}
    fast = unroll(loss, params, SGD(0.1), 3, differentiable=False)
    metas = torch.autograd.grad(loss(fast), list(params.values()))
    end = {n: p.detach().requires_grad_() for n, p in fast.items()}
    torch.testing.assert_close(metas, torch.autograd.grad(loss(end), list(end.values())))


# ------------------------------------------------------------------------------------------------ what adapts


def test_trainable_leaves_out_the_frozen_and_names_what_there_is() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[0].weight.requires_grad_(False)
    assert list(trainable(model)) == ["0.bias", "1.weight", "1.bias"]
    assert list(trainable(model, "1.")) == list(trainable(model, ("1.",))) == ["1.weight", "1.bias"]
    assert list(trainable(model, ["0.b", "1.b"])) == ["0.bias", "1.bias"]
    with pytest.raises(ValueError, match=r"head\..*0\.weight"):
        trainable(model, "head.")
    with pytest.raises(ValueError, match="none at all"):
        trainable(nn.ReLU())
