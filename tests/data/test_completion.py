"""Pixels of pictures as points of a function."""

from typing import Any

import numpy as np
import pytest
import torch

from mapsto.data import Labelled
from mapsto.data.completion import Completion
from mapsto.episode import Reshapable, unstack
from mapsto.errors import DataError, MapstoError


def labelled(channels: int = 2) -> Labelled:
    x = torch.randint(1, 256, (6, channels, 4, 5), dtype=torch.uint8)
    return Labelled(x, np.arange(6), list("abcdef"))


def test_a_points_value_is_its_pixels() -> None:
    data = labelled()
    source = Completion(data, 7, 13, seed=1)
    assert isinstance(source, Reshapable)
    seen = set()
    for task, episode in enumerate(unstack(source.batch(0, 30))):
        x, y = (torch.cat(parts) for parts in zip(*episode, strict=True))
        rows, columns = ((x[:, 0] + 1) / 2 * 3).round().int(), ((x[:, 1] + 1) / 2 * 4).round().int()
        assert len({(int(r), int(c)) for r, c in zip(rows, columns, strict=True)}) == 20  # no pixel twice
        image = torch.zeros(2, 4, 5)
        image[:, rows, columns] = y.T
        torch.testing.assert_close(source.pictures(task, 1)[0], image)
        which = [i for i in range(6) if torch.equal((image * 255).round().byte(), data.x[i])]
        assert len(which) == 1
        seen |= set(which)
    assert seen == set(range(6))


def test_places_are_row_by_row() -> None:
    source = Completion(labelled(1), 3, 4)
    picture = source.pictures(0, 1)[0, 0]
    query = source.batch(0, 1).query
    for place, value in zip(query.x[0], query.y[0], strict=True):
        index = (source.places - place).norm(dim=1).argmin()
        assert torch.equal(picture.flatten()[index], value[0]) and torch.allclose(source.places[index], place)


def test_context_sizes_vary() -> None:
    (x, y), query = Completion(labelled(1), (2, 5), 6).batch(0, 60)
    assert x["x"].shape == (60, 5, 2) and y.shape == (60, 5, 1) and query.x.shape == (60, 6, 2)
    assert set(x["mask"].sum(1).tolist()) == {2, 3, 4, 5}
    assert not y[~x["mask"]].any() and y[x["mask"]].all()


def test_a_task_is_a_function_of_seed_and_number() -> None:
    source, data = Completion(labelled(), (2, 5), 6, seed=3), labelled()
    a, b = unstack(source.batch(4, 2))[1], unstack(source.batch(0, 6))[5]
    assert a.support.x["x"].equal(b.support.x["x"]) and a.query.y.equal(b.query.y)
    other = source.replace(shot=(1, 2), query=3)
    assert other.seed == 3 and other.batch(0, 1).query.x.shape == (1, 3, 2)
    x = [Completion(data, 2, 6, seed=seed).batch(0, 1).query.x for seed in (0, 1)]
    assert not x[0].equal(x[1])


def test_floats_stay_as_they_are() -> None:
    data = labelled()._replace(x=torch.rand(6, 1, 4, 5))
    picture = Completion(data, 3, 4).pictures(0, 1)
    assert any(torch.equal(picture[0], image) for image in data.x)


@pytest.mark.parametrize(
    ("wrong", "error", "complaint"),
    [
        (lambda: Completion(labelled(), 10, 11), DataError, "has 20 pixels"),
        (lambda: Completion(labelled()._replace(x=torch.rand(6, 9)), 1, 1), DataError, "wants pictures"),
        (lambda: Completion(labelled(), (5, 2), 3), MapstoError, "low end first"),
        (lambda: Completion(labelled(), 2, 3).replace(way=2), MapstoError, "no way to change"),
    ],
)
def test_complaints(wrong: Any, error: type[Exception], complaint: str) -> None:
    with pytest.raises(error, match=complaint):
        wrong()
