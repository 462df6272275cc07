"""From labelled examples to episodes: index logic only, no images."""

import functools
from collections.abc import Callable
from functools import partial
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.data import Dataset

from mapsto.data.labelled import Labelled
from mapsto.data.streams import MOST, Streams, choices, uniform
from mapsto.episode import Episode, Episodes, Examples, Range, Shape, Tree, stack
from mapsto.errors import DataError

AHEAD = 2**15
"""Random numbers drawn at a time, for tasks to come: the calls then cost next to nothing."""


class Tasks(Dataset):
    """Classification tasks over labelled examples: an endless, random-access sequence of episodes.

    Task i is a pure function of (seed, i): `tasks[i]` is the same for any number of workers and ranks and after any
    resume. Each task draws its classes and its examples without replacement, and numbers the classes afresh, by one
    map for support and query. `tasks.batch(start, size)` makes many at once, straight from memory; the stock
    `DataLoader(tasks, batch_size=4, collate_fn=mapsto.stack)` works too.

    Args:
        data: `Labelled` examples, a pair `(x, labels)` of arrays or tensors (`x` may be a dict of them), or a torch
            `Dataset` of `(x, label)` pairs, which is read through once for its labels.
        way, shot, query: classes a task, support and query examples a class; a pair `(low, high)` varies.
        seed: which sequence of tasks.
        transform: from gathered examples `[n, ...]` to model inputs; by default uint8 becomes float in [0, 1].
        device: where examples in memory are kept and episodes are made.
        length: what `len` says, for samplers that want to know; the sequence has no end.

    Raises:
        DataError: there are fewer classes than `way`, a class has fewer examples than `shot + query`, or NaN in `x`.
    """

    def __init__(
        self,
        data: Labelled | tuple[Tree, Any] | Dataset,
        way: Range = 5,
        shot: Range = 1,
        query: int = 15,
        *,
        seed: int = 0,
        transform: Callable[[Tree], Tree] | None = None,
        device: torch.device | str = "cpu",
        length: int = 1_000_000,
    ) -> None:
        self.shape, self.seed, self.length = Shape(way, shot, query), seed, length
        self._transform = transform or to_float
        if isinstance(data, Dataset):
            labels = np.asarray([int(data[i][1]) for i in range(len(data))])  # type: ignore[arg-type]
            self._fetch = partial(_read, data)
            self._device, names = torch.device("cpu"), None
        else:
            x = tree_map(lambda leaf: torch.as_tensor(leaf).to(device), data[0])
            labels = np.asarray(data[1])
            names = data.names if isinstance(data, Labelled) else None
            self._device = torch.device(device)
            check_values(x, len(labels))
            self._fetch = partial(gather, x)
            if transform is None and type(x) is Tensor and packs(x):
                self._fetch = partial(unpacked, packed(x), x.shape[1:])
        classes, labels = np.unique(labels, return_inverse=True)
        self.names = [names[c] for c in classes] if names else [str(c) for c in classes]
        self.sizes = np.bincount(labels)
        # Row c: where the examples of class c stand, then padding that is never drawn.
        self._members = np.zeros((len(classes), self.sizes.max(initial=0)), np.int64)
        order = np.argsort(labels, kind="stable")
        for c, (end, size) in enumerate(zip(self.sizes.cumsum(), self.sizes, strict=True)):
            self._members[c, :size] = order[end - size : end]
        self._check_shape()
        self._ahead: tuple[Any, np.ndarray] = None, np.empty(0)

    def _check_shape(self) -> None:
        way, need = _high(self.shape.way), _high(self.shape.shot) + self.shape.query
        low, high = ((bound(self.shape.way), bound(self.shape.shot)) for bound in (_low, _high))
        if min(*low, self.shape.query) < 1 or any(a > b for a, b in zip(low, high, strict=True)):
            raise DataError(f"way, shot and query must be at least 1, and a range's low end first; got {self.shape}")
        if way > len(self.names):
            raise DataError(f"{way}-way tasks want {way} classes, but there are {len(self.names)}: lower the way")
        small = int(self.sizes.argmin())
        if self.sizes[small] < need:
            raise DataError(
                f"class {self.names[small]!r} has {self.sizes[small]} examples, but shot + query = {need}: "
                "lower them or drop the class"
            )

    def replace(self, way: Range | None = None, shot: Range | None = None, query: int | None = None) -> Self:
        """The same examples and seed in tasks of another shape (the arguments given)."""
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__)
        other.shape = self.shape.changed(way, shot, query)
        other._check_shape()
        return other

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, i: int) -> Episode:
        """Task i: one `Episode` with one-hot float targets, examples sorted by class."""
        if not 0 <= i < self.length:
            raise IndexError(f"task {i} of {self.length}")
        classes, picks, shot = self._draw(Streams(self.seed).at(i))
        return self._episode(picks[None], shot, len(classes), tasks=None)

    def batch(self, start: int, size: int) -> Episodes:
        """Tasks `start` to `start + size - 1`: one many-task `Episode`, or a list where their shapes differ."""
        if isinstance(self.shape.way, int) and isinstance(self.shape.shot, int):
            return self._episode(self._draws(start, size), self.shape.shot, self.shape.way, tasks=size)
        streams = Streams(self.seed)
        draws = [self._draw(streams.at(start + k)) for k in range(size)]
        return stack([self._episode(picks[None], shot, len(classes), tasks=None) for classes, picks, shot in draws])

    def classes(self, i: int) -> list[int]:
        """The classes of task i, in the order of its labels, as indices into `names`."""
        return self._draw(Streams(self.seed).at(i))[0].tolist()

    def _draw(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, int]:
        """A task's classes `[way]`, its examples `[way, shot + query]` as rows of x, and its shot."""
        way, shot = _pick(rng, self.shape.way), _pick(rng, self.shape.shot)
        classes = rng.choice(len(self.names), way, replace=False)
        return classes, self._picks(classes, rng.random((way, self._members.shape[1])), shot), shot

    def _draws(self, start: int, size: int) -> np.ndarray:
        """The examples `[tasks, way, shot + query]` that `_draw` gives, of many tasks of one shape."""
        rows = max(1, AHEAD // (_high(self.shape.way) * self._members.shape[1]))
        found = []
        for block in range(start // rows, (start + size - 1) // rows + 1):
            key = self.shape, self.seed, block
            if self._ahead[0] != key:
                self._ahead = key, self._block(block * rows, rows)
            found.append(self._ahead[1])
        return (np.concatenate(found) if found[1:] else found[0])[start % rows :][:size]

    def _block(self, start: int, size: int) -> np.ndarray:
        """As `_draws`, all at once."""
        streams, (n, most) = Streams(self.seed), self._members.shape
        way, shot = _high(self.shape.way), _high(self.shape.shot)
        if n > MOST:
            return np.stack([self._draw(streams.at(start + k))[1] for k in range(size)])
        first = way - (way == n)  # words that the choice of classes takes
        words = streams.words(start, size, first + way * most)
        classes, right = choices(words[:, :first], n, way)
        picks = self._picks(classes, uniform(words[:, first:]).reshape(size, way, most), shot)
        for k in np.flatnonzero(~right):
            picks[k] = self._draw(streams.at(start + int(k)))[1]
        return picks

    def _picks(self, classes: np.ndarray, keys: np.ndarray, shot: int) -> np.ndarray:
        """The examples of `classes` that have the least keys `[..., way, most]`."""
        sizes = self.sizes[classes]
        if sizes.min() < keys.shape[-1]:
            keys[np.arange(keys.shape[-1]) >= sizes[..., None]] = 2.0  # padding comes last
        return self._members[classes[..., None], keys.argsort(axis=-1)[..., : shot + self.shape.query]]

    def _episode(self, picks: np.ndarray, shot: int, way: int, tasks: int | None) -> Episode:
        lead = [] if tasks is None else [tasks]
        support, query = picks[:, :, :shot], picks[:, :, shot:]
        index = torch.from_numpy(np.concatenate([support, query], None)).to(self._device)
        x = self._transform(self._fetch(index))

        def examples(x: Tree, each: int) -> Examples:
            n = way * each
            y = torch.from_numpy(_targets(way, each)).to(self._device)
            y = y.clone() if tasks is None else y.expand(tasks, n, way)
            return Examples(_map(lambda leaf: leaf.view(*lead, n, *leaf.shape[1:]), x), y)

        first = support.size
        given, asked = _map(lambda leaf: leaf[:first], x), _map(lambda leaf: leaf[first:], x)
        return Episode(examples(given, shot), examples(asked, self.shape.query))


@functools.cache
def _targets(way: int, each: int) -> np.ndarray:
    """One-hot classes of examples that are sorted by class."""
    return np.eye(way, dtype=np.float32).repeat(each, 0)


def _map(function: Callable[[Tensor], Tensor], x: Tree) -> Tree:
    """`tree_map`, which alone takes as long as drawing a task."""
    return function(x) if type(x) is Tensor else tree_map(function, x)


def _pick(rng: np.random.Generator, bounds: Range) -> int:
    return bounds if isinstance(bounds, int) else int(rng.integers(bounds[0], bounds[1] + 1))


def _low(bounds: Range) -> int:
    return bounds if isinstance(bounds, int) else bounds[0]


def _high(bounds: Range) -> int:
    return bounds if isinstance(bounds, int) else bounds[1]


def to_float(x: Tree) -> Tree:
    return _map(lambda leaf: leaf.float().div_(255) if leaf.dtype == torch.uint8 else leaf, x)


_UNPACK = getattr(torch.ops.quantized, "embedding_bag_byte_rowwise_offsets", None)
PACKED = 2**27
"""Bytes up to which uint8 examples on a CPU are copied, so as to be gathered and made floats in one go."""


def packs(x: Tensor) -> bool:
    return _UNPACK is not None and x.dtype == torch.uint8 and x.device.type == "cpu" and 0 < x.numel() <= PACKED


def packed(x: Tensor) -> Tensor:
    """Rows `[n, size + 8]` as torch's quantised embeddings have them: bytes, then the scale and the zero of the row."""
    scale = torch.tensor([1 / 255, 0.0]).view(torch.uint8)
    return torch.cat([x.reshape(len(x), -1), scale.expand(len(x), -1)], 1)


def unpacked(rows: Tensor, shape: torch.Size, index: Tensor) -> Tensor:
    """The examples at an index as floats in [0, 1], in one pass over memory: half of `to_float`'s time."""
    assert _UNPACK is not None
    return _UNPACK(rows, index, torch.arange(len(index))).view(-1, *shape)


def gather(x: Tree, index: Tensor) -> Tree:
    return _map(lambda leaf: leaf.index_select(0, index), x)


def _read(data: Dataset, index: Tensor) -> Tree:
    xs = [data[int(i)][0] for i in index]
    return tree_map(lambda *leaves: torch.stack([torch.as_tensor(leaf) for leaf in leaves]), *xs)


def check_values(x: Tree, labels: int) -> None:
    for leaf in tree_leaves(x):
        if leaf.shape[0] != labels:
            raise DataError(f"there are {leaf.shape[0]} examples but {labels} labels")
        if leaf.is_floating_point() and not leaf.isfinite().all():
            row = int((~leaf.reshape(labels, -1).isfinite().all(1)).nonzero()[0])
            raise DataError(f"example {row} holds NaN or infinity: clean the data first")
