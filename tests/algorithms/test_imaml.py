"""iMAML: the implicit gradient on a quadratic and in general, conjugate gradient, memory that is flat in the steps."""

# pyright: reportArgumentType=false

from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from conftest import Maker
from memory import peak
from torch import Tensor, nn
from torch.nn import functional as F

from mapsto import Episode, Examples, check, evaluate, stack
from mapsto.algorithms.optimization.imaml import IMAML, conjugate_gradient
from mapsto.algorithms.optimization.maml import MAML
from mapsto.algorithms.optimization.optimizers import SGD, CoordinateRates
from mapsto.data import Sinusoid
from mapsto.episode import unstack
from mapsto.losses import mse
from mapsto.models import MLP, BatchNorm, Conv4

LAM, EYE = 1.5, torch.eye(4, dtype=torch.float64)


def meta_grads(learner: nn.Module, episodes: Episode, how: str = "loop") -> dict[str, Tensor]:
    learner.zero_grad()
    learner(episodes, how=how).backward()
    return {n: p.grad.clone() for n, p in learner.named_parameters() if p.grad is not None}


# ------------------------------------------------------------------------------------------------ a quadratic


def linear_tasks(tasks: int = 3) -> Episode:
    def part(n: int) -> Examples:
        return Examples(torch.randn(n, 4, dtype=torch.float64), torch.randn(n, 1, dtype=torch.float64))

    return stack([Episode(part(6), part(5)) for _ in range(tasks)])  # type: ignore[return-value]


def solution(theta: Tensor, support: Examples) -> tuple[Tensor, Tensor]:
    """Where the regularised loss of linear regression is least, in closed form, and the Hessian of the plain loss."""
    x, y = support
    hessian = 2 / len(x) * x.T @ x
    return torch.linalg.solve(hessian + LAM * EYE, 2 / len(x) * x.T @ y + LAM * theta.T), hessian


def implicit_gradient(theta: Tensor, episodes: Episode, damping: float = 0.0) -> Tensor:
    """((1 + damping) I + H / lam)^-1 of the query gradient at the exact solution, mean over tasks."""
    parts = []
    for support, (x, y) in unstack(episodes):
        phi, hessian = solution(theta, support)
        g = 2 / len(x) * x.T @ (x @ phi - y)
        parts.append(torch.linalg.solve((1 + damping) * EYE + hessian / LAM, g).T)
    return torch.stack(parts).mean(0)


def error(model: nn.Linear, episodes: Episode, steps: int, cg_steps: int, how: str = "loop") -> float:
    learner = IMAML(model, 0.15, steps, LAM, cg_steps, criterion=mse)
    found = meta_grads(learner, episodes, how)["model.weight"]
    return float((found - implicit_gradient(model.weight.detach(), episodes)).abs().max())


@pytest.mark.parametrize("how", ["loop", "vmap"])
def test_it_converges_to_the_exact_implicit_gradient(how: str) -> None:
    model, episodes = nn.Linear(4, 1, bias=False).double(), linear_tasks()
    by_steps = [error(model, episodes, steps, 4, how) for steps in (1, 4, 16, 64, 128)]
    by_cg = [error(model, episodes, 128, cg, how) for cg in (0, 1, 2, 3, 4)]
    for errors in (by_steps, by_cg):
        assert all(later < earlier for earlier, later in pairwise(errors)), errors
        assert errors[0] > 1e-2 and errors[-1] < 1e-10, errors


def test_the_exact_implicit_gradient_is_that_of_the_query_loss_at_the_solution() -> None:
    theta, episodes = torch.randn(1, 4, dtype=torch.float64, requires_grad=True), linear_tasks()
    losses = [F.mse_loss(query.x @ solution(theta, support)[0], query.y) for support, query in unstack(episodes)]
    torch.stack(losses).mean().backward()
    torch.testing.assert_close(theta.grad, implicit_gradient(theta.detach(), episodes))


def test_damping_is_a_multiple_of_the_identity() -> None:
    model, episodes = nn.Linear(4, 1, bias=False).double(), linear_tasks()
    learner = IMAML(model, 0.15, 128, LAM, 6, damping=0.7, criterion=mse)
    found = meta_grads(learner, episodes)["model.weight"]
    expected = implicit_gradient(model.weight.detach(), episodes, 0.7)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


# ------------------------------------------------------------------------------------------------ in general


