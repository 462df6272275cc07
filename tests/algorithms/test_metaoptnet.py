"""MetaOptNet: scikit-learn's support vector machines, the conditions of optimality, and derivatives of the solution."""

# pyright: reportArgumentType=false

import numpy as np
import pytest
import torch
from conftest import Maker
from torch import Tensor, nn
from torch.nn import functional as F

from mapsto import check, evaluate
from mapsto.algorithms.metric.metaoptnet import MetaOptNet
from mapsto.algorithms.metric.solvers import crammer_singer
from mapsto.episode import unstack
from mapsto.models import MLP


def problem(way: int, shot: int, d: int, size: float = 1.0, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Features as a ReLU gives them, and one-hot targets."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.eye(way).repeat_interleave(shot, 0).double()
    return size * torch.randn(way * shot, d, generator=generator).double().relu(), y


def kernel_of(z: Tensor, smooth: float = 1.0) -> Tensor:
    return z @ z.T + smooth * torch.eye(len(z)).double()


# ------------------------------------------------------------------------------------------------ the solution


@pytest.mark.parametrize(("way", "shot", "cost"), [(5, 1, 0.1), (5, 5, 0.1), (5, 5, 10.0), (3, 8, 0.02)])
def test_the_machine_is_scikit_learns(way: int, shot: int, cost: float) -> None:
    svm = pytest.importorskip("sklearn.svm", reason="pip install scikit-learn, to compare with it")
    z, y = problem(way, shot, 16)
    # The kernel z z' + I is that of features with a column more for each example.
    wide = torch.cat([z, torch.eye(len(z)).double()], 1)
    theirs = svm.LinearSVC(multi_class="crammer_singer", C=cost, fit_intercept=False, tol=1e-10, max_iter=100_000)
    theirs.fit(wide.numpy(), y.argmax(1).numpy())
    found = crammer_singer(kernel_of(z), y, cost)
    np.testing.assert_allclose((wide.T @ found).T.numpy(), theirs.coef_, rtol=0, atol=1e-7)


def test_hardly_smoothed_it_is_the_linear_machine_itself() -> None:
    svm = pytest.importorskip("sklearn.svm", reason="pip install scikit-learn, to compare with it")
    z, y = problem(5, 5, 16)
    theirs = svm.LinearSVC(multi_class="crammer_singer", C=0.1, fit_intercept=False, tol=1e-10, max_iter=100_000)
    theirs.fit(z.numpy(), y.argmax(1).numpy())
    learner = MetaOptNet(nn.Identity(), smooth=1e-6).double()
    np.testing.assert_allclose(learner.learn(z, y).T.numpy(), theirs.coef_, rtol=0, atol=1e-4)


def test_two_classes_are_the_binary_machine() -> None:
    # w_1 - w_2 is the vector of a machine of twice the cost. Each example and its mirror image, so the bias is 0.
    svm = pytest.importorskip("sklearn.svm", reason="pip install scikit-learn, to compare with it")
    half = torch.randn(6, 8).double() + 0.7
    z, y = torch.cat([half, -half]), torch.eye(2).repeat_interleave(6, 0).double()
    wide = torch.cat([z, torch.cat([torch.eye(6), -torch.eye(6)]).double()], 1)
    for cost in (0.05, 5.0):
        found = wide.T @ crammer_singer(wide @ wide.T + 1e-7 * torch.eye(12).double(), y, cost)
        theirs = svm.SVC(kernel="linear", C=2 * cost, tol=1e-10).fit(wide.numpy(), y[:, 0].numpy())
        np.testing.assert_allclose((found[:, 0] - found[:, 1]).numpy(), theirs.coef_[0], rtol=0, atol=1e-5)
        assert abs(theirs.intercept_[0]) < 1e-6
        # For y = 1 the binary dual variables are twice ours, where those of an example and its image come as one.
        dual = np.zeros(12)
        dual[theirs.support_] = theirs.dual_coef_[0]
        ours = 2 * crammer_singer(wide @ wide.T + 1e-7 * torch.eye(12).double(), y, cost)[:, 0].numpy()
        np.testing.assert_allclose(ours[:6] - ours[6:], dual[:6] - dual[6:], rtol=0, atol=1e-5)


@pytest.mark.parametrize("way", [2, 5, 10])
def test_the_conditions_of_optimality_hold_at_any_scale(way: int) -> None:
    for seed in range(12):
        draw = torch.rand(3, generator=torch.Generator().manual_seed(seed))
        size, cost, smooth = (10 ** (draw * torch.tensor([3, 4, 6]) - torch.tensor([2, 2, 6]))).tolist()
        z, y = problem(way, 2, 12, size, seed)
        kernel = kernel_of(z, smooth)
        dual = crammer_singer(kernel, y, cost)
        slope, slack = kernel @ dual - y, cost * y - dual
        multiplier = slope.amax(1, keepdim=True) - slope  # of a constraint, not negative by construction
        assert dual.sum(1).abs().max() < 1e-9 * cost
        assert slack.min() > -1e-8 * cost and (multiplier * slack).abs().max() < 1e-9


def test_derivatives_are_those_of_the_solved_problem() -> None:
    z, y = problem(3, 2, 7)

    def solved(z: Tensor) -> Tensor:
        return crammer_singer(kernel_of(z), y, 0.3)

    dual = solved(z)
    active, own = (0.3 * y - dual) < 1e-9, y == 1
    assert all(kind.any() for kind in (active & own, active & ~own, ~active & own, ~active & ~own))
    assert torch.autograd.gradcheck(solved, z.requires_grad_())
    assert torch.autograd.gradgradcheck(solved, z, fast_mode=True)


# ------------------------------------------------------------------------------------------------ the learner


def test_the_ridge_head(make_episodes: Maker) -> None:
    learner = MetaOptNet(MLP(6, 7), "ridge", penalty=3.0, scale=2.0).double()
    (one,) = unstack(make_episodes(tasks=1))
    z, q = learner.model(one.support.x), learner.model(one.query.x)
    dual = torch.linalg.inv(z @ z.T + 3.0 * torch.eye(6)) @ one.support.y
    torch.testing.assert_close(learner.predict(learner.adapt(one.support), one.query.x), 2.0 * q @ z.T @ dual)


def test_the_svm_head(make_episodes: Maker) -> None:
    learner = MetaOptNet(MLP(6, 7), scale=2.0).double()
    (one,) = unstack(make_episodes(tasks=1))
    z, q = learner.model(one.support.x), learner.model(one.query.x)
    expected = 2.0 * q @ z.T @ crammer_singer(kernel_of(z), one.support.y, 0.1)
    torch.testing.assert_close(learner.predict(learner.adapt(one.support), one.query.x), expected)
    loss = learner.loss(one)
    torch.testing.assert_close(loss, F.cross_entropy(expected, one.query.y.argmax(1)))


@pytest.mark.parametrize("head", ["svm", "ridge"])
def test_it_passes_the_contract(head: str) -> None:
    found = check(MetaOptNet(MLP(8, 16, (16,)), head, penalty=1.0), train_steps=15)
    assert all(text.startswith("holds") for text in found.values())


def test_another_way_and_shot_at_test(make_episodes: Maker) -> None:
    learner = MetaOptNet(MLP(6, 4))
    for way, shot in ((2, 1), (7, 3)):
        tasks = make_episodes(way=way, shot=shot, dtype=torch.float32)
        assert len(evaluate(learner, [tasks]).values) == 3


def test_mistakes_are_named() -> None:
    with pytest.raises(ValueError, match="'lda' is neither"):
        MetaOptNet(nn.Identity(), "lda")
    with pytest.raises(ValueError, match=r"smooth=0\.0"):
        MetaOptNet(nn.Identity(), smooth=0.0)
