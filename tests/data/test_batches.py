"""Minibatches: pure functions of (seed, i), every example once an epoch, targets over all classes."""

import numpy as np
import pytest
import torch
from torch.utils._pytree import tree_leaves

from mapsto import DataError, Episode
from mapsto.data import Labelled
from mapsto.data.batches import Batches
from mapsto.episode import Reshapable, unstack

CLASSES, EACH = 5, 7


def labelled() -> Labelled:
    """Example k of class c is the pair (c, k); classes are named, and numbered with gaps."""
    y = np.tile(np.arange(CLASSES), EACH)
    x = torch.from_numpy(np.stack([y, np.repeat(np.arange(EACH), CLASSES)], 1)).float()
    return Labelled(x, 2 * y, [f"class{c}" for c in range(2 * CLASSES)])


def drawn(episode: Episode) -> list[tuple[int, int]]:
    return [(int(c), int(k)) for c, k in episode.query.x.tolist()]


def same(a: Episode, b: Episode) -> bool:
    return all(p.equal(q) for p, q in zip(tree_leaves(a), tree_leaves(b), strict=True))


def test_minibatch_i_is_a_function_of_seed_and_i() -> None:
    batches, again = Batches(labelled(), 4, seed=3), Batches(labelled(), 4, seed=3)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # type: ignore[index]
    whole = unstack(batches.batch(0, 20))
    assert torch.get_rng_state().equal(before[0]) and (np.random.get_state()[1] == before[1]).all()  # type: ignore[index]
    assert all(same(unstack(again.batch(i, 1))[0], whole[i]) for i in range(19, -1, -1))
    assert not same(whole[0], unstack(Batches(labelled(), 4, seed=4).batch(0, 1))[0])


def test_every_example_once_an_epoch_in_a_fresh_order() -> None:
    epochs = [drawn(e) for e in unstack(Batches(labelled(), 35).batch(0, 3))]
    assert all(len(set(epoch)) == CLASSES * EACH for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    # 8 minibatches of 4 leave out 3 of 35, other ones each time.
    parts = [drawn(e) for e in unstack(Batches(labelled(), 4).batch(0, 400))]
    seen = [{pair for part in parts[start : start + 8] for pair in part} for start in range(0, 400, 8)]
    assert all(len(epoch) == 32 for epoch in seen) and len(set.union(*seen)) == 35


def test_targets_are_over_all_classes_and_the_same_in_every_minibatch() -> None:
    batches = Batches(labelled(), 6)
    support, query = batches.batch(0, 30)
    assert query.x.shape == (30, 6, 2) and query.y.shape == (30, 6, CLASSES)
    assert query.y.sum(2).eq(1).all() and query.y.argmax(2).equal(query.x[..., 0].long())
    assert support.x.shape == (30, 0, 2) and support.y.shape == (30, 0, CLASSES)
    assert batches.names == [f"class{c}" for c in range(0, 10, 2)]


def test_other_sizes() -> None:
    batches = Batches(labelled(), 6)
    assert isinstance(batches, Reshapable) and (batches.shape.way, batches.shape.query) == (CLASSES, 6)
    other = batches.replace(query=9)
    assert other.shape.query == 9 and batches.shape.query == 6
    assert same(other.batch(5, 2), Batches(labelled(), 9).batch(5, 2))


def test_inputs_of_other_kinds() -> None:
    data = labelled()
    pair = Batches(({"a": data.x, "b": data.x[:, :1]}, data.y), 4).batch(2, 3).query
    assert pair.x["a"].equal(Batches(data, 4).batch(2, 3).query.x) and pair.x["b"].equal(pair.x["a"][..., :1])
    pictures = torch.full((20, 1, 2, 2), 255, dtype=torch.uint8), np.arange(20) % 2
    assert Batches(pictures, 4).batch(0, 1).query.x.eq(1.0).all()
    assert Batches(pictures, 4, transform=lambda x: x.float() - 5).batch(0, 1).query.x.eq(250.0).all()


def test_mistakes_are_named() -> None:
    for size in (0, 36):
        with pytest.raises(DataError, match=f"1 to 35 examples.*not {size}"):
            Batches(labelled(), size)
    with pytest.raises(DataError, match="not 40"):
        Batches(labelled(), 4).replace(query=40)
    with pytest.raises(DataError, match="way=3"):
        Batches(labelled(), 4).replace(way=3)
    x = torch.rand(20, 3)
    x[13, 1] = float("nan")
    with pytest.raises(DataError, match="example 13 holds NaN"):
        Batches((x, np.arange(20) % 2), 4)