def small(norm: str) -> nn.Module:
    layers = [nn.Linear(6, 7)] if norm == "none" else [nn.Linear(6, 7, bias=False), BatchNorm(7, norm)]
    return nn.Sequential(*layers, nn.Tanh(), nn.Linear(7, 3)).double()


@pytest.mark.parametrize("norm", ["none", "transductive", "support"])
def test_once_solved_the_gradient_is_that_of_the_whole_objective(norm: str, make_episodes: Maker) -> None:
    learner, episodes = IMAML(small(norm), 0.1, 80, 8.0, 20), make_episodes(tasks=2)
    grads = meta_grads(learner, episodes)
    direction = {n: torch.randn_like(p) for n, p in learner.named_parameters()}
    values = []
    for h in (1e-5, -2e-5):
        with torch.no_grad():
            for n, p in learner.named_parameters():
                p.add_(direction[n], alpha=h)
            values.append(learner(episodes).item())
    exact = float(sum((grads[n] * direction[n]).sum() for n in grads))
    assert exact == pytest.approx((values[0] - values[1]) / 2e-5, rel=1e-6)
    assert abs(exact) > 1e-3


@pytest.mark.parametrize("how", ["loop", "vmap"])
def test_without_conjugate_gradient_it_is_first_order(how: str, make_episodes: Maker) -> None:
    model, episodes = small("transductive"), make_episodes(tasks=1)
    learner = IMAML(model, 0.2, 4, cg_steps=0)
    (one,) = unstack(episodes)
    phi = {n: p.detach().requires_grad_() for n, p in learner.adapt(one.support).params.items()}
    query = F.cross_entropy(torch.func.functional_call(model, phi, (one.query.x,)), one.query.y.argmax(1))
    expected = torch.autograd.grad(query, list(phi.values()))
    for found, wanted in zip(meta_grads(learner, episodes, how).values(), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-11, atol=1e-13)


def test_a_strong_pull_leaves_the_query_gradient_at_the_centre(make_episodes: Maker) -> None:
    model, episodes = small("none"), make_episodes()
    held = meta_grads(IMAML(model, 5e-8, 5, lam=1e7), episodes)
    centre = meta_grads(MAML(model, steps=0), episodes)
    assert all(torch.allclose(held[n], centre[n], atol=1e-6) for n in held)
    loose = meta_grads(IMAML(model, 0.2, 20, lam=1.0), episodes)
    assert any((loose[n] - centre[n]).abs().max() > 1e-2 for n in loose)


def test_the_path_to_the_solution_does_not_matter(make_episodes: Maker) -> None:
    model, episodes = small("none"), make_episodes()
    plain = meta_grads(IMAML(model, 0.2, 80), episodes)
    other = meta_grads(IMAML(model, steps=80, optimizer=SGD(0.1, momentum=0.5)), episodes)
    for name in plain:
        torch.testing.assert_close(plain[name], other[name], rtol=1e-6, atol=1e-8)


def test_adaptation_descends_the_regularised_loss(make_episodes: Maker) -> None:
    model, (one,) = small("none"), unstack(make_episodes(tasks=1))
    theta = [p.detach().clone() for p in model.parameters()]
    phi = [p.clone().requires_grad_() for p in theta]
    optimizer = torch.optim.SGD(phi, lr=0.1)
    for _ in range(7):
        named = dict(zip(dict(model.named_parameters()), phi, strict=True))
        loss = F.cross_entropy(torch.func.functional_call(model, named, (one.support.x,)), one.support.y.argmax(1))
        optimizer.zero_grad()
        (loss + LAM / 2 * sum((p - c).square().sum() for p, c in zip(phi, theta, strict=True))).backward()
        optimizer.step()
    for found, wanted in zip(IMAML(model, 0.1, 7, LAM).adapt(one.support).params.values(), phi, strict=True):
        torch.testing.assert_close(found.detach(), wanted.detach(), rtol=1e-12, atol=1e-12)


# ------------------------------------------------------------------------------------------------ conjugate gradient


def solve(matrix: Tensor, b: Tensor, steps: int) -> Tensor:
    def times(v: dict[str, Tensor]) -> dict[str, Tensor]:
        image = matrix @ torch.cat([v["a"], v["b"]])
        return {"a": image[:2], "b": image[2:]}

    x = conjugate_gradient(times, {"a": b[:2], "b": b[2:]}, steps)
    return torch.cat([x["a"], x["b"]])


