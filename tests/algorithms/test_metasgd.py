"""Meta-SGD: the paper's update, its rates learned, and MAML as the special case."""

import pytest
import torch
from conftest import Maker
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional as F

from mapsto import Episode, Examples, check, evaluate
from mapsto.algorithms import MAML, MetaSGD
from mapsto.algorithms.optimization.inner import Params
from mapsto.episode import unstack
from mapsto.losses import mse
from mapsto.models import MLP


def mlp() -> MLP:
    return MLP(6, 3, (8,)).double()


def test_one_step_is_the_papers_equation(make_episodes: Maker) -> None:
    learner = MetaSGD(mlp(), (-0.5, 0.5))
    alpha = [rate for _, rate in learner.optimizer.named_parameters()]
    assert any((a < 0).any() for a in alpha) and any((a > 0).any() for a in alpha)
    total = torch.zeros((), dtype=torch.float64)
    episodes = make_episodes()
    for support, query in unstack(episodes):
        theta: Params = dict(learner.model.named_parameters())
        inner = F.cross_entropy(functional_call(learner.model, theta, (support.x,)), support.y.argmax(1))
        grads = torch.autograd.grad(inner, list(theta.values()), create_graph=True)
        prime = {n: p - a * g for (n, p), a, g in zip(theta.items(), alpha, grads, strict=True)}
        outer = F.cross_entropy(functional_call(learner.model, prime, (query.x,)), query.y.argmax(1))
        total = total + outer / len(unstack(episodes))
    # both theta and alpha are meta-learned
    expected = torch.autograd.grad(total, list(learner.parameters()))
    found = torch.autograd.grad(learner(episodes, how="loop"), list(learner.parameters()))
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-12)
    assert len(found) == 8 and all(g.abs().max() > 0 for g in found)


def test_first_order_still_learns_the_rates(make_episodes: Maker) -> None:
    learner, (one,) = MetaSGD(mlp(), 0.3, first_order=True), unstack(make_episodes(tasks=1))
    theta = {n: p.detach().requires_grad_() for n, p in learner.model.named_parameters()}
    inner = F.cross_entropy(functional_call(learner.model, theta, (one.support.x,)), one.support.y.argmax(1))
    grads = torch.autograd.grad(inner, list(theta.values()))
    prime = {n: (p - 0.3 * g).detach().requires_grad_() for (n, p), g in zip(theta.items(), grads, strict=True)}
    outer = F.cross_entropy(functional_call(learner.model, prime, (one.query.x,)), one.query.y.argmax(1))
    at_prime = torch.autograd.grad(outer, list(prime.values()))
    found = torch.autograd.grad(learner.loss(one), list(learner.parameters()))
    torch.testing.assert_close(found[:4], at_prime)
    torch.testing.assert_close(found[4:], tuple(-g * q for g, q in zip(grads, at_prime, strict=True)))


@pytest.mark.parametrize("steps", [1, 3])
def test_equal_rates_are_maml(steps: int, make_episodes: Maker) -> None:
    model, episodes = mlp(), make_episodes()

    def value_and_grads(learner: MAML | MetaSGD) -> tuple[Tensor, tuple[Tensor, ...]]:
        value = learner(episodes)
        return value, torch.autograd.grad(value, list(model.parameters()))

    ours, maml = value_and_grads(MetaSGD(model, 0.4, steps)), value_and_grads(MAML(model, 0.4, steps))
    torch.testing.assert_close(ours, maml, rtol=1e-12, atol=1e-12)


def test_only_what_adapts_has_rates() -> None:
    learner = MetaSGD(MLP(6, 3, (8,)), adapts="head.")
    assert [n for n, _ in learner.optimizer.named_parameters()] == ["rates.head/weight", "rates.head/bias"]


def test_regression_and_steps_at_test() -> None:
    x = torch.linspace(-1, 1, 8, dtype=torch.float64).view(1, 8, 1)
    episodes = Episode(Examples(x, x.sin()), Examples(x, x.sin()))
    learner = MetaSGD(MLP(1, 1, (8,)).double(), 0.1, criterion=mse)
    scores = [evaluate(learner, [episodes], mse, steps=steps) for steps in (0, 1, 20)]
    assert scores[0].mean > scores[1].mean > scores[2].mean and scores[2].steps == 20 and learner.steps == 1


@pytest.mark.parametrize("lr", [0.5, (0.05, 0.8)], ids=["constant", "drawn"])
def test_it_passes_the_contract(lr: float) -> None:
    found = check(MetaSGD(MLP(6, 3, (16,)), lr), train_steps=40)
    assert all(text.startswith("holds") for text in found.values())


def test_first_order_passes_the_contract() -> None:
    found = check(MetaSGD(MLP(6, 3, (16,)), 0.5, 2, first_order=True), train_steps=30)
    assert [clause for clause, text in found.items() if not text.startswith("holds")] == [
        "gradient equals finite differences"
    ]
