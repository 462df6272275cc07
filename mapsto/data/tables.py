"""Synthetic tables: the prior of a network that classifies the rows of small tables.

N. Hollmann, S. Müller, K. Eggensperger, F. Hutter. TabPFN: A Transformer That Solves Small Tabular Classification
Problems in a Second. ICLR 2023. https://arxiv.org/abs/2207.01848, section 4. Reference implementation:
https://github.com/automl/TabPFN (version 1).

What differs. Simplified: causal graphs and networks are layered and their hyperparameters come from the plain ranges
below, not from mixtures of distributions; no Gaussian-process tables, no missing values, no block-wise sparsity. Added:
in some tables the class is the greatest of several numbers, not the interval that one number falls into. Labels are
always shuffled, and each class has a row in the support.
"""

from typing import Self

import numpy as np
import torch

from mapsto.data.streams import Streams
from mapsto.episode import Episode, Episodes, Examples, Range, Shape, stack
from mapsto.errors import MapstoError

Rng = np.random.Generator

_LAYERS = (2, 4)
"""Layers of a graph or network, the first, linear one included."""
_HIDDEN = (4, 32)
"""Nodes a layer (in a graph at least as many as are looked at)."""
_CAUSES = (2, 12)
"""Root nodes of a graph."""
_KEPT = (0.2, 1.0)
"""Share of edges that are not cut."""
_GAIN = (0.3, 2.0)
"""Standard deviation of a node's input for inputs of variance 1, log-uniform."""
_NOISE = (1e-3, 0.2)
"""Greatest standard deviation of a node's own noise, log-uniform."""
_GREATEST = 0.3
"""Share of tables whose class is the greatest of several numbers."""
_LEAST = 2
"""Rows that a class has."""
_ACTIVATIONS = (np.tanh, lambda v: np.maximum(v, 0), lambda v: v, np.abs, np.sin)


