"""Minibatches of all classes, for learners that are trained by ordinary classification."""

from collections.abc import Callable
from typing import Any, Self

import numpy as np
import torch
from torch.nn.functional import one_hot
from torch.utils._pytree import tree_map

from mapsto.data.labelled import Labelled
from mapsto.data.streams import Streams
from mapsto.data.tasks import check_values, gather, to_float
from mapsto.episode import Episode, Examples, Range, Shape, Tree
from mapsto.errors import DataError


class Batches:
    """Minibatches of labelled examples as episodes: an empty support set, a query set with targets over all classes.

    Minibatch i is a pure function of (seed, i). Each epoch takes the examples in an order of its own, every one once;
    the last of them, too few for a minibatch, are left out.

    Args:
        data: `Labelled` examples, or a pair `(x, labels)` of arrays or tensors (`x` may be a dict of them).
        size: examples a minibatch.
        seed: which sequence of minibatches.
        transform: from gathered examples `[n, ...]` to model inputs; by default uint8 becomes float in [0, 1].
        device: where examples are kept and minibatches are made.

    Attributes:
        shape: the number of classes as the way, no support, and `size` queries in all.

    Raises:
        DataError: there are fewer examples than `size`, or NaN in `x`.
    """

    def __init__(
        self,
        data: Labelled | tuple[Tree, Any],
        size: int = 64,
        *,
        seed: int = 0,
        transform: Callable[[Tree], Tree] | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self._x = tree_map(lambda leaf: torch.as_tensor(leaf).to(device), data[0])
        classes, labels = np.unique(np.asarray(data[1]), return_inverse=True)
        check_values(self._x, len(labels))
        self.names = [data.names[c] for c in classes] if isinstance(data, Labelled) else [str(c) for c in classes]
        self._y = torch.from_numpy(labels).to(device)
        self.seed, self._transform = seed, transform or to_float
        self.shape = Shape(len(classes), 0, size)
        self._check_size()

    def _check_size(self) -> None:
        if not 1 <= self.shape.query <= len(self._y):
            raise DataError(f"a minibatch has 1 to {len(self._y)} examples (all there are), not {self.shape.query}")

    def replace(self, way: Range | None = None, shot: Range | None = None, query: int | None = None) -> Self:
        """The same examples and seed in minibatches of `query` examples.

        Raises:
            DataError: a way or shot, which minibatches do not have.
        """
        if (way, shot) != (None, None):
            raise DataError(f"minibatches have all classes and no support set: leave out way={way}, shot={shot}")
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__)
        other.shape = self.shape.changed(query=query)
        other._check_size()
        return other

    def batch(self, start: int, size: int) -> Episode:
        """Minibatches `start` to `start + size - 1`: one many-task `Episode`."""
        rows = np.stack([self._rows(i) for i in range(start, start + size)])
        index = torch.from_numpy(rows).flatten().to(self._y.device)
        x = self._transform(gather(self._x, index))
        x = tree_map(lambda leaf: leaf.view(size, -1, *leaf.shape[1:]), x)
        y = one_hot(self._y[index], len(self.names)).float().view(size, -1, len(self.names))
        return Episode(Examples(tree_map(lambda leaf: leaf[:, :0], x), y[:, :0]), Examples(x, y))

    def _rows(self, i: int) -> np.ndarray:
        epoch, place = divmod(i, len(self._y) // self.shape.query)
        order = Streams(self.seed).at(epoch).permutation(len(self._y))
        return order[place * self.shape.query : (place + 1) * self.shape.query]
