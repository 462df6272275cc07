"""The two nouns: labelled examples of one task, and the episode that makes a task of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch.utils._pytree import tree_leaves, tree_map

Tree = Any
"""A tensor, or a (nested) dict, tuple or list of tensors."""


class Examples(NamedTuple):
    """Labelled examples of one task.

    Attributes:
        x: inputs, a tensor `[n, ...]` or a dict of them (tokens and mask).
        y: targets that carry their size: `[n, way]` one-hot classes, `[n, d]` real values, `[n, way, h, w]` masks,
            or a dict of whatever the criterion wants (`action`, `advantage`).
    """

    x: Tree
    y: Tree


class Episode(NamedTuple):
    """One task: a support set to learn from and a query set to be judged on.

    Where every leaf has a leading `[tasks]` axis (see `stack`) it is many tasks.
    """

    support: Examples
    query: Examples


Episodes = Episode | Sequence[Episode]
"""Many tasks: one `Episode` with a leading `[tasks]` axis, or a sequence of single ones where their shapes differ."""


Range = int | tuple[int, int]
"""A number, or the bounds (both included) between which each task draws its own."""


@dataclass(frozen=True)
class Shape:
    """A task's shape: so many classes, support examples a class and query examples a class.

    A pair `(low, high)` is drawn afresh in each task.
    """

    way: Range = 5
    shot: Range = 1
    query: int = 15

    def changed(self, way: Range | None = None, shot: Range | None = None, query: int | None = None) -> "Shape":
        """This shape with what is given in place of its own."""
        return Shape(
            self.way if way is None else way,
            self.shot if shot is None else shot,
            self.query if query is None else query,
        )


@runtime_checkable
class Source(Protocol):
    """Where episodes come from: task i is a pure function of the source's seed and i (and of the learner, in RL)."""

    def batch(self, start: int, size: int) -> Episodes:
        """Tasks `start` to `start + size - 1`."""
        ...


@runtime_checkable
class Reshapable(Source, Protocol):
    """A source whose tasks can be had in another shape."""

    shape: Shape

    def replace(self, way: Range | None = None, shot: Range | None = None, query: int | None = None) -> "Reshapable":
        """The same tasks with another number of classes, support or query examples a class; None keeps it."""
        ...


def stack(episodes: Sequence[Episode]) -> Episodes:
    """Single tasks as one `Episode` with a leading `[tasks]` axis; unchanged, as a list, where their shapes differ.

    It is the `collate_fn` to give to `torch.utils.data.DataLoader`.
    """
    shapes = [[leaf.shape for leaf in tree_leaves(episode)] for episode in episodes]
    if any(shape != shapes[0] for shape in shapes):
        return list(episodes)
    return tree_map(lambda *leaves: torch.stack(leaves), *episodes)


def count(episodes: Episodes) -> int:
    """How many tasks there are.

    Raises:
        ValueError: the leaves of a many-task `Episode` do not share their first axis.
    """
    if not isinstance(episodes, Episode):
        return len(episodes)
    sizes = {leaf.shape[0] if leaf.ndim else 0 for leaf in tree_leaves(episodes)}
    if len(sizes) != 1:
        raise ValueError(
            f"the leaves of a many-task Episode share a leading [tasks] axis, but these have {sorted(sizes)}: "
            "make one of single tasks with stack([episode, ...])"
        )
    return sizes.pop()


def unstack(episodes: Episodes) -> list[Episode]:
    """The single tasks of many."""
    if not isinstance(episodes, Episode):
        return list(episodes)
    return [tree_map(lambda leaf, i=i: leaf[i], episodes) for i in range(count(episodes))]
