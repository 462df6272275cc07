"""Prototypical MAML.

E. Triantafillou et al. Meta-Dataset: A Dataset of Datasets for Learning to Learn from Few Examples. ICLR 2020.
https://arxiv.org/abs/1903.03096. Reference implementation: https://github.com/google-research/meta-dataset
(TensorFlow 1).

What differs. The reference trains by first order (`first_order=True`); the default here is second order. There, batch
norm's scale and shift do not adapt; here all parameters of the model do.
"""

from collections.abc import Callable

from torch import Tensor, nn

from mapsto.algorithms.optimization.gradient_based import Adapted
from mapsto.algorithms.optimization.inner import InnerOptimizer, Params, trainable, unroll
from mapsto.algorithms.optimization.optimizers import SGD
from mapsto.applied import call
from mapsto.episode import Examples, Tree
from mapsto.learner import MetaLearner
from mapsto.losses import cross_entropy

WEIGHT, BIAS = "prototypes/weight", "prototypes/bias"


class ProtoMAML(MetaLearner):
    """MAML whose linear head begins, in each task, as a prototypical network.

    With c_k the mean embedding of class k, w_k = 2 c_k and b_k = -||c_k||^2 give the softmax of the squared distances.
    The head is made of the support set, so any number of classes will do, also another one at test than in training.
    Meta-gradients flow through it into the embedding.

    Args:
        model: the embedding, `x -> [n, d]`.
        lr: inner learning rate, for a mean cross-entropy.
        steps: inner steps; with 0 it is a prototypical network.
        first_order: treat inner gradients as constants.
        optimizer: takes the place of plain gradient descent with rate `lr`.
        criterion: `(logits, y) -> scalar`, of support and query alike.
    """

    headless = True

    def __init__(
        self,
        model: nn.Module,
        lr: float = 0.01,
        steps: int = 3,
        first_order: bool = False,
        *,
        optimizer: InnerOptimizer | None = None,
        criterion: Callable[[Tensor, Tree], Tensor] = cross_entropy,
    ) -> None:
        super().__init__()
        trainable(model)  # complain now, not in the first task
        self.model, self.steps, self.first_order = model, steps, first_order
        self.optimizer = optimizer or SGD(lr)
        self.criterion = criterion
        self.exact = not first_order

    def head(self, support: Examples) -> Params:
        """The head at the start: its weight `[way, d]` and bias `[way]`."""
        z = call(self.model, {}, support.x)
        means = (support.y.T @ z) / support.y.sum(0)[:, None]
        return {WEIGHT: 2 * means, BIAS: -means.square().sum(1)}

    def adapt(self, support: Examples) -> Adapted:
        fast = unroll(
            lambda params: self.criterion(self._logits(params, support.x), support.y),
            trainable(self.model) | self.head(support),
            self.optimizer,
            self.steps or 0,
            differentiable=not self.first_order,
        )
        return Adapted(fast, support.x)

    def predict(self, fast: Adapted, x: Tree) -> Tensor:
        return self._logits(fast.params, x, fast.support_x)

    def _logits(self, params: Params, x: Tree, support_x: Tree = None) -> Tensor:
        embedding = {name: p for name, p in params.items() if name not in (WEIGHT, BIAS)}
        return call(self.model, embedding, x, support_x) @ params[WEIGHT].T + params[BIAS]
