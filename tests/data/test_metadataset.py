"""Meta-Dataset's sampling against section 3.2 of the paper, written plainly, and against its code's distributions."""

from collections import Counter

import numpy as np
import pytest
import torch
from scipy.stats import chisquare, ks_2samp

from mapsto import evaluate, fit
from mapsto.algorithms import ProtoNet
from mapsto.data import Labelled
from mapsto.data.metadataset import MetaDataset
from mapsto.data.streams import Streams
from mapsto.errors import DataError

LETTERS = np.random.default_rng(0).integers(4, 300, 60)  # images a class
BIRDS = np.full(12, 20)
GROUPS = [list(range(0, 7)), list(range(7, 60))]


def labelled(sizes: np.ndarray, at: float = 0.0) -> Labelled:
    """Example k of class c is (c, k) + at."""
    y = np.repeat(np.arange(len(sizes)), sizes)
    k = np.concatenate([np.arange(size) for size in sizes])
    return Labelled(torch.from_numpy(np.stack([y, k], 1)).float() + at, y, [f"class{c}" for c in range(len(sizes))])


@pytest.fixture(scope="module")
def source() -> MetaDataset:
    return MetaDataset({"letters": labelled(LETTERS), "birds": labelled(BIRDS, 1000)}, 7, groups={"letters": GROUPS})


def by_the_paper(rng: np.random.Generator) -> tuple[str, list[int], list[int], int]:
    """Section 3.2, class by class, with the draws in this order."""
    name, sizes, groups = [("letters", LETTERS, GROUPS), ("birds", BIRDS, [list(range(12))])][rng.integers(2)]
    group = groups[rng.integers(len(groups))]
    way = int(rng.integers(5, min(50, len(group)), endpoint=True))
    classes = [int(c) for c in rng.choice(group, way, replace=False)]
    query = min(10, *(int(0.5 * sizes[c]) for c in classes))
    beta = 1 - rng.random()
    support = min(500, sum(int(np.ceil(beta * min(100, sizes[c] - query))) for c in classes))
    alphas = rng.uniform(np.log(0.5), np.log(2), way)
    total = sum(np.exp(a) * sizes[c] for a, c in zip(alphas, classes, strict=True))
    shots = []
    for a, c in zip(alphas, classes, strict=True):
        share = np.exp(a) * sizes[c] / total
        shots.append(min(int(share * (support - way)) + 1, int(sizes[c]) - query))
    return name, classes, shots, query


def test_compositions_are_the_papers(source: MetaDataset) -> None:
    found = set()
    for i in range(500):
        ours = source.composition(i)
        assert (ours.name, [*ours.classes], [*ours.shots], ours.query) == by_the_paper(Streams(7).at(i))
        found.add((ours.name, ours.query == 10, ours.shots.sum() > 400))
    assert len(found) > 4  # tasks that meet the bounds and tasks that do not


def uniform(counts: list[int]) -> bool:
    """Whether a chi-square test can't tell them from equal ones."""
    return float(np.asarray(chisquare(counts))[1]) > 1e-3


