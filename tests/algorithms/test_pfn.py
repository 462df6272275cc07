"""Prior-data fitted networks: what a row may look at, tables of any width, the bar distribution, the contract."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from conftest import Maker
from scipy.integrate import quad
from scipy.stats import halfnorm, norm
from torch import Tensor

from mapsto import Examples, check
from mapsto.algorithms.model_based.bars import Bars
from mapsto.algorithms.model_based.pfn import PFN, BarPFN
from mapsto.data import Sinusoid
from mapsto.data.tables import Tables
from mapsto.episode import Episode, unstack


def small() -> PFN:
    return PFN(8, 5, width=16, depth=2, heads=2).double()


def answer(learner: PFN, support: Examples, x: Tensor) -> Tensor:
    return learner.predict(learner.adapt(support), x)


def test_a_row_sees_itself_and_the_labelled_rows_only(make_episodes: Maker) -> None:
    support, query = unstack(make_episodes(tasks=1))[0]
    asked, known = query.x.clone().requires_grad_(), support.x.clone().requires_grad_()
    answer(small(), Examples(known, support.y), asked)[4].sum().backward()
    assert asked.grad is not None and known.grad is not None
    assert [bool(row.any()) for row in asked.grad] == [i == 4 for i in range(len(asked))]
    assert known.grad.abs().sum(1).min() > 0


def test_neither_order_nor_units_nor_missing_columns_matter(make_episodes: Maker) -> None:
    support, query = unstack(make_episodes(tasks=1))[0]
    learner, order = small(), torch.randperm(len(support.x))
    expected = answer(learner, support, query.x)
    assert expected.shape == (len(query.x), 3)  # three classes of the five that are possible
    torch.testing.assert_close(answer(learner, Examples(support.x[order], support.y[order]), query.x), expected)
    units, zero = torch.tensor([1e-3, 1, 60, 1e6, -1, 2]).double(), torch.tensor([5.0, 0, 1, 0, 2, -3]).double()
    units[4] = 7
    scaled = answer(learner, Examples(support.x * units + zero, support.y), query.x * units + zero)
    torch.testing.assert_close(scaled, expected)


def test_a_constant_column_is_a_column_of_zeros(make_episodes: Maker) -> None:
    support, query = unstack(make_episodes(tasks=1))[0]
    learner = small().float()
    x, q = support.x.float(), query.x.float()
    x[:, 2] = 0.1
    a = answer(learner, Examples(x, support.y.float()), q)
    q[:, 2] = 1e6  # what no labelled row has varied in tells nothing
    torch.testing.assert_close(answer(learner, Examples(x, support.y.float()), q), a)
    assert a.isfinite().all()


def test_too_wide_a_table_is_named() -> None:
    learner = small()
    for shape, way in (((6, 9), 3), ((6, 4), 6)):
        with pytest.raises(ValueError, match=f"{shape[1]} features and {way} classes is too wide"):
            learner.adapt(Examples(torch.zeros(shape), torch.zeros(6, way)))


def test_contract(make_episodes: Maker) -> None:
    found = check(small().float(), make_episodes(tasks=2, dtype=torch.float32), train_steps=20)
    assert all(text.startswith("holds") for text in found.values())
    tables = Tables(2, 24, 16, features=(3, 8)).batch(0, 2)
    assert isinstance(tables, Episode)
    assert check(small().float(), tables, train_steps=30)["learns"].startswith("holds")


# ------------------------------------------------------------------------------------------------ bars


def plainly(borders: np.ndarray, logits: np.ndarray, y: float) -> float:
    """The density of one number, by hand: the mass of its bar over the bar's width, or a half-normal tail."""
    masses = np.exp(logits - logits.max())
    masses /= masses.sum()
    tail = (borders[1] - borders[0]) / halfnorm.ppf(0.5)
    if y <= borders[0]:
        return masses[0] * halfnorm.pdf(borders[0] - y, scale=tail)
    if y > borders[-1]:
        return masses[-1] * halfnorm.pdf(y - borders[-1], scale=tail)
    k = np.searchsorted(borders, y)
    return masses[k] / (borders[k] - borders[k - 1])


def test_bars_are_a_density() -> None:
    bars = Bars(12, scale=1.7).double()
    logits = torch.randn(12).double() * 2
    borders = norm.ppf(np.arange(1, 12) / 12, scale=1.7)
    np.testing.assert_allclose(bars.borders.numpy(), borders, rtol=1e-6)
    borders = bars.borders.numpy()

    def density(y: float) -> float:
        return float(bars.log_density(logits[None], torch.tensor([y], dtype=torch.float64)).exp())

    for y in (-20.0, -3.1, -0.3, 0.0, 0.77, 2.2, 15.0):
        assert math.isclose(density(y), plainly(borders, logits.numpy(), y), rel_tol=1e-9)
    places = [-30.0, *borders, 30.0]
    pieces = list(pairwise(places))
    assert math.isclose(sum(quad(density, *piece)[0] for piece in pieces), 1, rel_tol=1e-7)
    mean = sum(quad(lambda y: y * density(y), *piece)[0] for piece in pieces)
    assert math.isclose(float(bars.mean(logits[None])), mean, rel_tol=1e-6)


def test_bars_as_a_criterion() -> None:
    bars, logits, y = Bars(10), torch.randn(5, 10), torch.randn(5, 1) * 3
    borders = bars.borders.numpy()
    expected = [-math.log(plainly(borders, logits[i].numpy(), float(y[i]))) for i in range(5)]
    assert math.isclose(float(bars(logits, y)), sum(expected) / 5, rel_tol=1e-5)
    with pytest.raises(ValueError, match="one number an example"):
        bars(logits, torch.randn(5, 2))
    with pytest.raises(ValueError, match="at least 4 bars"):
        Bars(3)


def test_regression_contract() -> None:
    learner = BarPFN(1, bars=20, scale=2.5, width=16, depth=2, heads=2)
    found = check(learner, Sinusoid(shot=10, query=10).batch(0, 3), train_steps=40)
    assert all(text.startswith("holds") for text in found.values())


def test_padded_points_are_not_seen() -> None:
    learner = BarPFN(1, bars=8, width=16, depth=2, heads=2).double()
    x, y, asked = torch.randn(6, 1).double(), torch.randn(6, 1).double(), torch.randn(3, 1).double()
    expected = learner.predict(learner.adapt(Examples(x[:4], y[:4])), asked)
    masked = learner.adapt(Examples({"x": x, "mask": torch.arange(6) < 4}, y))
    torch.testing.assert_close(learner.predict(masked, asked), expected)
