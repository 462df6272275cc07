"""Projected tasks: what a task is, who shares it, and that nothing else decides."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from tiny import Tiny

from mapsto.data import Labelled
from mapsto.data.projections import Digits, Projections
from mapsto.episode import Reshapable
from mapsto.errors import DataError, MapstoError


def source(part: Labelled | None = None, **settings) -> Projections:  # noqa: ANN003
    return Projections(Tiny().train if part is None else part, 4, 3, 2, **settings)


def standard(data: Labelled) -> np.ndarray:
    x = data.x.flatten(1).double().numpy()
    return (x - x.mean(0)) / x.std(ddof=1)


def test_an_episode_is_projected_examples_of_its_classes() -> None:
    data, tasks = Tiny().train, source(features=6)
    episode = tasks.batch(5, 1)
    matrix, classes = tasks.task(5)
    assert len(set(classes)) == 4 and matrix.shape == (256, 6)
    projected = standard(data) @ matrix
    for part, each in ((episode.support, 3), (episode.query, 2)):
        assert part.x.shape == (1, 4 * each, 6) and part.y[0].sum(0).tolist() == [each] * 4
        for row, label in zip(part.x[0].double().numpy(), part.y[0].argmax(1), strict=True):
            found = int(np.abs(projected - row).max(1).argmin())
            np.testing.assert_allclose(projected[found], row, atol=1e-4)
            assert data.y[found] == classes[int(label)]
    both = torch.cat([episode.support.x[0], episode.query.x[0]])
    assert len(torch.unique(both, dim=0)) == 20  # no example twice


def test_projections_have_unit_variance_over_their_inputs() -> None:
    tasks = source()
    matrices = np.stack([tasks.task(k)[0] for k in range(8)])
    assert matrices.shape == (8, 256, 256) and abs(matrices.var() * 256 - 1) < 0.01 and abs(matrices.mean()) < 1e-3


def test_so_many_tasks_and_no_more() -> None:
    tiny = Tiny()
    few, held_out, all_new = source(tasks=3, features=5), source(tiny.val, tasks=3, features=5), source(features=5)

    def matrices(tasks: Projections, number: int = 16) -> set[int]:
        """Which of the first tasks the episodes are, by solving for their matrices' effect on the inputs."""
        found = set()
        x = torch.from_numpy(standard(tasks.data))
        for i in range(number):
            shown = tasks.batch(i, 1).support.x[0].double()
            candidates = [x @ torch.from_numpy(tasks.task(k)[0]).double() for k in range(number)]
            gaps = [float(torch.cdist(shown, c).min(1).values.max()) for c in candidates]
            assert min(gaps) < 1e-3
            found.add(int(np.argmin(gaps)))
        return found

    assert matrices(few) == matrices(held_out) == {0, 1, 2}
    assert matrices(all_new) == set(range(16))
    for k in range(3):  # the same tasks, with other data
        assert all(np.array_equal(a, b) for a, b in zip(few.task(k), held_out.task(k), strict=True))
    assert not np.array_equal(few.task(0)[0], source(tasks=3, features=5, seed=1).task(0)[0])


def test_pure_and_reshapable() -> None:
    tasks = source(tasks=9, features=5)
    assert isinstance(tasks, Reshapable)
    many, one = tasks.batch(4, 3), tasks.batch(6, 1)
    torch.testing.assert_close(many.query.x[2], one.query.x[0])
    other = tasks.replace(way=2, shot=1)
    assert other.shape.way == 2 and other.batch(0, 2).support.x.shape == (2, 2, 5)
    np.testing.assert_array_equal(other.task(3)[0], tasks.task(3)[0])


def test_digits() -> None:
    digits, (images, labels) = Digits(), load_digits(return_X_y=True)
    parts = [digits.train, digits.val, digits.test]
    assert [len(part.y) for part in parts] == [1197, 300, 300]
    x = torch.cat([part.x for part in parts]).double() / 15
    np.testing.assert_array_equal(x.flatten(1).numpy(), images)
    np.testing.assert_array_equal(np.concatenate([part.y for part in parts]), labels)
    Projections(digits.test, 10, 5, 5)


def test_what_cannot_be_is_named() -> None:
    data = Tiny().train
    for error, message, settings in (
        (DataError, "there are 8", {"way": 9}),
        (DataError, "10 examples, but shot \\+ query = 12", {"way": 2, "shot": 7}),
        (MapstoError, "one way and one shot", {"way": (2, 4)}),
        (MapstoError, "at least 1", {"way": 2, "tasks": 0}),
    ):
        with pytest.raises(error, match=message):
            Projections(data, **settings)  # pyright: ignore[reportArgumentType]
