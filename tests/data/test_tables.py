"""Synthetic tables: sizes, classes, and that a table depends on its seed and number alone."""

import numpy as np
import pytest
import torch
from sklearn.ensemble import RandomForestClassifier

from mapsto.data import tables
from mapsto.data.tables import Tables
from mapsto.episode import Episode, Reshapable, unstack
from mapsto.errors import MapstoError


def test_sizes_are_shared_by_a_group_and_within_bounds() -> None:
    source = Tables((2, 6), (20, 40), 10, features=(3, 9), together=4)
    seen = []
    for start in range(0, 120, 4):
        episode = source.batch(start, 4)
        assert isinstance(episode, Episode)
        way, shot, features = source.sizes(start)
        assert episode.support.x.shape == (4, shot, features) and episode.query.y.shape == (4, 10, way)
        seen.append((way, shot, features))
    ways, shots, features = (np.array(column) for column in zip(*seen, strict=True))
    assert set(ways) == {2, 3, 4, 5, 6} and (ways <= 3).sum() > (ways >= 5).sum()
    assert 20 <= shots.min() < 25 and 35 < shots.max() <= 40 and set(features) == set(range(3, 10))
    assert isinstance(source.batch(2, 4), list)  # across groups


def test_every_class_is_in_the_support_and_columns_are_standard() -> None:
    source = Tables(query=20)
    for i in range(0, 64 * 16, 16):
        (episode,) = unstack(source.batch(i, 1))
        (x, y), query = episode.support, episode.query
        assert y.sum(0).min() >= 1 and torch.cat([y, query.y]).sum(0).min() >= 2
        assert y.sum(1).eq(1).all()
        both = torch.cat([x, query.x])
        assert both.isfinite().all() and both.mean(0).abs().max() < 1e-4
        deviation = both.std(0, correction=0)
        assert ((deviation - 1).abs().lt(1e-3) | deviation.lt(1e-3)).all()


def test_pure_and_reshapable() -> None:
    source = Tables(together=4)
    assert isinstance(source, Reshapable)
    many = unstack(source.batch(8, 4))
    (one,) = unstack(source.batch(10, 1))
    for a, b in zip((*many[2].support, *many[2].query), (*one.support, *one.query), strict=True):
        assert a.equal(b)
    assert not many[0].support.x.equal(many[1].support.x)
    other = source.replace(way=3, shot=30, query=5).batch(0, 4)
    assert isinstance(other, Episode) and other.support.y.shape == (4, 30, 3) and other.query.x.shape[1] == 5


def test_intervals_share_out_all_rows() -> None:
    rng, y = np.random.default_rng(0), np.random.default_rng(1).standard_normal(30)
    sizes = np.stack([np.bincount(tables._intervals(rng, y, 3), minlength=3) for _ in range(3000)])
    assert sizes.min() == 2 and (sizes.sum(1) == 30).all()
    # Of 24 spare rows in three parts, each part has (24 - k + 1) / 325 of the divisions where it has k.
    expected = np.array([25 - k for k in range(25)]) / 325
    for part in range(3):
        np.testing.assert_allclose(np.bincount(sizes[:, part] - 2, minlength=25) / 3000, expected, atol=0.02)
    labels = tables._intervals(rng, y, 3)
    for c in range(2):
        assert y[labels == c].max() < y[labels == c + 1].min()
    assert np.bincount(tables._intervals(rng, np.zeros(30), 5)).min() >= 2  # ties


def test_columns_tell_of_the_class() -> None:
    """A forest, told the labelled rows, is better than the commonest class in the mean over tables."""
    source, gains = Tables(3, 100, 100, features=8), []
    for i in range(0, 16 * 16, 16):
        (episode,) = unstack(source.batch(i, 1))
        (x, y), (q, z) = ((part.x.numpy(), part.y.argmax(1).numpy()) for part in episode)
        forest = RandomForestClassifier(20, random_state=0).fit(x, y)
        gains.append(forest.score(q, z) - (z == np.bincount(y).argmax()).mean())
    assert np.mean(gains) > 0.1


def test_what_cannot_be_is_named() -> None:
    for message, settings in (
        ("way of tables must be at least 2", {"way": (1, 3)}),
        ("features of tables must be at least 1, a range's low end first", {"features": (5, 3)}),
        ("want at least 20 labelled rows, not 10", {"shot": 10}),
        ("query and together", {"query": 0}),
    ):
        with pytest.raises(MapstoError, match=message):
            Tables(**settings)  # pyright: ignore[reportArgumentType]
