"""What learners over an embedding share: the model makes features of examples, and all else sees features only."""

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from mapsto.applied import call, norm_of
from mapsto.episode import Episode, Examples, Tree
from mapsto.learner import MetaLearner


class Learned(NamedTuple):
    """What a task teaches: what was made of its features (and the support inputs, for norms that want them)."""

    what: Tree
    support_x: Tree


class Embedded(MetaLearner, ABC):
    """A learner whose `learn` and `score` are of features, `[n, d]` or maps `[n, d, h, w]`, one task at a time."""

    headless = True
    model: nn.Module

    @abstractmethod
    def learn(self, z: Tensor, y: Tensor) -> Tree:
        """What the support set's features and targets `[n, way]` teach."""

    @abstractmethod
    def score(self, what: Tree, z: Tensor) -> Tensor:
        """The logits `[n, way]` of features."""

    def embed(self, x: Tree, support_x: Tree = None) -> Tensor:
        """The features of inputs."""
        return call(self.model, {}, x, support_x)

    def adapt(self, support: Examples) -> Learned:
        return Learned(self.learn(self.embed(support.x), support.y), support.x)

    def predict(self, fast: Learned, x: Tree) -> Tensor:
        return self.score(fast.what, self.embed(x, fast.support_x))

    def loss(self, episode: Episode) -> Tensor:
        z, q = self.both(episode)
        return self.criterion(self.score(self.learn(z, episode.support.y), q), episode.query.y)

    def both(self, episode: Episode) -> tuple[Tensor, Tensor]:
        """The features of support and query, by one pass where each set needs no statistics of its own.

        It is faster, and in training running norms see the batch that the papers' do.
        """
        support, query = episode
        if norm_of(self.model) not in ("none", "running"):
            return self.embed(support.x), self.embed(query.x, support.x)
        rows = tree_leaves(support.x)[0].shape[0]
        z = self.embed(tree_map(lambda *parts: torch.cat(parts), support.x, query.x))
        return z[:rows], z[rows:]


def class_means(z: Tensor, y: Tensor) -> Tensor:
    """The mean features `[way, d]` of each class, from features `[n, d]` and one-hot targets `[n, way]`."""
    return (y.T @ z) / y.sum(0)[:, None]
