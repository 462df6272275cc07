"""Siamese networks.

G. Koch, R. Zemel, R. Salakhutdinov. Siamese Neural Networks for One-shot Image Recognition. ICML Deep Learning Workshop
2015. https://www.cs.cmu.edu/~rsalakhu/papers/oneshot1.pdf. The authors published no code.

What differs. The paper draws pairs from all training images, as many of one class as of two, and distorts them; here
the pairs are all those within a task, both kinds weighing a half each. Any embedding will do, where the paper's ends in
a layer of 4,096 sigmoids. The paper has one example a class at test; of several the verdicts are averaged. The
contrastive and the triplet loss are from other papers, named in pairs.py.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from mapsto.algorithms.metric import pairs
from mapsto.algorithms.metric.embedded import Embedded
from mapsto.algorithms.metric.mining import MINERS
from mapsto.episode import Episode, Tree


class Known(NamedTuple):
    """What a task teaches: its support examples' embeddings `[n, features]` and their targets `[n, way]`."""

    z: Tensor
    y: Tensor


class Siamese(Embedded):
    """Learn from pairs whether two examples are of one class; then take the class that a query most resembles.

    Any number of classes, also another one at test than in training. `predict` gives, averaged over each class's
    examples, the log-odds that query and example are of one class (verification) or minus their distance (else).

    Args:
        model: the embedding, `x -> [n, features]`.
        features: the embedding's size.
        objective: "verification", p = sigmoid(w |z1 - z2| + b) and binary cross-entropy (the paper's section 3);
            "contrastive"; "triplet"; or a function `(z [n, features], labels [n]) -> scalar`, such as a loss of
            pytorch-metric-learning. All see the task's support and query examples together.
        margin: of "contrastive" and "triplet", in units of distance (or of its square).
        squared: contrastive: the squared terms of its paper, else a plain hinge; triplet: squared distances, as in its
            paper, else plain ones.
        mining: the triplets to learn from: "random", "semihard" or "hard" (mining.py); or, with an objective of your
            own, a function `(z, labels) -> indices` such as a miner of pytorch-metric-learning, whose result is the
            objective's third argument.
        unit: give embeddings unit length, as FaceNet and by default pytorch-metric-learning do.

    Raises:
        ValueError: an unknown objective or mining.
    """

    def __init__(
        self,
        model: nn.Module,
        features: int,
        objective: Literal["verification", "contrastive", "triplet"] | Callable[..., Tensor] = "verification",
        *,
        margin: float = 1.0,
        squared: bool = True,
        mining: Literal["random", "semihard", "hard"] | Callable[[Tensor, Tensor], Any] = "semihard",
        unit: bool = False,
    ) -> None:
        super().__init__()
        known = ("verification", "contrastive", "triplet")
        if isinstance(objective, str) and objective not in known:
            raise ValueError(f"objective={objective!r} is none of {', '.join(known)}, nor a function")
        if isinstance(mining, str) and mining not in MINERS:
            raise ValueError(f"mining={mining!r} is none of {', '.join(MINERS)}, nor a function")
        if isinstance(objective, str) and not isinstance(mining, str):
            raise ValueError(f"a miner of your own goes with an objective of your own, not with {objective!r}")
        self.model, self.objective, self.mining = model, objective, mining
        self.margin, self.squared, self.unit = margin, squared, unit
        if objective == "verification":
            self.judge = nn.Linear(features, 1)
        # Of a foreign objective nothing is known: it may keep state, and most have shapes that depend on the data.
        self.sequential = not isinstance(objective, str)

    def resemblance(self, a: Tensor, b: Tensor) -> Tensor:
        """Log-odds of being of one class, or minus the distance, of embeddings `[..., features]`: `[...]`."""
        if self.objective == "verification":
            return self.judge((a - b).abs()).squeeze(-1)
        return -pairs.distance(a, b)

    def embed(self, x: Tree, support_x: Tree = None) -> Tensor:
        z = super().embed(x, support_x)
        return normalize(z, dim=1) if self.unit else z

    def learn(self, z: Tensor, y: Tensor) -> Known:
        return Known(z, y)

    def score(self, what: Known, z: Tensor) -> Tensor:
        return self.resemblance(z[:, None], what.z) @ (what.y / what.y.sum(0))

    def loss(self, episode: Episode) -> Tensor:
        z = torch.cat(self.both(episode))
        y = torch.cat([episode.support.y, episode.query.y])
        if not isinstance(self.objective, str):
            labels = y.argmax(1)
            mined = () if isinstance(self.mining, str) else (self.mining(z, labels),)
            return self.objective(z, labels, *mined)
        same = pairs.same_class(y)
        if self.objective == "triplet":
            between = pairs.distance(z[:, None], z, self.squared)
            anchor, positive, negative, valid = MINERS[str(self.mining)](between.detach(), same)
            losses = pairs.triplet(between[anchor, positive], between[anchor, negative], self.margin)
            return pairs.mean(losses, valid)
        first, second = torch.triu_indices(len(z), len(z), 1, device=z.device)  # each pair once
        alike, same = self.resemblance(z[first], z[second]), same[first, second]
        if self.objective == "verification":
            return pairs.balanced(pairs.verification(alike, same), same)
        return pairs.balanced(pairs.contrastive(-alike, same, self.margin, self.squared), same)
