"""Gaussian process tasks against scikit-learn's Gaussian processes."""

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, ExpSineSquared, Matern

from mapsto.data.gaussian_process import KERNELS, Draws, GaussianProcess
from mapsto.data.points import given
from mapsto.episode import Episode, Reshapable, unstack
from mapsto.errors import MapstoError


def theirs(name: str, draws: Draws, task: int) -> Any:
    """scikit-learn's kernel of that task, without noise."""
    length, scale, period = (float(v[task]) for v in (draws.length, draws.scale, draws.period))
    made = {"rbf": RBF(length), "matern": Matern(length, nu=2.5), "periodic": ExpSineSquared(length, period)}
    return ConstantKernel(scale**2) * made[name]


def regressor(kernel: Any) -> Any:
    return GaussianProcessRegressor(kernel, alpha=0.02**2, optimizer=None)  # type: ignore[arg-type]


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_posterior_is_scikit_learns(kernel: Any) -> None:
    source = GaussianProcess(kernel, (3, 20), 10, seed=4)
    draws, found = source.draws(7, 5), source.posterior(7, 5)
    grid = torch.linspace(-2.5, 2.5, 21)
    elsewhere = source.posterior(7, 5, grid)
    for task, count in enumerate(draws.counts):
        x, y = draws.x[task, :, None].numpy(), draws.y[task].numpy()
        oracle = regressor(theirs(kernel, draws, task)).fit(x[:count], y[:count])
        for at, mine in ((x[20:], found[task]), (grid[:, None].double().numpy(), elsewhere[task])):
            mean, deviation = oracle.predict(at, return_std=True)
            np.testing.assert_allclose(mine[:, 0], mean, rtol=1e-5, atol=1e-5)
            np.testing.assert_allclose(mine[:, 1], (deviation**2 + 0.02**2) ** 0.5, rtol=1e-5)


@pytest.mark.parametrize("kernel", KERNELS)
def test_values_have_the_kernels_covariance(kernel: Any) -> None:
    source = GaussianProcess(kernel, 10, 10, seed=1)
    draws, white = source.draws(0, 200), []
    for task in range(200):
        cov = theirs(kernel, draws, task)(draws.x[task][:, None].numpy()) + 0.02**2 * np.eye(20)
        white.append(np.linalg.solve(np.linalg.cholesky(cov), draws.y[task].numpy()))
    values = np.stack(white)
    assert abs(values.mean()) < 0.05 and abs((values**2).mean() - 1) < 0.08  # standard errors: 0.016 and 0.022
    assert abs((values[:, 1:] * values[:, :-1]).mean()) < 0.06  # 0.016


def test_parameters_are_uniform_in_their_ranges() -> None:
    draws = GaussianProcess("periodic", 1, 1, length=(0.2, 0.4), scale=(1, 3), period=(5, 6)).draws(0, 2000)
    for values, low, high in ((draws.length, 0.2, 0.4), (draws.scale, 1, 3), (draws.period, 5, 6), (draws.x, -2, 2)):
        share = (values - low) / (high - low)
        assert 0 <= share.min() < 0.01 and 0.99 < share.max() <= 1
        assert abs(share.mean() - 0.5) < 0.03 and abs(share.var() - 1 / 12) < 0.01


def test_no_prediction_beats_the_posterior() -> None:
    source = GaussianProcess(shot=(3, 20), query=10, seed=2)
    y = source.batch(0, 300).query.y[..., 0]
    mean, deviation = source.posterior(0, 300).unbind(2)
    z = (y - mean) / deviation
    assert abs(z.mean()) < 0.08 and abs(z.square().mean() - 1) < 0.1

    def score(mean: torch.Tensor, deviation: torch.Tensor) -> float:
        return torch.distributions.Normal(mean, deviation).log_prob(y).mean().item()

    best = score(mean, deviation)
    assert best > max(
        score(mean + 0.2 * deviation, deviation), score(mean, 1.2 * deviation), score(mean, deviation / 1.2)
    )


def test_a_task_is_a_function_of_seed_and_number() -> None:
    source = GaussianProcess(seed=3)
    assert isinstance(source, Reshapable)
    some, more = unstack(source.batch(5, 3)), unstack(source.batch(0, 8))[5:]
    for a, b in zip(some, more, strict=True):
        assert a.support.x["mask"].equal(b.support.x["mask"])
        assert a.support.x["x"].equal(b.support.x["x"]) and a.support.y.equal(b.support.y)
        assert a.query.x.equal(b.query.x) and a.query.y.equal(b.query.y)
    assert not GaussianProcess(seed=4).batch(5, 1).query.y.equal(some[0].query.y[None])


def test_context_sizes() -> None:
    source = GaussianProcess(shot=(2, 6), query=4)
    (x, y), query = source.batch(0, 200)
    assert x["x"].shape == (200, 6, 1) and y.shape == (200, 6, 1) and query.x.shape == query.y.shape == (200, 4, 1)
    assert set(x["mask"].sum(1).tolist()) == {2, 3, 4, 5, 6}
    assert (x["mask"].int().diff(dim=1) <= 0).all()  # given points come first
    assert not x["x"][~x["mask"]].any() and not y[~x["mask"]].any()
    assert x["x"][x["mask"]].all() and y[x["mask"]].all()
    for episode in unstack(source.batch(0, 9)):
        number = int(episode.support.x["mask"].sum())
        points = given(episode.support)
        assert points.x.equal(episode.support.x["x"][:number]) and points.y.equal(episode.support.y[:number])
    fixed = source.replace(shot=3, query=7)
    assert fixed.kernel == source.kernel and fixed.seed == source.seed
    plain = fixed.batch(0, 2)
    assert isinstance(plain, Episode) and plain.support.x.shape == (2, 3, 1) and plain.query.y.shape == (2, 7, 1)
    assert given(unstack(plain)[0].support).x.equal(plain.support.x[0])


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        (lambda: GaussianProcess("linear"), "no kernel 'linear'"),  # type: ignore[arg-type]
        (lambda: GaussianProcess(shot=(5, 3)), "low end first"),
        (lambda: GaussianProcess(shot=0), "at least one"),
        (lambda: GaussianProcess(noise=0), "noise must be positive"),
        (lambda: GaussianProcess(length=(0.6, 0.1)), "length must be positive"),
        (lambda: GaussianProcess().replace(way=5), "no way to change"),
    ],
)
def test_complaints(wrong: Any, complaint: str) -> None:
    with pytest.raises(MapstoError, match=complaint):
        wrong()
