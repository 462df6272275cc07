"""Many tasks' random numbers at once are NumPy's own, task by task."""

# pyright: reportAttributeAccessIssue=false, reportOptionalMemberAccess=false

import numpy as np
import pytest

from mapsto.data import Tasks, tasks
from mapsto.data.streams import MOST, Streams, choices, uniform


def numpys(seed: int, i: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=np.array([seed, i], np.uint64)))


@pytest.mark.parametrize("seed", [0, 2**64 - 1])
def test_a_stream_is_philox_with_its_key(seed: int) -> None:
    streams = Streams(seed)
    for i in (3, 2**40, 3):  # also a second time, after something else was read
        np.testing.assert_array_equal(streams.at(i).standard_normal(5), numpys(seed, i).standard_normal(5))
        streams.at(i).integers(10)  # half of a word is left over


def test_words_are_the_streams_own() -> None:
    wanted = np.stack([numpys(5, i).random(7) for i in range(9, 13)])
    np.testing.assert_array_equal(uniform(Streams(5).words(9, 4, 7)), wanted)


@pytest.mark.parametrize(("n", "k"), [(1, 1), (2, 1), (3, 2), (5, 5), (6, 5), (1100, 5), (4800, 60), (MOST, 100)])
def test_choices_are_numpys_and_so_is_what_comes_after(n: int, k: int) -> None:
    first = k - (k == n)
    words = Streams(1).words(0, 300, first + 2)
    found, right = choices(words[:, :first], n, k)
    assert right.mean() > 0.98  # a hundred of 10,000 are drawn again in one row of ten thousand
    for i in np.flatnonzero(right):
        rng = numpys(1, int(i))
        np.testing.assert_array_equal(found[i], rng.choice(n, k, replace=False))
        np.testing.assert_array_equal(uniform(words[i, first:]), rng.random(2))


def test_numbers_that_numpy_draws_again_are_told() -> None:
    # Lemire: 2^32 is no multiple of 1,100, so of 1,100 x 2^32 products those with the least remainders are left out.
    words = np.array([[0], [2**32 // 1100 + 1]], np.uint64) | np.uint64(2**63)
    assert choices(words, 1100, 1)[1].tolist() == [False, (2**32 // 1100 + 1) * 1100 % 2**32 >= 2**32 % 1100]


@pytest.mark.parametrize("shape", [{}, {"way": 30}, {"way": 2, "shot": 3, "query": 4}])
def test_tasks_drawn_together_are_those_drawn_singly(shape: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    labels = np.sort(np.concatenate([np.repeat(np.arange(30), 16), rng.integers(0, 30, 100)]))  # unequal classes
    data = np.arange(len(labels), dtype=np.float32)[:, None], labels
    together = Tasks(data, **shape).batch(250, 300)
    for k in (0, 61, 62, 299):
        np.testing.assert_array_equal(together.query.x[k], Tasks(data, **shape)[250 + k].query.x)
    monkeypatch.setattr(tasks, "choices", lambda *given: (choices(*given)[0] * 0, np.zeros(len(given[0]), bool)))
    again = Tasks(data, **shape).batch(250, 300)  # as if none of the choices had been right
    np.testing.assert_array_equal(again.query.x, together.query.x)
    monkeypatch.setattr(tasks, "MOST", 3)  # as if there were too many classes
    np.testing.assert_array_equal(Tasks(data, **shape).batch(250, 300).query.x, together.query.x)


def test_the_sequence_of_tasks_stays_what_it_was() -> None:
    # Results name a seed: these numbers were drawn by `Generator.choice` and `Generator.random` task by task.
    drawn = Tasks((np.arange(400.0), np.repeat(np.arange(40), 10)), 5, 1, 1, seed=7).batch(1000, 1)
    rng = numpys(7, 1000)
    classes = rng.choice(40, 5, replace=False)
    wanted = classes[:, None] * 10 + rng.random((5, 10)).argsort(1)[:, :2]
    np.testing.assert_array_equal(np.stack([drawn.support.x[0], drawn.query.x[0]], 1), wanted)
