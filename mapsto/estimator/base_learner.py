"""Any classifier of scikit-learn's inside an episode."""

from typing import Any, NamedTuple, NoReturn

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from mapsto.applied import call
from mapsto.episode import Episode, Examples, Tree
from mapsto.estimator.heads import Head, fit_head
from mapsto.learner import MetaLearner


class Learned(NamedTuple):
    """The fitted classifier, and the support inputs for norms that take their statistics from them."""

    head: Head
    support_x: Tree


class BaseLearner(MetaLearner):
    """An embedding and, in each task, a classifier fitted to the support set's: what the field calls the base learner.

    It is for `evaluate`: scikit-learn gives no gradient, so it can't be trained with `fit`. Tasks go one by one.

    Args:
        model: the embedding, `x -> [n, d]`; train it first, in another learner.
        base: a classifier of scikit-learn's, "logistic" or "centroid" (`mapsto.estimator.heads.fit_head`).
        normalise: scale embeddings to length 1.
    """

    headless = True
    exact = False
    sequential = True

    def __init__(self, model: nn.Module, base: Any = "logistic", normalise: bool = True) -> None:
        super().__init__()
        self.model, self.base, self.normalise = model, base, normalise

    @torch.no_grad()
    def embed(self, x: Tree, support_x: Tree = None) -> Tensor:
        """Embeddings `[n, d]`, without a gradient."""
        z = call(self.model, {}, x, support_x)
        return normalize(z) if self.normalise else z

    def adapt(self, support: Examples) -> Learned:
        """Fit a copy of the classifier.

        Raises:
            ValueError: what the classifier itself complains of, such as fewer examples than neighbours.
        """
        z, labels = self.embed(support.x).cpu().numpy(), support.y.argmax(1).cpu().numpy()
        return Learned(fit_head(self.base, z, labels, support.y.shape[1]), support.x)

    def predict(self, fast: Learned, x: Tree) -> Tensor:
        """Log-probabilities `[n, way]`."""
        z = self.embed(x, fast.support_x)
        return torch.from_numpy(fast.head.logits(z.cpu().numpy())).to(z).log_softmax(1)

    def loss(self, episode: Episode) -> NoReturn:
        """There is none.

        Raises:
            ValueError: always.
        """
        raise ValueError(
            "scikit-learn gives no gradient, so a BaseLearner can't be trained: train its model in another learner, "
            "such as ProtoNet, then evaluate"
        )
