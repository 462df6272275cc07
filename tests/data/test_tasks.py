"""Tasks: pure functions of (seed, i), labels numbered afresh, support and query apart; sinusoids; disjoint splits."""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportReturnType=false
# pyright: reportUnusedExpression=false

import math
import pickle
from collections import Counter

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves
from torch.utils.data import DataLoader, Dataset

from mapsto import DataError, Episode, MapstoError, stack
from mapsto.algorithms import ProtoNet
from mapsto.data import Labelled, Omniglot, Sinusoid, Tasks
from mapsto.data.files import data_root
from mapsto.episode import unstack

CLASSES, EACH = 8, 12


def labelled(classes: int = CLASSES, each: int = EACH, gap: int = 1) -> Labelled:
    """Example k of class c is the pair (c, k), so that every test can see what was drawn."""
    y = np.tile(np.arange(classes), each) * gap
    x = torch.from_numpy(np.stack([y, np.repeat(np.arange(each), classes)], 1)).float()
    return Labelled(x, y, [f"class{c}" for c in range(classes * gap)])


def same(a: Episode, b: Episode) -> bool:
    return all(p.equal(q) for p, q in zip(tree_leaves(a), tree_leaves(b), strict=True))


def drawn(task: Episode) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """The (class, example) pairs of support and query."""
    return tuple([tuple(row) for row in part.x.int().tolist()] for part in task)


class Pairs(Dataset):
    """What torchvision's data sets look like."""

    def __init__(self, data: Labelled) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data.y)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        return self.data.x[i], int(self.data.y[i])


# ------------------------------------------------------------------------------------------------ pure functions


def test_task_i_is_a_function_of_seed_and_i() -> None:
    # pitfall: class orders from a global random state, and seeds that are ignored
    tasks, again = Tasks(labelled(), query=4, seed=3), Tasks(labelled(), query=4, seed=3)
    last_first = [again[i] for i in range(20)[::-1]][::-1]
    torch.manual_seed(99), np.random.seed(99)
    assert all(same(tasks[i], last_first[i]) for i in range(20))
    assert not any(same(tasks[i], Tasks(labelled(), query=4, seed=4)[i]) for i in range(20))
    assert len({str(drawn(tasks[i])) for i in range(200)}) == 200


def test_drawing_leaves_the_global_random_states() -> None:
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    Tasks(labelled(), query=4)[0], Tasks(labelled(), query=4).batch(0, 4)
    assert torch.get_rng_state().equal(before[0]) and (np.random.get_state()[1] == before[1]).all()


@pytest.mark.parametrize("shape", [{}, {"way": (2, 6), "shot": (1, 3)}], ids=["fixed", "variable"])
def test_any_batch_from_any_start_holds_the_same_tasks(shape: dict) -> None:
    # pitfall: other tasks after a resume, or the same ones on every rank
    tasks = Tasks(labelled(), query=4, **shape)
    singles = [tasks[i] for i in range(12)]
    for start, size in ((0, 12), (5, 4), (11, 1)):
        got = unstack(tasks.batch(start, size))
        assert len(got) == size and all(same(a, singles[start + k]) for k, a in enumerate(got))
    ranks = [[tasks.batch(4 * step + 2 * rank, 2) for step in range(3)] for rank in range(2)]
    joined = [unstack(ranks[rank][step])[k] for step in range(3) for rank in range(2) for k in range(2)]
    assert all(same(a, b) for a, b in zip(joined, singles, strict=True))
    assert not same(singles[0], singles[2]) if not shape else True


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("data", [labelled(), Pairs(labelled())], ids=["memory", "dataset"])
def test_any_number_of_workers_gives_the_same_tasks(data: Labelled | Pairs) -> None:
    # pitfall: workers that repeat each other's tasks
    tasks = Tasks(data, query=4, seed=1, length=16)
    expected = [tasks.batch(start, 4) for start in range(0, 16, 4)]
    for workers in (0, 1, 4):
        loader = DataLoader(tasks, batch_size=4, num_workers=workers, collate_fn=stack)
        assert all(same(a, b) for a, b in zip(loader, expected, strict=True))


