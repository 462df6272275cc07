"""Tasks for learners that read the support set in its order."""

from typing import Self

import numpy as np
import torch
from torch.utils._pytree import tree_leaves, tree_map

from mapsto.data.streams import Streams
from mapsto.episode import Episode, Episodes, Examples, Range, Reshapable


class Presentations:
    """A source's tasks with their support sets in random order, instead of sorted by class.

    Task i's order is a pure function of (seed, i).

    Args:
        source: such as `Tasks`.
        seed: which sequence of orders; it may be the source's own.
    """

    def __init__(self, source: Reshapable, seed: int = 0) -> None:
        self.source, self.seed, self.shape = source, seed, source.shape

    def replace(self, way: Range | None = None, shot: Range | None = None, query: int | None = None) -> Self:
        """The same tasks, but of another shape, in the same orders where as many examples are ordered."""
        return type(self)(self.source.replace(way, shot, query), self.seed)

    def batch(self, start: int, size: int) -> Episodes:
        """Tasks `start` to `start + size - 1`."""
        # The complement of the seed keeps these numbers apart from those that draw the tasks.
        streams, episodes = Streams(~self.seed), self.source.batch(start, size)

        def order(i: int, n: int) -> np.ndarray:
            return streams.at(start + i).permutation(n)

        if isinstance(episodes, Episode):
            n = tree_leaves(episodes.support)[0].shape[1]
            rows = torch.from_numpy(np.stack([order(i, n) for i in range(size)]))
            return episodes._replace(support=_ordered(episodes.support, torch.arange(size)[:, None], rows))
        counts = [tree_leaves(episode.support)[0].shape[0] for episode in episodes]
        return [
            episode._replace(support=_ordered(episode.support, torch.from_numpy(order(i, n))))
            for i, (episode, n) in enumerate(zip(episodes, counts, strict=True))
        ]


def _ordered(support: Examples, *index: torch.Tensor) -> Examples:
    return tree_map(lambda leaf: leaf[tuple(part.to(leaf.device) for part in index)], support)
