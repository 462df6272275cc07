"""Meta-Dataset's tasks: of any number of classes and of unbalanced shots, from several data sets.

E. Triantafillou et al. Meta-Dataset: A Dataset of Datasets for Learning to Learn from Few Examples. ICLR 2020.
https://arxiv.org/abs/1903.03096, section 3.2. Reference implementation:
https://github.com/google-research/meta-dataset, meta_dataset/data/sampling.py.

What differs: only the sampling is here, over the data sets that you give. Images are as they come: no resizing to
84 x 84, no augmentation. The paper trains on a sequence of data sets drawn uniformly, as here, and tests on each of
them alone: give one.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from mapsto.data.labelled import Labelled
from mapsto.data.streams import Streams
from mapsto.episode import Episode, Examples
from mapsto.errors import DataError

_WAYS = (5, 50)  # the fewest and the most classes
_QUERIES = 10  # the most queries a class
_SUPPORT = 500  # the most support examples
_SHARE = 100  # the most that one class counts for in the support set's size
_ALPHA = (np.log(0.5), np.log(2.0))  # bounds of the log-weights that unbalance the classes


class Composition(NamedTuple):
    """What a task is made of.

    Attributes:
        name: of its data set.
        classes: in the order of the task's labels, indices into that data set's names, `[way]`.
        shots: support examples of each class, `[way]`.
        query: query examples a class.
    """

    name: str
    classes: np.ndarray
    shots: np.ndarray
    query: int


class MetaDataset:
    """An endless sequence of ragged tasks; task i is a pure function of (seed, i).

    A task draws its data set uniformly; where that has groups, one of them uniformly; its way, uniformly from 5 to 50
    or to as many classes as there are (or the group's whole size, up to 50); and its classes, uniformly. Then, with |c|
    the images of class c:

        queries a class   q = min(10, min_c floor(|c| / 2))
        support size      |S| = min(500, sum_c ceil(beta min(100, |c| - q))), beta ~ U(0, 1]
        a class's share   R_c = exp(alpha_c) |c| / sum_c' exp(alpha_c') |c'|, alpha_c ~ U[log 1/2, log 2)
        its shots         min(floor(R_c (|S| - way)) + 1, |c| - q)

    For Meta-Dataset's Omniglot: `data = Omniglot("background", rotations=False)` and
    `MetaDataset({"omniglot": data.train}, groups={"omniglot": alphabets(data.train.names)})`. For ImageNet the groups
    are the classes below each node of WordNet that has 5 to 392 of them, and `whole={"imagenet"}`.

    Args:
        sets: data sets by name, all with examples of one shape (`mapsto.data.fitted` brings images to one).
        seed: which sequence of tasks.
        groups: of a data set, by its name: lists of classes, of which a task draws its own from one (alphabets).
        whole: names of the data sets whose groups are taken whole, or 50 of their classes (nodes of a hierarchy).
        device: where examples are kept and episodes are made.

    Raises:
        DataError: a data set or a group has fewer than 5 classes, a class fewer than 2 examples, the data sets'
            examples differ in shape, there is NaN in them, or there is no data set.
    """

    def __init__(
        self,
        sets: Mapping[str, Labelled],
        seed: int = 0,
        *,
        groups: Mapping[str, Sequence[Sequence[int]]] | None = None,
        whole: Collection[str] = (),
        device: torch.device | str = "cpu",
    ) -> None:
        groups = groups or {}
        self.names, self.seed = list(sets), seed
        if not sets or not {*groups, *whole} <= sets.keys():
            named = sorted({*groups, *whole})
            raise DataError(f"there are groups of {named} and data sets {self.names}: give each group its set")
        self._whole = frozenset(whole)
        self._x = [data.x.to(device) for data in sets.values()]
        self._members = [_members(name, data) for name, data in sets.items()]
        self._groups = [
            [np.unique(np.asarray(group)) for group in groups.get(name, [range(len(data.names))])]
            for name, data in sets.items()
        ]
        for name, x, members, of_set in zip(self.names, self._x, self._members, self._groups, strict=True):
            _check(name, x, len(members), of_set, self._x[0].shape[1:])

    def batch(self, start: int, size: int) -> list[Episode]:
        """Tasks `start` to `start + size - 1`, one by one: examples sorted by class, one-hot float targets."""
        streams = Streams(self.seed)
        return [self._episode(streams.at(i)) for i in range(start, start + size)]

    def composition(self, i: int) -> Composition:
        """What task i is made of."""
        return self._compose(Streams(self.seed).at(i))

    def _compose(self, rng: np.random.Generator) -> Composition:
        chosen = int(rng.integers(len(self.names)))
        groups, members = self._groups[chosen], self._members[chosen]
        group = groups[rng.integers(len(groups))]
        most = min(_WAYS[1], len(group))
        way = most if self.names[chosen] in self._whole else rng.integers(_WAYS[0], most + 1)
        classes = rng.choice(group, way, replace=False)
        sizes = np.array([len(members[c]) for c in classes])
        query = min(_QUERIES, int(sizes.min()) // 2)
        left = sizes - query
        beta = 1 - rng.random()  # in (0, 1]
        support = min(_SUPPORT, int(np.ceil(beta * np.minimum(_SHARE, left)).sum()))
        weights = np.exp(rng.uniform(*_ALPHA, way)) * sizes
        shots = np.floor(weights / weights.sum() * (support - way)).astype(np.int64) + 1
        return Composition(self.names[chosen], classes, np.minimum(shots, left), query)

    def _episode(self, rng: np.random.Generator) -> Episode:
        name, classes, shots, query = self._compose(rng)
        chosen = self.names.index(name)
        orders = [rng.permutation(self._members[chosen][c]) for c in classes]
        supports = [order[:shot] for order, shot in zip(orders, shots, strict=True)]
        queries = [order[shot : shot + query] for order, shot in zip(orders, shots, strict=True)]
        return Episode(_examples(self._x[chosen], supports), _examples(self._x[chosen], queries))


def _members(name: str, data: Labelled) -> list[np.ndarray]:
    """Where the examples of each class stand."""
    sizes = np.bincount(data.y, minlength=len(data.names))
    if len(sizes) and sizes.min() < 2:
        small = int(sizes.argmin())
        raise DataError(f"class {data.names[small]!r} of {name} has {sizes[small]} examples, not 2: drop the class")
    return np.split(np.argsort(data.y, kind="stable"), sizes.cumsum()[:-1])


def _check(name: str, x: Tensor, classes: int, groups: list[np.ndarray], shape: torch.Size) -> None:
    few = min((len(group) for group in groups), default=0)
    if few < _WAYS[0]:
        raise DataError(f"{name} has {few} classes, or a group of so few, and tasks want {_WAYS[0]}: drop or merge it")
    if min(group[0] for group in groups) < 0 or max(group[-1] for group in groups) >= classes:
        raise DataError(f"the groups of {name} name classes beyond its {classes}: count from 0")
    if x.shape[1:] != shape:
        raise DataError(
            f"examples of {name} have shape {tuple(x.shape[1:])}, others {tuple(shape)}: "
            "bring them to one with mapsto.data.fitted"
        )
    if x.is_floating_point() and not x.isfinite().all():
        raise DataError(f"{name} holds NaN or infinity: clean the data first")


def _examples(x: Tensor, rows: list[np.ndarray]) -> Examples:
    """Those rows of x with a class for each array of them."""
    index = torch.from_numpy(np.concatenate(rows)).to(x.device)
    inputs = x.index_select(0, index)
    counts = torch.tensor([len(part) for part in rows], device=x.device)
    y = one_hot(torch.arange(len(rows), device=x.device).repeat_interleave(counts), len(rows)).float()
    return Examples(inputs.float().div_(255) if inputs.dtype == torch.uint8 else inputs, y)
