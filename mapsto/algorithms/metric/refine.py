"""Transductive refinements: a task's queries are classified together, and help each other.

M. Ren et al. Meta-Learning for Semi-Supervised Few-Shot Classification. ICLR 2018. https://arxiv.org/abs/1803.00676;
reference implementation: https://github.com/renmengye/few-shot-ssl-public.
I. Ziko, J. Dolz, E. Granger, I. Ben Ayed. Laplacian Regularized Few-Shot Learning. ICML 2020.
https://arxiv.org/abs/2006.15486; https://github.com/imtiazziko/LaplacianShot.
Y. Hu, V. Gripon, S. Pateux. Leveraging the Feature Distribution in Transfer-based Few-Shot Learning. ICANN 2021.
https://arxiv.org/abs/2006.03806; https://github.com/yhu01/PT-MAP.

What differs. Soft k-means has the queries in place of a separate set of unlabelled examples. LaplacianShot comes
without its rectification of the prototypes, which is a step of its own. PT-MAP's power transform keeps the sign of
negative features (the paper's are not negative), and its Sinkhorn iterations have a fixed number.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.nn.functional import normalize

from mapsto.algorithms.metric.distances import squared_euclidean
from mapsto.algorithms.metric.embedded import class_means
from mapsto.episode import Episode, Examples, Tree
from mapsto.learner import MetaLearner

Method = Literal["soft-kmeans", "laplacian", "pt-map"]


@runtime_checkable
class Embeds(Protocol):
    """A learner that turns inputs into features `[n, d]`."""

    def embed(self, x: Tree, support_x: Tree = None) -> Tensor:
        """The features of inputs; the support set's go with them, for norms that want them."""
        ...


class Known(NamedTuple):
    """A task's support set: features `[n, d]`, targets `[n, way]`, and the inputs, for norms that want them."""

    z: Tensor
    y: Tensor
    support_x: Tree


class Refined(MetaLearner):
    """A learner with an embedding whose queries are classified together, by prototypes that they refine.

    Such scores are higher than single new examples would get, and are marked as transductive. It trains as the learner
    itself does.

    Args:
        learner: ProtoNet, Baseline or another with `embed`. What else it does at test is not used.
        method: "soft-kmeans" (Ren et al.), "laplacian" (LaplacianShot), or "pt-map" (PT-MAP), which takes it for
            granted that all classes have equally many queries.

    Raises:
        ValueError: an unknown method, or a learner without an embedding.
    """

    headless = True
    transductive = True

    def __init__(self, learner: MetaLearner, method: Method) -> None:
        super().__init__()
        if method not in METHODS:
            raise ValueError(f"method={method!r} is none of {', '.join(METHODS)}")
        if not isinstance(learner, Embeds):
            raise ValueError(
                f"{type(learner).__name__} has no embedding to refine: take ProtoNet, Baseline or their kin"
            )
        self.learner, self.method = learner, method
        self.criterion, self.exact, self.supervised = learner.criterion, learner.exact, learner.supervised

    def adapt(self, support: Examples) -> Known:
        return Known(self._embed(support.x), support.y, support.x)

    def predict(self, fast: Known, x: Tree) -> Tensor:
        return METHODS[self.method](fast.z, fast.y, self._embed(x, fast.support_x))

    def loss(self, episode: Episode) -> Tensor:
        """The learner's own."""
        return self.learner.loss(episode)

    def _embed(self, x: Tree, support_x: Tree = None) -> Tensor:
        assert isinstance(self.learner, Embeds)
        return self.learner.embed(x, support_x)


def soft_kmeans(z: Tensor, y: Tensor, q: Tensor, steps: int = 1) -> Tensor:
    """The logits of prototypes to which queries were added, by their probabilities (Ren et al.).

    Args:
        z, y: the support set's features `[n, d]` and targets `[n, way]`.
        q: the queries' features `[m, d]`.
        steps: refinements; one, as the paper has it.
    """
    centres = class_means(z, y)
    for _ in range(steps):
        p = (-squared_euclidean(q, centres)).softmax(1).detach()  # as the reference
        centres = class_means(torch.cat([z, q]), torch.cat([y, p]))
    return -squared_euclidean(q, centres)


def laplacian(z: Tensor, y: Tensor, q: Tensor, weight: float = 1.0, neighbours: int = 2, steps: int = 20) -> Tensor:
    """The logits of queries of which neighbours agree (algorithm 1 of LaplacianShot).

    Args:
        z, y, q: as in `soft_kmeans`.
        weight: lambda, of the neighbours' votes.
        neighbours: of each query among the others (the reference's `knn=3` counts the query itself).
        steps: bound updates.
    """
    unary = -squared_euclidean(q, class_means(z, y))
    apart = squared_euclidean(q, q) + torch.diag(torch.full((len(q),), float("inf")).to(q))
    nearest = apart.topk(min(neighbours, len(q) - 1), largest=False).indices
    votes = (nearest[:, :, None] == torch.arange(len(q), device=q.device)).any(1).to(q)
    logits = unary
    for _ in range(steps):
        logits = unary + weight * (votes @ logits.softmax(1))
    return logits


def pt_map(
    z: Tensor, y: Tensor, q: Tensor, sharpness: float = 10.0, rate: float = 0.2, steps: int = 20, balance: int = 100
) -> Tensor:
    """The logarithms of probabilities by power transform and maximum a posteriori (algorithm 1 of PT-MAP).

    Args:
        z, y, q: as in `soft_kmeans`.
        sharpness: lambda, which multiplies distances.
        rate: alpha, of the centres' moves.
        steps: moves.
        balance: Sinkhorn iterations at each, which give every class its equal share of the queries.
    """
    z, q = (normalize(_power(part)) for part in (z, q))
    z, q = (normalize(part - part.mean(0)) for part in (z, q))
    centres = class_means(z, y)
    share = len(q) / y.shape[1]

    def assign(centres: Tensor) -> Tensor:
        p = (-sharpness * squared_euclidean(q, centres)).exp()  # at least exp(-40)
        for _ in range(balance):
            p = p / p.sum(1, keepdim=True)
            p = p * (share / p.sum(0))
        return p

    for _ in range(steps):
        both = class_means(torch.cat([z, q]), torch.cat([y, assign(centres)]))
        centres = centres + rate * (both - centres)
    return assign(centres).clamp_min(torch.finfo(q.dtype).tiny).log()


def _power(z: Tensor) -> Tensor:
    return torch.where(z < 0, -1.0, 1.0).to(z) * (z.abs() + 1e-6).sqrt()


METHODS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "soft-kmeans": soft_kmeans,
    "laplacian": laplacian,
    "pt-map": pt_map,
}
"""The functions of support features, support targets and query features that the names mean."""