class Tables:
    """Classification tables drawn from a prior: x `[rows, features]`, one-hot y `[rows, way]`.

    A table's columns are either the inputs of a random network whose output decides the class, or nodes of a random
    causal graph, another node of which decides it. Table i is a pure function of (seed, i). So many consecutive tables
    share their numbers of rows, features and classes that a batch of them can be stacked.

    Args:
        way: classes, by default 2 to 10: the smaller of two numbers drawn.
        shot: labelled rows of a TABLE, not of a class: classes differ in size.
        query: rows to be classified, of a table.
        features: columns.
        together: how many consecutive tables, from 0 on, share their sizes: a divisor or multiple of the batch.
        seed: which sequence of tables.
        device: where tables are made.

    Raises:
        MapstoError: numbers that make no sense, or too few rows for so many classes.
    """

    def __init__(
        self,
        way: Range = (2, 10),
        shot: Range = (24, 128),
        query: int = 64,
        *,
        features: Range = (2, 20),
        together: int = 16,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        self._way, self._shot, self._features = _bounds(way), _bounds(shot), _bounds(features)
        for name, (low, high), least in (
            ("way", self._way, 2),
            ("shot", self._shot, 2),
            ("features", self._features, 1),
        ):
            if not least <= low <= high:
                raise MapstoError(
                    f"{name} of tables must be at least {least}, a range's low end first; got {low, high}"
                )
        if query < 1 or together < 1:
            raise MapstoError(f"query and together must be at least 1, not {query} and {together}")
        if self._shot[0] < _LEAST * self._way[1]:
            raise MapstoError(
                f"tables of up to {self._way[1]} classes want at least {_LEAST * self._way[1]} labelled rows, not "
                f"{self._shot[0]}: raise shot or lower way"
            )
        self.shape, self.features, self.together = Shape(way, shot, query), features, together
        self.seed, self.device = seed, device

    def replace(self, way: Range | None = None, shot: Range | None = None, query: int | None = None) -> Self:
        """Tables of the same seed with other numbers of classes and rows."""
        new = self.shape.changed(way, shot, query)
        return type(self)(
            new.way, new.shot, new.query,
            features=self.features, together=self.together, seed=self.seed, device=self.device,
        )  # fmt: skip

    def sizes(self, i: int) -> tuple[int, int, int]:
        """Table i's numbers of classes, labelled rows and features."""
        rng = Streams(self.seed).at(2 * (i // self.together))
        ways = rng.integers(self._way[0], self._way[1] + 1, 2)  # of two the smaller: few classes are more common
        shot, features = (int(rng.integers(low, high + 1)) for low, high in (self._shot, self._features))
        return int(ways.min()), shot, features

    def batch(self, start: int, size: int) -> Episodes:
        """Tables `start` to `start + size - 1`: one many-task `Episode`, or a list where their sizes differ."""
        return stack([self._table(i) for i in range(start, start + size)])

    def _table(self, i: int) -> Episode:
        way, shot, features = self.sizes(i)
        rng = Streams(self.seed).at(2 * i + 1)
        x, labels = draw(rng, shot + self.shape.query, features, way)
        # Each class's first row comes first, so that the support knows all of them.
        first = np.unique(labels, return_index=True)[1]
        order = np.concatenate([first, np.setdiff1d(np.arange(len(labels)), first)])
        x, y = x[order], np.eye(way, dtype=np.float32)[labels[order]]
        tensors = [torch.from_numpy(a).to(self.device) for a in (x[:shot], y[:shot], x[shot:], y[shot:])]
        return Episode(Examples(*tensors[:2]), Examples(*tensors[2:]))


def draw(rng: Rng, rows: int, features: int, way: int) -> tuple[np.ndarray, np.ndarray]:
    """One table: float32 `[rows, features]`, columns of mean 0 and variance 1 (or 0), and labels `[rows]`.

    Every class has at least two rows, and rows are in no order.
    """
    causal = rng.random() < 0.5
    greatest = way > 2 and rng.random() < _GREATEST
    wanted = way if greatest else 1
    inputs = int(rng.integers(_CAUSES[0], _CAUSES[1] + 1)) if causal else features
    roots = _roots(rng, rows, inputs)
    nodes = _nodes(rng, roots, features + wanted if causal else wanted)
    if causal:
        every = np.concatenate(nodes, 1)
        chosen = rng.permutation(every.shape[1])[: features + wanted]
        x, y = every[:, chosen[wanted:]], every[:, chosen[:wanted]]
    else:
        x, y = roots, nodes[-1][:, rng.permutation(nodes[-1].shape[1])[:wanted]]
    labels = _standard(y + 1e-3 * y.std() * rng.standard_normal(y.shape)).argmax(1) if greatest else None
    if labels is None or np.bincount(labels, minlength=way).min() < _LEAST:
        labels = _intervals(rng, y[:, 0], way)
    return _standard(_coarse(rng, x)).astype(np.float32), rng.permutation(way)[labels]


def _roots(rng: Rng, rows: int, number: int) -> np.ndarray:
    """Numbers `[rows, number]` without causes: each column normal, or of a few levels, or with a long tail."""
    roots = rng.standard_normal((rows, number))
    if rng.random() < 0.5:
        kinds = rng.random(number)
        for k in np.flatnonzero(kinds < 0.4):
            if kinds[k] < 0.25:
                levels = int(rng.integers(2, 11))
                roots[:, k] = rng.choice(levels, rows, p=rng.dirichlet(np.ones(levels)))
            else:
                roots[:, k] = np.minimum(rng.zipf(2 + 2 * rng.random(), rows), 10)
        roots = _standard(roots)
    return roots


def _nodes(rng: Rng, roots: np.ndarray, least: int) -> list[np.ndarray]:
    """The layers behind the roots, `[rows, nodes]` each, the last with at least `least` nodes."""
    activation = _ACTIVATIONS[rng.integers(len(_ACTIVATIONS))]
    hidden = max(int(rng.integers(_HIDDEN[0], _HIDDEN[1] + 1)), least)
    kept, gain, noise = rng.uniform(*_KEPT), _log_uniform(rng, *_GAIN), _log_uniform(rng, *_NOISE)
    layers, values = [], roots
    for layer in range(int(rng.integers(_LAYERS[0], _LAYERS[1] + 1))):
        inputs = values if layer == 0 else activation(values)
        weights = rng.standard_normal((inputs.shape[1], hidden))
        if layer > 0:
            weights *= rng.random(weights.shape) < kept
        spread = np.sqrt(np.square(inputs).mean() * np.square(weights).sum(0).mean()) + 1e-9
        values = gain * (inputs @ weights) / spread + rng.normal(0, gain, hidden) * (layer > 0)
        values = values + noise * np.abs(rng.standard_normal(hidden)) * rng.standard_normal(values.shape)
        if layer > 0:
            layers.append(values)
    return layers


def _intervals(rng: Rng, y: np.ndarray, way: int) -> np.ndarray:
    """Labels by the interval that a number falls into; all ways to share out the rows are equally likely."""
    spare = len(y) - _LEAST * way
    cuts = np.sort(rng.choice(spare + way - 1, way - 1, replace=False)) - np.arange(way - 1)
    sizes = np.diff(cuts, prepend=0, append=spare) + _LEAST
    ranks = np.lexsort((rng.random(len(y)), y)).argsort()  # ties are broken at random
    return np.searchsorted(sizes.cumsum(), ranks, side="right")


def _coarse(rng: Rng, x: np.ndarray) -> np.ndarray:
    """In a quarter of the tables some columns become levels, half of those in no order."""
    if rng.random() < 0.25:
        share = rng.random()
        for k in np.flatnonzero(rng.random(x.shape[1]) < share):
            levels = max(2, round(rng.gamma(1, 10)))
            column = np.searchsorted(np.sort(rng.choice(x[:, k], levels - 1)), x[:, k])
            x[:, k] = rng.permutation(levels)[column] if rng.random() < 0.5 else column
    return x


def _standard(x: np.ndarray) -> np.ndarray:
    return (x - x.mean(0)) / np.maximum(x.std(0), 1e-9)


def _log_uniform(rng: Rng, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def _bounds(numbers: Range) -> tuple[int, int]:
    return (numbers, numbers) if isinstance(numbers, int) else (int(numbers[0]), int(numbers[1]))