def test_tasks_can_be_sent_to_another_process() -> None:
    # Where worker processes are spawned, not forked, they receive a pickle.
    for data in (labelled(), Pairs(labelled())):
        tasks = Tasks(data, query=4)
        assert same(pickle.loads(pickle.dumps(tasks))[7], tasks[7])


# ------------------------------------------------------------------------------------------------ labels


def test_classes_are_numbered_afresh_and_uniformly() -> None:
    # pitfall: easyfsl numbers classes in sorted order in every episode, so a MAML head can learn the position
    tasks = Tasks(labelled(5), query=1)
    orders = Counter(tuple(tasks.classes(i)) for i in range(6000))
    assert len(orders) == 120  # every map of 5 classes to 5 labels
    assert 20 < orders[0, 1, 2, 3, 4] < 90  # 50 expected
    table = np.zeros((5, 5))
    for order, times in orders.items():
        table[order, range(5)] += times
    assert abs(table / 6000 - 0.2).max() < 0.03


def test_support_and_query_share_one_map_and_it_is_what_classes_tells() -> None:
    tasks = Tasks(labelled(), way=4, shot=2, query=3)
    for i in range(50):
        maps = [{int(y): int(x[0]) for x, y in zip(part.x, part.y.argmax(1), strict=True)} for part in tasks[i]]
        assert maps[0] == maps[1] == dict(enumerate(tasks.classes(i)))


def test_targets_are_one_hot() -> None:
    support, query = Tasks(labelled(), way=4, shot=2, query=3).batch(0, 6)
    assert support.y.shape == (6, 8, 4) and query.y.shape == (6, 12, 4) and support.y.dtype == torch.float32
    assert (support.y.sum(1) == 2).all() and (query.y.sum(1) == 3).all() and (query.y.sum(2) == 1).all()


def test_classes_are_drawn_uniformly_without_replacement() -> None:
    tasks = Tasks(labelled(), way=4, query=1)
    chosen = [tasks.classes(i) for i in range(2000)]
    assert all(len(set(classes)) == 4 for classes in chosen)
    shares = np.bincount(np.ravel(chosen)) / 2000
    assert abs(shares - 0.5).max() < 0.05


def test_gaps_in_the_labels_are_no_matter() -> None:
    # pitfall: prototypes of labels {0, 2} that are silently NaN
    tasks = Tasks(labelled(gap=7), query=3)
    assert set(tasks.names) == {f"class{7 * c}" for c in range(CLASSES)}
    one = tasks[0]
    learner = ProtoNet(torch.nn.Flatten())
    assert one.support.y.shape == (5, 5) and learner.loss(one).isfinite()
    texts = Tasks((torch.rand(6, 2), ["cat", "dog", "cat", "dog", "cat", "dog"]), way=2, query=2)
    assert texts.names == ["cat", "dog"]


# ------------------------------------------------------------------------------------------------ support and query


def test_support_and_query_are_disjoint_and_without_repeats() -> None:
    # pitfall: an image that is both learned from and asked about
    tasks = Tasks(labelled(), shot=4, query=8)  # all 12 of a class
    for i in range(50):
        support, query = drawn(tasks[i])
        assert not set(support) & set(query) and len({*support, *query}) == 5 * 12


def test_the_split_into_support_and_query_is_fresh_in_every_task() -> None:
    # pitfall: torchmeta fixes one split for a tuple of classes, so each image is always support or always query
    tasks = Tasks(labelled(5), shot=3, query=9)
    supports = [frozenset(k for c, k in drawn(tasks[i])[0] if c == 0) for i in range(300)]
    assert len(set(supports)) > 130  # of 220
    shares = np.bincount([k for s in supports for k in s], minlength=12) / 300
    assert abs(shares - 0.25).max() < 0.1


def test_queries_are_as_many_as_asked_for() -> None:
    # pitfall: as many queries as shots, by construction
    support, query = Tasks(labelled(), way=3, shot=1, query=7)[0]
    assert support.x.shape == (3, 2) and query.x.shape == (21, 2)


