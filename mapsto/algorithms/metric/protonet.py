"""Prototypical networks.

J. Snell, K. Swersky, R. Zemel. Prototypical Networks for Few-shot Learning. NeurIPS 2017.
https://arxiv.org/abs/1703.05175. Reference implementation: https://github.com/jakesnell/prototypical-networks.

What differs: nothing for models with running norms (support and query go through batch norm in one batch in training);
norms of the other modes take their statistics from the set that their mode names.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from mapsto.algorithms.metric.distances import cosine, squared_euclidean
from mapsto.applied import call, norm_of
from mapsto.episode import Episode, Examples, Tree
from mapsto.learner import MetaLearner
from mapsto.losses import cross_entropy


class Prototypes(NamedTuple):
    """What a task teaches: one mean embedding a class `[way, d]` (and the support inputs, for norms that want them)."""

    mean: Tensor
    support_x: Tree


class ProtoNet(MetaLearner):
    """Classify by the distance to each class's mean embedding (equations 1 and 2 of the paper).

    Any number of classes, also another one at test than in training. Embeddings `[n, d, h, w]` with masks
    `[n, way, h, w]` segment: each pixel is an example.

    Args:
        model: the embedding, `x -> [n, d]` or `[n, d, h, w]`.
        distance: "euclidean" (squared, as the paper finds best) or "cosine".
        temperature: divides the logits. Cosine similarities lie in [-1, 1], so they want a small one (0.1).
        criterion: `(logits, y) -> scalar`.
    """

    headless = True

    def __init__(
        self,
        model: nn.Module,
        distance: Literal["euclidean", "cosine"] = "euclidean",
        temperature: float = 1.0,
        *,
        criterion: Callable[[Tensor, Tree], Tensor] = cross_entropy,
    ) -> None:
        super().__init__()
        if distance not in ("euclidean", "cosine"):
            raise ValueError(f"distance={distance!r} is neither 'euclidean' nor 'cosine'")
        self.model, self.distance, self.temperature, self.criterion = model, distance, temperature, criterion

    def embed(self, x: Tree, support_x: Tree = None) -> Tensor:
        """Embeddings with the features last: `[n, d]` or `[n, h, w, d]`."""
        return call(self.model, {}, x, support_x).movedim(1, -1)

    def adapt(self, support: Examples) -> Prototypes:
        return Prototypes(_means(self.embed(support.x), support.y), support.x)

    def predict(self, fast: Prototypes, x: Tree) -> Tensor:
        return self._logits(fast.mean, self.embed(x, fast.support_x))

    def loss(self, episode: Episode) -> Tensor:
        if norm_of(self.model) not in ("none", "running"):
            return super().loss(episode)  # each set has statistics of its own
        # One pass for both sets: faster, and running norms see in training the batch that the paper's do.
        support, query = episode
        rows = tree_leaves(support.x)[0].shape[0]
        both = tree_map(lambda *parts: torch.cat(parts), support.x, query.x)
        z = self.embed(both)
        return self.criterion(self._logits(_means(z[:rows], support.y), z[rows:]), query.y)

    def _logits(self, means: Tensor, z: Tensor) -> Tensor:
        logits = cosine(z, means) if self.distance == "cosine" else -squared_euclidean(z, means)
        return (logits / self.temperature).movedim(-1, 1)


def _means(z: Tensor, y: Tensor) -> Tensor:
    z, y = z.flatten(0, -2), y.movedim(1, -1).flatten(0, -2)
    return (y.T @ z) / y.sum(0)[:, None]
