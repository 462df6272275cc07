"""Inner optimizers equal their torch.optim twins and can be differentiated, by their learned rates too."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from conftest import Maker
from test_inner import loss, start
from torch import Tensor

from mapsto.algorithms import (
    MAML,
    SGD,
    Adam,
    CoordinateRates,
    InnerOptimizer,
    RMSProp,
    StepRates,
    gradients,
    trainable,
    unroll,
)
from mapsto.algorithms.optimization.inner import Params
from mapsto.models import MLP

Twin = Callable[[list[Tensor]], torch.optim.Optimizer]
TWINS: dict[str, tuple[InnerOptimizer, Twin]] = {
    "sgd": (SGD(0.1), lambda p: torch.optim.SGD(p, 0.1)),
    "momentum": (SGD(0.05, momentum=0.9), lambda p: torch.optim.SGD(p, 0.05, momentum=0.9)),
    "nesterov": (SGD(0.05, 0.9, nesterov=True), lambda p: torch.optim.SGD(p, 0.05, momentum=0.9, nesterov=True)),
    "adam": (Adam(0.05), lambda p: torch.optim.Adam(p, 0.05)),
    "adam-no-momentum": (
        Adam(0.05, betas=(0.0, 0.99), eps=1e-6),
        lambda p: torch.optim.Adam(p, 0.05, betas=(0.0, 0.99), eps=1e-6),
    ),
    "rmsprop": (RMSProp(0.02), lambda p: torch.optim.RMSprop(p, 0.02)),
    "rmsprop-momentum": (
        RMSProp(0.01, alpha=0.9, eps=1e-6, momentum=0.8),
        lambda p: torch.optim.RMSprop(p, 0.01, alpha=0.9, eps=1e-6, momentum=0.8),
    ),
}

RATES: dict[str, Callable[[Params], InnerOptimizer]] = {
    "coordinate": lambda params: CoordinateRates(params, (-0.1, 0.3)),
    "step": lambda params: StepRates(params, 0.1, steps=2),
}


def step(optimizer: InnerOptimizer, params: Params, state: Any) -> tuple[Params, Any]:
    grads, value = gradients(loss, params, False)
    return optimizer.step(params, grads, state, value)


@pytest.mark.parametrize("name", TWINS)
def test_twenty_steps_equal_torch(name: str) -> None:
    ours, make_twin = TWINS[name]
    params = start()
    twins = {n: p.clone().requires_grad_() for n, p in params.items()}
    optimizer, state = make_twin(list(twins.values())), ours.init(params)
    for _ in range(20):
        params, state = step(ours, params, state)
        optimizer.zero_grad()
        loss(twins).backward()
        optimizer.step()
        for n in params:
            torch.testing.assert_close(params[n], twins[n].detach(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", TWINS)
def test_three_steps_have_exact_derivatives(name: str) -> None:
    def after_three(a: Tensor, b: Tensor) -> tuple[Tensor, ...]:
        return tuple(unroll(loss, {"a": a, "b": b}, TWINS[name][0], 3).values())

    assert torch.autograd.gradcheck(after_three, [p.requires_grad_() for p in start().values()])


@pytest.mark.parametrize("name", TWINS)
def test_nothing_is_changed_in_place(name: str) -> None:
    optimizer, params = TWINS[name][0], start()
    before = {n: p.clone() for n, p in params.items()}
    grads, value = gradients(loss, params, False)
    kept, state = {n: g.clone() for n, g in grads.items()}, optimizer.init(params)
    optimizer.step(*optimizer.step(params, grads, state, value)[:1], grads, state, value)
    assert all(params[n].equal(before[n]) and grads[n].equal(kept[n]) for n in params)


@pytest.mark.parametrize("name", [*TWINS, *RATES])
def test_maml_with_it_is_the_same_in_the_loop_and_under_vmap(name: str, make_episodes: Maker) -> None:
    model, episodes = MLP(6, 3, (8,)).double(), make_episodes()
    optimizer = RATES[name](trainable(model)) if name in RATES else TWINS[name][0]
    learner = MAML(model, steps=3, optimizer=optimizer)
    found = []
    for how in ("loop", "vmap"):
        value = learner(episodes, how=how)
        found.append((value, torch.autograd.grad(value, list(learner.parameters()))))
    torch.testing.assert_close(found[0], found[1], rtol=1e-11, atol=1e-11)
    assert all(g.abs().max() > 0 for g in found[0][1])


@pytest.mark.parametrize("optimizer", [Adam(0.1), RMSProp(0.1)], ids=["adam", "rmsprop"])
def test_a_finite_derivative_where_a_gradient_is_zero(optimizer: InnerOptimizer) -> None:
    # A dead unit's mean square is 0, where the square root has no derivative.
    a = torch.tensor([1.0, 2.0], dtype=torch.float64, requires_grad=True)
    end = unroll(lambda p: (p["a"] * torch.tensor([1.0, 0.0])).square().sum(), {"a": a}, optimizer, 2)
    (grad,) = torch.autograd.grad(end["a"].sum(), a)
    assert grad.isfinite().all() and grad[1] == 1.0


# ------------------------------------------------------------------------------------------------ learned rates


@pytest.mark.parametrize("name", RATES)
def test_learned_rates_have_exact_derivatives(name: str) -> None:
    optimizer = RATES[name](start())

    def objective() -> Tensor:
        return loss(unroll(loss, start(), optimizer, 3))  # three steps, of which StepRates has two rates

    rates = list(optimizer.parameters())
    grads = torch.autograd.grad(objective(), rates)
    for rate, grad in zip(rates, grads, strict=True):
        flat = rate.data.view(-1)
        for i, exact in enumerate(grad.view(-1)):
            values = []
            for h in (1e-6, -2e-6):
                flat[i] += h
                values.append(objective().detach())
            flat[i] += 1e-6
            torch.testing.assert_close(exact, (values[0] - values[1]) / 2e-6, rtol=1e-6, atol=1e-8)


def test_constant_rates_are_gradient_descent() -> None:
    expected = unroll(loss, start(), SGD(0.07), 4)
    for rates in (CoordinateRates(start(), 0.07), StepRates(start(), 0.07, 4), StepRates(start(), 0.07, 1)):
        torch.testing.assert_close(unroll(loss, start(), rates, 4), expected, rtol=1e-14, atol=1e-14)


def test_coordinate_rates_multiply_each_coordinate_and_may_be_negative() -> None:
    rates = CoordinateRates({"layer.w": torch.zeros(1000)}, (-0.1, 0.3))
    (alpha,) = rates.parameters()
    assert -0.1 <= alpha.min() < -0.09 and 0.29 < alpha.max() <= 0.3
    grad = torch.linspace(-1, 1, 1000)
    out, _ = rates.step({"layer.w": torch.ones(1000)}, {"layer.w": grad}, None, torch.zeros(()))
    assert out["layer.w"].equal(1 - alpha * grad)


def test_step_rates_belong_to_their_steps_and_the_last_goes_on() -> None:
    # pitfall: per-step rates that nobody has defined for the further steps of a test
    rates = StepRates({"w": torch.zeros(3)}, 0.1, steps=2)
    with torch.no_grad():
        next(rates.parameters()).copy_(torch.tensor([1.0, 10.0]))
    end = unroll(lambda p: p["w"].sum(), {"w": torch.zeros(3)}, rates, 4)
    assert end["w"].tolist() == [-31.0] * 3  # 1 + 10 + 10 + 10


def test_refusals() -> None:
    with pytest.raises(ValueError, match="momentum"):
        SGD(0.1, nesterov=True)
    with pytest.raises(ValueError, match="at least one step"):
        StepRates(start(), 0.1, steps=0)
    with pytest.raises(ValueError, match="no learned rate for b"):
        unroll(loss, start(), CoordinateRates({"a": start()["a"]}, 0.1), 1)