def test_unequal_classes_never_draw_padding() -> None:
    y = np.repeat(np.arange(3), [4, 9, 30])
    x = torch.stack([torch.from_numpy(y), torch.arange(len(y))], 1).float()
    tasks = Tasks((x, y), way=3, shot=1, query=3)
    for i in range(100):
        support, query = drawn(tasks[i])
        assert len({*support, *query}) == 12
        classes = tasks.classes(i)
        assert [c for c, _ in query] == [c for c in classes for _ in range(3)]


def test_variable_way_and_shot() -> None:
    tasks = Tasks(labelled(), way=(2, 5), shot=(1, 3), query=4)
    shapes: Counter[tuple[int, int]] = Counter()
    for i in range(400):
        rows, way = tasks[i].support.y.shape
        assert tasks[i].query.y.shape == (4 * way, way)
        shapes[way, rows // way] += 1
    assert set(shapes) == {(way, shot) for way in range(2, 6) for shot in range(1, 4)}
    assert min(shapes.values()) > 10


def test_another_shape_of_the_same_tasks() -> None:
    tasks = Tasks(labelled(), query=4)
    other = tasks.replace(way=3, shot=2)
    assert (other.shape.way, other.shape.shot, other.shape.query) == (3, 2, 4) and tasks.shape.way == 5
    assert same(other[5], Tasks(labelled(), 3, 2, 4)[5])
    with pytest.raises(DataError, match="9-way"):
        tasks.replace(way=9)


# ------------------------------------------------------------------------------------------------ inputs


def test_a_torch_dataset_gives_what_memory_gives() -> None:
    assert all(same(Tasks(Pairs(labelled()), query=4)[i], Tasks(labelled(), query=4)[i]) for i in range(5))


def test_a_dict_of_inputs() -> None:
    data = labelled()
    tasks = Tasks(({"a": data.x, "b": data.x[:, :1] * 2}, data.y), query=3)
    support, query = tasks.batch(0, 4)
    assert support.x["b"].shape == (4, 5, 1) and query.x["a"].shape == (4, 15, 2)
    assert support.x["b"].equal(support.x["a"][..., :1] * 2)
    assert same(unstack(tasks.batch(0, 4))[2], tasks[2])


def test_uint8_becomes_zero_to_one_and_a_transform_takes_its_place() -> None:
    data = (torch.full((20, 1, 2, 2), 255, dtype=torch.uint8), np.arange(20) % 2)
    assert Tasks(data, way=2, query=2)[0].support.x.eq(1.0).all()
    assert Tasks(data, way=2, query=2, transform=lambda x: x.float() - 5)[0].support.x.eq(250.0).all()


@pytest.mark.parametrize("broken", ["nan", "inf"])
def test_bad_values_are_named(broken: str) -> None:
    x = torch.rand(20, 3)
    x[13, 1] = float(broken)
    for values in (x, x[:, 1], {"fine": torch.rand(20), "bad": x}):
        with pytest.raises(DataError, match="example 13 holds NaN or infinity"):
            Tasks((values, np.arange(20) % 2), way=2, query=2)


def test_mistakes_are_named() -> None:
    with pytest.raises(DataError, match=r"9-way.*9 classes.*there are 8"):
        Tasks(labelled(), way=9)
    with pytest.raises(DataError, match=r"shot \+ query = 16"):
        Tasks(labelled())
    y = np.repeat(np.arange(3), [9, 5, 9])
    with pytest.raises(DataError, match=r"class 'b' has 5 examples, but shot \+ query = 6"):
        Tasks(Labelled(torch.rand(23, 2), y, ["a", "b", "c"]), way=2, query=5)
    with pytest.raises(DataError, match="20 examples but 19 labels"):
        Tasks((torch.rand(20, 2), np.zeros(19)))
    with pytest.raises(DataError, match="at least 1"):
        Tasks(labelled(), shot=0, query=3)
    with pytest.raises(DataError, match="0"):
        Tasks((torch.rand(0, 2), np.zeros(0, np.int64)))
    with pytest.raises(IndexError):
        Tasks(labelled(), query=3, length=10)[10]


# ------------------------------------------------------------------------------------------------ splits


def sampled(part: Labelled, count: int = 300) -> set[str]:
    """The names of the classes that tasks really touch."""
    tasks = Tasks(part, query=1)
    return {tasks.names[c] for i in range(count) for c in tasks.classes(i)}


@pytest.mark.skipif(
    not (data_root() / "omniglot" / "images_background.zip").exists(),
    reason="the Omniglot archives are not in the data root (set MAPSTO_DATA)",
)
@pytest.mark.parametrize("split", ["vinyals", "random"])
def test_tasks_of_one_split_touch_no_class_of_another(split: str) -> None:
    # pitfall: learn2learn's benchmark trains on its test classes; its splits are disjoint, its tasks are not
    data = Omniglot(split=split, rotations=False)
    train, val, test = (sampled(part) for part in (data.train, data.val, data.test))
    assert len(train) > 500 and len(val) >= 90 and len(test) > 300
    assert not train & val and not train & test and not val & test


def test_the_images_of_a_task_are_those_of_its_classes() -> None:
    # Names are told by one path, images by another: here they are compared.
    tasks = Tasks(labelled(gap=3), query=4)
    for i in range(20):
        support, query = drawn(tasks[i])
        names = {f"class{c}" for c, _ in [*support, *query]}
        assert names == {tasks.names[c] for c in tasks.classes(i)}


# ------------------------------------------------------------------------------------------------ sinusoids


def test_sinusoids() -> None:
    waves, (support, query) = Sinusoid(seed=2).waves(0, 500), Sinusoid(seed=2).batch(0, 500)
    amplitude, phase = torch.from_numpy(waves).float().T[:, :, None, None]
    for part in (support, query):
        assert part.x.shape == part.y.shape == (500, 10, 1)
        torch.testing.assert_close(part.y, amplitude * torch.sin(part.x - phase), rtol=1e-4, atol=1e-5)
        assert part.x.min() >= -5 and part.x.max() <= 5 and part.x.abs().max() > 4.9
    assert 0.1 <= amplitude.min() < 0.2 and 4.9 < amplitude.max() <= 5
    assert 0 <= phase.min() < 0.05 and 3.1 < phase.max() <= np.pi + 1e-6
    assert not set(support.x.flatten().tolist()) & set(query.x.flatten().tolist())


def test_sinusoid_tasks_are_functions_of_seed_and_i() -> None:
    tasks = Sinusoid(shot=3, query=5, seed=1)
    whole = unstack(tasks.batch(0, 8))
    assert all(same(a, b) for a, b in zip(unstack(tasks.batch(5, 3)), whole[5:], strict=True))
    assert not same(whole[0], whole[1]) and not same(whole[0], unstack(Sinusoid(3, 5, seed=2).batch(0, 1))[0])
    assert tasks.replace(shot=4, query=6).batch(0, 1).query.x.shape == (1, 6, 1)
    assert np.array_equal(tasks.replace(shot=4).waves(0, 5), tasks.waves(0, 5))
    with pytest.raises(MapstoError, match="regression"):
        tasks.replace(way=5)


@pytest.mark.parametrize("shape", [(2, 4, 4), ()])
def test_bytes_become_the_same_floats_in_one_pass_and_in_two(shape: tuple, monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.arange(64 * math.prod(shape)).mul(37).remainder(256).to(torch.uint8).view(64, *shape)
    labels = np.repeat(np.arange(8), 8)
    one = Tasks((x, labels), 3, 2, 4)
    monkeypatch.setattr("mapsto.data.tasks.PACKED", 0)  # as if the examples were too many to copy
    two = Tasks((x, labels), 3, 2, 4)
    a, b = one.batch(5, 40), two.batch(5, 40)
    assert isinstance(a, Episode) and isinstance(b, Episode)
    for ours, plain in zip((*a.support, *a.query), (*b.support, *b.query), strict=True):
        assert (
            ours.shape == plain.shape and ours.dtype == torch.float32 and ours.is_contiguous() == plain.is_contiguous()
        )
        assert torch.allclose(ours, plain, rtol=1.2e-7, atol=0)  # the last bit
    assert one[7].query.x.equal(a.query.x[2]) and float(a.query.x.max()) <= 1