def test_conjugate_gradient() -> None:
    root = torch.randn(3, 5, 5, dtype=torch.float64)
    matrices, b = root @ root.mT + torch.eye(5), torch.randn(3, 5, dtype=torch.float64)
    matrices[1] = torch.eye(
        5, dtype=torch.float64
    )  # this one is solved before the first step: no division by its zero residual
    exact = torch.linalg.solve(matrices, b)
    for found in (torch.stack([solve(*each, 8) for each in zip(matrices, b, strict=True)]),
                  torch.vmap(lambda m, v: solve(m, v, 8))(matrices, b)):  # fmt: skip
        torch.testing.assert_close(found, exact, rtol=1e-9, atol=1e-9)


def test_conjugate_gradient_ends_where_the_matrix_is_not_positive() -> None:
    # pitfall: a step of any length, in either direction, along negative curvature
    b = torch.ones(5, dtype=torch.float64)
    assert solve(-2 * torch.eye(5).double(), b, 5).equal(b)
    bent = torch.diag(torch.tensor([4.0, 3.0, 2.0, 1.5, -3.0]).double())
    assert solve(bent, b, 20).isfinite().all() and solve(bent, b, 20).equal(solve(bent, b, 50))


# ------------------------------------------------------------------------------------------------ memory and refusals


def graph(learner: nn.Module, episodes: Episode, how: str) -> int:
    return peak(lambda: learner(episodes, how=how).backward())


@pytest.mark.parametrize("how", ["loop", "vmap"])
def test_peak_memory_is_flat_in_the_steps(how: str, make_episodes: Maker) -> None:
    episodes = make_episodes(tasks=1)
    few, many = (graph(IMAML(small("transductive"), 0.1, steps), episodes, how) for steps in (5, 100))
    assert 0 < few == many
    maml = [graph(MAML(small("transductive"), 0.1, steps), episodes, how) for steps in (5, 20)]
    assert maml[1] > 2 * maml[0]  # the measure does see a graph that grows


def test_it_cannot_be_differentiated_twice(make_episodes: Maker) -> None:
    learner = IMAML(small("none"), steps=2)
    grads = torch.autograd.grad(learner(make_episodes(), how="loop"), list(learner.parameters()), create_graph=True)
    with pytest.raises(RuntimeError, match="twice"):
        grads[0].sum().backward()


def test_refusals() -> None:
    model = MLP(6, 3, (8,))
    with pytest.raises(ValueError, match="lam=0"):
        IMAML(model, lam=0)
    with pytest.raises(ValueError, match="CoordinateRates has parameters"):
        IMAML(model, optimizer=CoordinateRates(dict(model.named_parameters()), 0.1))
    with pytest.raises(ValueError, match="unfrozen"):
        IMAML(MLP(6, 3).requires_grad_(False))


# ------------------------------------------------------------------------------------------------ the contract


@pytest.mark.parametrize(
    ("make", "vmap"),
    [
        (lambda: IMAML(MLP(8, 5, (16,)), 0.5, 8, 0.2), True),
        (lambda: IMAML(nn.Sequential(nn.Linear(8, 16), BatchNorm(16), nn.ReLU(), nn.Linear(16, 5)), 0.5, 8, 0.2), True),
        (lambda: IMAML(nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.Linear(16, 5)), 0.5, 5, 0.2), False),
    ],
    ids=["plain", "transductive", "torch's"],
)
def test_it_passes_the_contract(make: Callable[[], IMAML], vmap: bool) -> None:
    found = check(make(), train_steps=20)
    assert found["learns"].startswith("holds") and (found["loop equals vmap"] == "holds") == vmap
    assert found["gradient equals finite differences"].startswith("not claimed")


def test_images() -> None:
    learner = IMAML(Conv4(5, filters=3, down="stride"), 0.5, 2, 0.1, cg_steps=1)
    assert check(learner, train_steps=8)["learns"].startswith("holds")


def test_regression() -> None:
    tasks = Sinusoid(shot=10, query=10).batch(0, 8)
    learner = IMAML(MLP(1, 1, (20, 20)), 0.1, 5, 0.1, criterion=mse)
    assert check(learner, tasks, train_steps=30)["learns"].startswith("holds")
    more, none = (evaluate(learner, [tasks], mse, steps=steps).mean for steps in (30, 0))
    assert more < none
