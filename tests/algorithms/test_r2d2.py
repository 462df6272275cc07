"""R2D2: scikit-learn's ridge regression, both ways of solving it, and derivatives."""

# pyright: reportArgumentType=false

import numpy as np
import pytest
import torch
from conftest import Maker
from torch import nn
from torch.nn import functional as F

from mapsto import Episode, check, evaluate
from mapsto.algorithms.metric.r2d2 import R2D2
from mapsto.algorithms.metric.solvers import ridge
from mapsto.data import Sinusoid
from mapsto.episode import unstack
from mapsto.losses import mse
from mapsto.models import MLP, BatchNorm

SHAPES = [(4, 9), (9, 9), (20, 9)]
"""Examples and features: fewer, as many, more."""


@pytest.mark.parametrize(("n", "d"), SHAPES)
def test_ridge_is_scikit_learns(n: int, d: int) -> None:
    linear = pytest.importorskip("sklearn.linear_model", reason="pip install scikit-learn, to compare with it")
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(n, d)), rng.normal(size=(n, 3))
    for penalty in (0.01, 1.0, 50.0):
        theirs = linear.Ridge(alpha=penalty, fit_intercept=False, solver="cholesky").fit(x, y).coef_.T
        np.testing.assert_allclose(ridge(torch.tensor(x), torch.tensor(y), penalty).numpy(), theirs, rtol=0, atol=1e-11)


@pytest.mark.parametrize(("n", "d"), SHAPES)
def test_derivatives(n: int, d: int) -> None:
    x, y = torch.randn(n, d).double().requires_grad_(), torch.randn(n, 2).double()
    penalty = torch.tensor(0.7).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x, penalty: ridge(x, y, penalty), (x, penalty))
    assert torch.autograd.gradgradcheck(lambda x, penalty: ridge(x, y, penalty), (x, penalty))


@pytest.mark.parametrize(("way", "shot"), [(3, 1), (3, 5)])
def test_a_task_by_the_references_formula(way: int, shot: int, make_episodes: Maker) -> None:
    # As in the released code: a column of ones, features and targets over sqrt(n), then scale and shift.
    learner = R2D2(MLP(6, 7, (8,)), penalty=2.0, scale=3.0).double()
    learner.shift.data += 0.3
    (one,) = unstack(make_episodes(tasks=1, way=way, shot=shot))
    z, q = (F.pad(learner.model(x), (0, 1), value=1.0) for x in (one.support.x, one.query.x))
    root = len(z) ** 0.5
    x, y = z / root, one.support.y / root
    weight = torch.linalg.inv(x.T @ x + 2.0 * torch.eye(8)) @ x.T @ y
    found = learner.predict(learner.adapt(one.support), one.query.x)
    torch.testing.assert_close(found, 3.0 * (q @ weight) + 0.3, rtol=1e-6, atol=1e-8)  # 2.0 is exp(log(2)) in float32


def test_it_passes_the_contract() -> None:
    found = check(R2D2(MLP(8, 16, (16,)), penalty=1.0), train_steps=25)
    assert all(text.startswith("holds") for text in found.values())


def test_lambda_learns_unless_it_may_not(make_episodes: Maker) -> None:
    learned, fixed = (R2D2(MLP(6, 4), learn_penalty=learn).double() for learn in (True, False))
    for learner in (learned, fixed):
        learner(make_episodes()).backward()
    assert learned.log_penalty.grad is not None and learned.log_penalty.grad != 0
    assert fixed.log_penalty.grad is None and "log_penalty" in fixed.state_dict()
    with pytest.raises(ValueError, match=r"penalty=0\.0"):
        R2D2(nn.Identity(), penalty=0.0)


def test_another_way_and_shot_at_test(make_episodes: Maker) -> None:
    learner = R2D2(MLP(6, 4))
    for way, shot in ((2, 1), (9, 3)):
        tasks = make_episodes(way=way, shot=shot, dtype=torch.float32)
        assert len(evaluate(learner, [tasks]).values) == 3


@pytest.mark.parametrize("norm", ["none", "transductive", "support", "running"])
def test_training_loss_is_that_of_adapt_and_predict(norm: str, make_episodes: Maker) -> None:
    layers = [] if norm == "none" else [BatchNorm(4, norm)]
    learner = R2D2(nn.Sequential(nn.Linear(6, 4), *layers)).double()
    (one,) = unstack(make_episodes(tasks=1))
    if norm == "running":
        # As in the paper's code: support and query pass through batch norm together in training.
        z = F.batch_norm(learner.model[0](torch.cat([one.support.x, one.query.x])), None, None, training=True)  # type: ignore[index]
        expected = learner.criterion(learner.score(learner.learn(z[:6], one.support.y), z[6:]), one.query.y)
        torch.testing.assert_close(learner.loss(one), expected)
        learner.eval()
    expected = learner.criterion(learner.predict(learner.adapt(one.support), one.query.x), one.query.y)
    torch.testing.assert_close(learner.loss(one), expected)


def test_regression_of_sine_waves() -> None:
    learner = R2D2(MLP(1, 20, (20,)), penalty=0.01, scale=1.0, criterion=mse)
    tasks = Sinusoid(shot=10, query=10).batch(0, 8)
    assert isinstance(tasks, Episode)
    assert check(learner, tasks, train_steps=40)["learns"].startswith("holds")
