"""Prototypical networks.

J. Snell, K. Swersky, R. Zemel. Prototypical Networks for Few-shot Learning. NeurIPS 2017.
https://arxiv.org/abs/1703.05175. Reference implementation: https://github.com/jakesnell/prototypical-networks.

What differs: nothing for models with running norms (support and query go through batch norm in one batch in training);
norms of the other modes take their statistics from the set that their mode names.
"""

from collections.abc import Callable
from typing import Literal

from torch import Tensor, nn

from mapsto.algorithms.metric.distances import cosine, squared_euclidean
from mapsto.algorithms.metric.embedded import Embedded, class_means
from mapsto.episode import Tree
from mapsto.losses import cross_entropy


class ProtoNet(Embedded):
    """Classify by the distance to each class's mean embedding (equations 1 and 2 of the paper).

    Any number of classes, also another one at test than in training. Embeddings `[n, d, h, w]` with masks
    `[n, way, h, w]` segment: each pixel is an example.

    Args:
        model: the embedding, `x -> [n, d]` or `[n, d, h, w]`.
        distance: "euclidean" (squared, as the paper finds best) or "cosine".
        temperature: divides the logits. Cosine similarities lie in [-1, 1], so they want a small one (0.1).
        criterion: `(logits, y) -> scalar`.
    """

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

    def learn(self, z: Tensor, y: Tensor) -> Tensor:
        """Each class's mean embedding `[way, d]`, of examples or of their pixels."""
        z, y = z.movedim(1, -1).flatten(0, -2), y.movedim(1, -1).flatten(0, -2)
        return class_means(z, y)

    def score(self, what: Tensor, z: Tensor) -> Tensor:
        z = z.movedim(1, -1)
        logits = cosine(z, what) if self.distance == "cosine" else -squared_euclidean(z, what)
        return (logits / self.temperature).movedim(-1, 1)
