"""Baselines without episodes: classify all training classes, then a simple classifier on the features.

W.-Y. Chen, Y.-C. Liu, Z. Kira, Y.-C. F. Wang, J.-B. Huang. A Closer Look at Few-shot Classification. ICLR 2019.
https://arxiv.org/abs/1904.04232; reference implementation: https://github.com/wyharveychen/CloserLookFewShot.
Y. Wang, W.-L. Chao, K. Weinberger, L. van der Maaten. SimpleShot. 2019. https://arxiv.org/abs/1911.04623;
https://github.com/mileyan/simple_shot. Y. Tian, Y. Wang, D. Krishnan, J. Tenenbaum, P. Isola. Rethinking Few-Shot Image
Classification: a Good Embedding Is All You Need? ECCV 2020. https://arxiv.org/abs/2003.11539;
https://github.com/WangYueFt/rfs.

What differs. SimpleShot's mean of the training features is a running one, of the minibatches seen in training.
Baseline++ begins a task with random weights and takes minibatches of 4; here it begins with the class means and takes
the whole support set, so that the same task always ends the same. Its scale is one learned number, not one a class.
Chen et al.'s Baseline fine-tunes a linear classifier by gradient descent; Tian et al. solve for it, as here.
"""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from mapsto.algorithms.metric.distances import cosine, squared_euclidean
from mapsto.algorithms.metric.embedded import Embedded, class_means
from mapsto.algorithms.metric.solvers import logistic_regression
from mapsto.episode import Episode, Tree
from mapsto.losses import cross_entropy

MOMENTUM = 0.01
"""Of the running mean of the training features."""


class Baseline(Embedded):
    """Train an embedding by classification of all training classes, and give each new task a classifier of its own.

    SimpleShot is the default; Tian et al.'s is `classifier="logistic"`; Baseline++ is `head="cosine",
    classifier="cosine"`.

    Args:
        model: the embedding, `x -> [n, features]`.
        features: its size.
        classes: how many there are in training.
        head: of the training: "linear", or "cosine", the cosines to one learned vector a class times a learned scale.
        classifier: of a new task. "centroid": the nearest class mean, of features minus the training features' mean and
            then of length 1. "logistic": logistic regression on features of length 1. "cosine": the cosine head,
            fine-tuned by gradient descent.
        cost: of logistic regression (scikit-learn's C).
        steps, lr: of the fine-tuning.
        criterion: `(logits, y) -> scalar`, of training and fine-tuning.

    Raises:
        ValueError: an unknown head or classifier, or a fine-tuned cosine head without one to begin with.
    """

    supervised = True
    mean: Tensor

    def __init__(
        self,
        model: nn.Module,
        features: int,
        classes: int,
        head: Literal["linear", "cosine"] = "linear",
        classifier: Literal["centroid", "logistic", "cosine"] = "centroid",
        cost: float = 1.0,
        steps: int = 100,
        lr: float = 0.01,
        *,
        criterion: Callable[[Tensor, Tree], Tensor] = cross_entropy,
    ) -> None:
        super().__init__()
        if head not in ("linear", "cosine"):
            raise ValueError(f"head={head!r} is neither 'linear' nor 'cosine'")
        if classifier not in ("centroid", "logistic", "cosine"):
            raise ValueError(f"classifier={classifier!r} is none of 'centroid', 'logistic' and 'cosine'")
        if (head, classifier) == ("linear", "cosine"):
            raise ValueError("classifier='cosine' wants the scale that head='cosine' learns in training: choose both")
        self.model, self.classifier, self.cost, self.lr = model, classifier, cost, lr
        self.steps = steps if classifier == "cosine" else None
        self.head = nn.Linear(features, classes, bias=head == "linear")
        self.scale = nn.Parameter(torch.tensor(10.0)) if head == "cosine" else None
        self.criterion = criterion
        self.register_buffer("mean", torch.zeros(features))

    @property
    def sequential(self) -> bool:  # type: ignore[override]
        """In training, where the running mean takes one minibatch after the other."""
        return self.training

    def loss(self, episode: Episode) -> Tensor:
        """The criterion of the query set, whose targets are over all training classes."""
        z = super().embed(episode.query.x)
        if self.training:
            self.mean.lerp_(z.detach().mean(0), MOMENTUM)
        logits = self.head(z) if self.scale is None else self.scale * cosine(z, self.head.weight)
        return self.criterion(logits, episode.query.y)

    def embed(self, x: Tree, support_x: Tree = None) -> Tensor:
        """The features `[n, features]` that a task's classifier sees, of length 1."""
        z = super().embed(x, support_x)
        return normalize(z - self.mean if self.classifier == "centroid" else z)

    def learn(self, z: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """The classifier: weights `[way, features]` (or class means), and biases `[way]` where it has any."""
        means = class_means(z, y)
        if self.classifier == "centroid":
            return means, means.new_zeros(0)
        if self.classifier == "logistic":
            weight, bias = logistic_regression(z, y, self.cost)
            return weight.T, bias
        slope = torch.func.grad(lambda weight: self.criterion(self._cosine(weight, z), y))
        for _ in range(self.steps or 0):
            means = means - self.lr * slope(means)
        return means, means.new_zeros(0)

    def score(self, what: tuple[Tensor, Tensor], z: Tensor) -> Tensor:
        weight, bias = what
        if self.classifier == "centroid":
            return -squared_euclidean(z, weight)
        return z @ weight.T + bias if self.classifier == "logistic" else self._cosine(weight, z)

    def _cosine(self, weight: Tensor, z: Tensor) -> Tensor:
        assert self.scale is not None
        return self.scale * cosine(z, weight)