def reference(sizes: np.ndarray, rng: np.random.RandomState) -> tuple[int, np.ndarray]:
    """Way and shots as in the reference implementation's sampling.py."""
    way = rng.randint(low=5, high=min(50, len(sizes)) + 1)
    images = sizes[rng.choice(len(sizes), way, replace=False)]
    remaining = images - np.minimum(10, (images // 2).min())
    size = np.minimum(np.floor(rng.uniform() * np.minimum(100, remaining) + 1).sum(), 500)
    proportions = images * np.exp(rng.uniform(np.log(0.5), np.log(2), size=images.shape))
    desired = np.floor(proportions / proportions.sum() * (size - way)).astype("int32") + 1
    return way, np.minimum(desired, remaining)


@pytest.mark.parametrize("sizes", [LETTERS, BIRDS])
def test_distributions_are_those_of_the_reference(sizes: np.ndarray) -> None:
    source, rng = MetaDataset({"one": labelled(sizes)}), np.random.RandomState(1)
    ours = [source.composition(i).shots for i in range(2000)]
    theirs = [reference(sizes, rng)[1] for _ in range(2000)]
    ways = Counter(len(shots) for shots in ours)
    assert sorted(ways) == list(range(5, min(50, len(sizes)) + 1)) and uniform([*ways.values()])
    for statistic in (np.sum, np.max, np.std):
        assert float(np.asarray(ks_2samp([statistic(s) for s in ours], [statistic(s) for s in theirs]))[1]) > 1e-3


def test_data_sets_groups_and_classes_are_drawn_uniformly(source: MetaDataset) -> None:
    tasks = [source.composition(i) for i in range(2000)]
    letters = [task for task in tasks if task.name == "letters"]
    assert uniform([len(letters), 2000 - len(letters)])
    held = [sum(set(task.classes.tolist()) <= set(group) for task in letters) for group in GROUPS]
    assert sum(held) == len(letters) and uniform(held)
    drawn = Counter(int(task.classes[0]) for task in tasks if task.name == "birds")
    assert len(drawn) == 12 and uniform([*drawn.values()])


def test_nodes_of_a_hierarchy_are_taken_whole_or_fifty_of_their_classes() -> None:
    nodes = [list(range(0, 7)), list(range(60)), list(range(3, 15))]  # as ImageNet's: they overlap, and differ in size
    source = MetaDataset({"letters": labelled(LETTERS)}, groups={"letters": nodes}, whole={"letters"})
    tasks = [source.composition(i) for i in range(300)]
    ways = Counter(len(task.classes) for task in tasks)
    assert sorted(ways) == [7, 12, 50] and uniform([*ways.values()])
    assert all(sorted(task.classes) == nodes[0] for task in tasks if len(task.classes) == 7)
    large = Counter(int(c) for task in tasks for c in task.classes if len(task.classes) == 50)
    assert len(large) == 60


def test_episodes_hold_what_the_composition_says(source: MetaDataset) -> None:
    for i, (support, query) in enumerate(source.batch(0, 100)):
        name, classes, shots, queries = source.composition(i)
        at = 1000 if name == "birds" else 0
        for part, counts in ((support, shots), (query, np.full(len(classes), queries))):
            assert part.y.shape == (counts.sum(), len(classes)) and part.y.sum(1).eq(1).all()
            assert part.x[:, 0].equal(torch.from_numpy(np.repeat(classes, counts)).float() + at)
            assert part.y.argmax(1).equal(torch.from_numpy(np.repeat(np.arange(len(classes)), counts)))
        rows = [tuple(row) for row in torch.cat([support.x, query.x]).tolist()]
        assert len(set(rows)) == len(rows)  # no example twice


def test_examples_of_a_class_are_drawn_uniformly() -> None:
    # pitfall: examples that are not shuffled within their class, as in the first releases of the benchmark
    source = MetaDataset({"birds": labelled(BIRDS)})
    drawn = Counter(int(k) for episode in source.batch(0, 300) for k in episode.query.x[:, 1])
    assert len(drawn) == 20 and max(drawn.values()) < 1.15 * min(drawn.values())


def test_a_task_depends_on_seed_and_number_alone(source: MetaDataset) -> None:
    whole, part = source.batch(0, 8), source.batch(5, 3)
    for one, other in zip(whole[5:], part, strict=True):
        assert all(a.equal(b) for a, b in zip([*one.support, *one.query], [*other.support, *other.query], strict=True))
    other = MetaDataset({"letters": labelled(LETTERS), "birds": labelled(BIRDS)}, 8)
    assert any(len(other.composition(i).shots) != len(source.composition(i).shots) for i in range(8))


def test_learners_train_and_are_judged_on_ragged_tasks(source: MetaDataset) -> None:
    learner = ProtoNet(torch.nn.Linear(2, 4))
    losses = fit(learner, source, torch.optim.SGD(learner.parameters(), 1e-9), steps=2, batch=3)
    assert len(losses) == 2 and len(evaluate(learner, source, tasks=20).values) == 20


def test_uint8_becomes_zero_to_one() -> None:
    data = Labelled(
        torch.full((100, 1, 4, 4), 255, dtype=torch.uint8), np.repeat(np.arange(10), 10), list("abcdefghij")
    )
    assert MetaDataset({"white": data}).batch(0, 1)[0].support.x.eq(1).all()


def test_mistakes_are_named() -> None:
    five = labelled(np.full(5, 4))
    with pytest.raises(DataError, match=r"small has 4 classes.*tasks want 5"):
        MetaDataset({"five": five, "small": labelled(BIRDS[:4])})
    with pytest.raises(DataError, match="five has 2 classes, or a group of so few"):
        MetaDataset({"five": five}, groups={"five": [range(5), [3, 4]]})
    with pytest.raises(DataError, match="groups of five name classes beyond its 5"):
        MetaDataset({"five": five}, groups={"five": [range(1, 6)]})
    with pytest.raises(DataError, match=r"groups of \['six'\] and data sets \['five'\]"):
        MetaDataset({"five": five}, groups={"six": [range(5)]})
    with pytest.raises(DataError, match="class 'class2' of lone has 1 examples"):
        MetaDataset({"lone": labelled(np.array([3, 3, 1, 3, 3]))})
    with pytest.raises(DataError, match=r"examples of wide have shape \(3,\), others \(2,\): .*fitted"):
        MetaDataset({"five": five, "wide": five._replace(x=torch.rand(20, 3))})
    with pytest.raises(DataError, match="five holds NaN"):
        MetaDataset({"five": five._replace(x=five.x / 0)})
    with pytest.raises(DataError, match=r"data sets \[\]"):
        MetaDataset({})
