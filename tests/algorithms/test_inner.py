"""Inner optimizers equal their torch.optim twins, and can be differentiated."""

import pytest
import torch
from torch import Tensor, nn

from mapsto.algorithms import SGD, Adam, InnerOptimizer
from mapsto.algorithms.optimization.inner import Params, gradients, trainable

TWINS = {
    "sgd": (SGD(0.1), lambda p: torch.optim.SGD(p, 0.1)),
    "momentum": (SGD(0.05, momentum=0.9), lambda p: torch.optim.SGD(p, 0.05, momentum=0.9)),
    "nesterov": (SGD(0.05, 0.9, nesterov=True), lambda p: torch.optim.SGD(p, 0.05, momentum=0.9, nesterov=True)),
    "adam": (Adam(0.05), lambda p: torch.optim.Adam(p, 0.05)),
    "adam-no-momentum": (
        Adam(0.05, betas=(0.0, 0.99), eps=1e-6),
        lambda p: torch.optim.Adam(p, 0.05, betas=(0.0, 0.99), eps=1e-6),
    ),
}


def start() -> Params:
    generator = torch.Generator().manual_seed(0)
    shapes = {"a": (4, 3), "b": (4,)}
    return {n: torch.randn(s, generator=generator, dtype=torch.float64) for n, s in shapes.items()}


def loss(params: Params) -> Tensor:
    x = torch.linspace(-1, 1, 15, dtype=torch.float64).view(5, 3)
    return ((x @ params["a"].T + params["b"]).sin() ** 2).sum() + 0.1 * params["b"].pow(4).sum()


@pytest.mark.parametrize("name", TWINS)
def test_equals_torch(name: str) -> None:
    ours, make_twin = TWINS[name]
    params = start()
    twins = {n: p.clone().requires_grad_() for n, p in params.items()}
    optimizer, state = make_twin(list(twins.values())), ours.init(params)
    for _ in range(20):
        params, state = ours.step(params, gradients(loss, params, False), state)
        optimizer.zero_grad()
        loss(twins).backward()
        optimizer.step()
        for n in params:
            torch.testing.assert_close(params[n], twins[n].detach(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", TWINS)
def test_three_steps_have_exact_derivatives(name: str) -> None:
    optimizer = TWINS[name][0]

    def after_three(a: Tensor, b: Tensor) -> tuple[Tensor, ...]:
        params = {"a": a, "b": b}
        state = optimizer.init(params)
        for _ in range(3):
            params, state = optimizer.step(params, gradients(loss, params, True), state)
        return tuple(params.values())

    assert torch.autograd.gradcheck(after_three, [p.requires_grad_() for p in start().values()])


@pytest.mark.parametrize("name", TWINS)
def test_vmapped_steps_equal_single_ones(name: str) -> None:
    optimizer = TWINS[name][0]

    def two_steps(params: Params) -> Params:
        state = optimizer.init(params)
        for _ in range(2):
            params, state = optimizer.step(params, gradients(loss, params, True), state)
        return params

    many = {n: torch.stack([p, 2 * p, -p]) for n, p in start().items()}
    together = torch.vmap(two_steps)(many)
    for i in range(3):
        alone = two_steps({n: p[i].clone().requires_grad_() for n, p in many.items()})
        for n in alone:
            torch.testing.assert_close(together[n][i], alone[n].detach(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", TWINS)
def test_nothing_is_changed_in_place(name: str) -> None:
    optimizer, params = TWINS[name][0], start()
    before = {n: p.clone() for n, p in params.items()}
    grads = gradients(loss, params, False)
    kept, state = {n: g.clone() for n, g in grads.items()}, optimizer.init(params)
    optimizer.step(*optimizer.step(params, grads, state)[:1], grads, state)
    assert all(params[n].equal(before[n]) and grads[n].equal(kept[n]) for n in params)


def test_adam_has_a_finite_derivative_where_a_gradient_is_zero() -> None:
    # A dead unit's second moment is 0, where the square root has no derivative.
    a = torch.tensor([1.0, 2.0], dtype=torch.float64, requires_grad=True)
    optimizer = Adam(0.1)
    params: Params = {"a": a}
    state = optimizer.init(params)
    for _ in range(2):
        grads = gradients(lambda p: (p["a"] * torch.tensor([1.0, 0.0])).square().sum(), params, True)
        params, state = optimizer.step(params, grads, state)
    (grad,) = torch.autograd.grad(params["a"].sum(), a)
    assert grad.isfinite().all() and grad[1] == 1.0


def test_learned_rates_receive_a_gradient() -> None:
    class Learned(InnerOptimizer):
        def __init__(self) -> None:
            super().__init__()
            self.rate = nn.Parameter(torch.tensor(0.1, dtype=torch.float64))

        def init(self, params: Params) -> None:
            return None

        def step(self, params: Params, grads: Params, state: None) -> tuple[Params, None]:
            return {n: p - self.rate * grads[n] for n, p in params.items()}, None

    learned, params = Learned(), {n: p.requires_grad_() for n, p in start().items()}
    out, _ = learned.step(params, gradients(loss, params, True), None)
    loss(out).backward()
    assert learned.rate.grad is not None and learned.rate.grad != 0


def test_constant_gradients_carry_no_graph() -> None:
    params = {n: p.requires_grad_() for n, p in start().items()}
    assert not any(g.requires_grad for g in gradients(loss, params, False).values())
    assert all(g.requires_grad for g in gradients(loss, params, True).values())
    with torch.no_grad():
        assert not any(g.requires_grad for g in gradients(loss, params, False).values())


def test_trainable_leaves_out_the_frozen_and_names_what_there_is() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[0].weight.requires_grad_(False)
    assert list(trainable(model)) == ["0.bias", "1.weight", "1.bias"]
    assert list(trainable(model, ("1.",))) == ["1.weight", "1.bias"]
    with pytest.raises(ValueError, match=r"head\..*0\.weight"):
        trainable(model, ("head.",))
    with pytest.raises(ValueError, match="none at all"):
        trainable(nn.ReLU())


def test_nesterov_wants_momentum() -> None:
    with pytest.raises(ValueError, match="momentum"):
        SGD(0.1, nesterov=True)
