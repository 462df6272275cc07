"""Model-agnostic meta-learning.

C. Finn, P. Abbeel, S. Levine. Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks. ICML 2017.
https://arxiv.org/abs/1703.03400. Reference implementation: https://github.com/cbfinn/maml (TensorFlow 1).

What differs. The reference's classification loss is the SUM over classes of per-class means, so its gradients are `way`
times those of the mean cross-entropy used here: the paper's 5-way Omniglot rate 0.4 is `lr=2.0` here, its 20-way 0.1 is
2.0, its mini-ImageNet 0.01 is 0.05 (regression is a plain mean in both). There, batch norm's shift is meta-learned but
not adapted and has no scale; here whatever the model has adapts, unless `adapts` says otherwise.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from torch import Tensor, nn

from mapsto.algorithms.optimization.inner import InnerOptimizer, Params, trainable, unroll
from mapsto.algorithms.optimization.optimizers import SGD
from mapsto.applied import call
from mapsto.episode import Examples, Tree
from mapsto.learner import MetaLearner
from mapsto.losses import cross_entropy


class Adapted(NamedTuple):
    """What gradient-based learners learn from a task.

    Attributes:
        params: the adapted parameters by name.
        support_x: the inputs they were adapted to, for norms that take their statistics from the support set.
    """

    params: Params
    support_x: Tree


class MAML(MetaLearner):
    """Learn an initialisation from which few gradient steps solve a task (Algorithm 1 and 2 of the paper).

    `adapts="head."` is ANIL (Raghu et al. 2020), `adapts="body."` is BOIL (Oh et al. 2021).

    Args:
        model: any module of one argument (a tensor or a dict). Frozen parameters stay, shared ones move together.
        lr: inner learning rate, for a MEAN cross-entropy (papers that sum over classes state it `way` times smaller).
        steps: inner steps.
        first_order: treat inner gradients as constants (FOMAML, section 5.2).
        recompute: keep no inner step's graph but compute it again in the backward pass: memory hardly grows with the
            steps, time by about a half. For the loop and threads; vmap takes no notice.
        optimizer: takes the place of plain gradient descent with rate `lr`.
        adapts: the beginning, or several, of the names of the parameters that adapt; the default is all.
        criterion: `(prediction, y) -> scalar`, of support and query alike.
    """

    def __init__(
        self,
        model: nn.Module,
        lr: float = 0.1,
        steps: int = 3,
        first_order: bool = False,
        *,
        recompute: bool = False,
        optimizer: InnerOptimizer | None = None,
        adapts: str | Sequence[str] = "",
        criterion: Callable[[Tensor, Tree], Tensor] = cross_entropy,
    ) -> None:
        super().__init__()
        trainable(model, adapts)  # complain now, not in the first task
        self.model, self.steps, self.first_order, self.adapts = model, steps, first_order, adapts
        self.optimizer, self.recompute = optimizer or SGD(lr), recompute
        self.criterion = criterion
        self.exact = not first_order

    def adapt(self, support: Examples) -> Adapted:
        fast = unroll(
            lambda params: self.criterion(call(self.model, params, support.x), support.y),
            trainable(self.model, self.adapts),
            self.optimizer,
            self.steps or 0,
            differentiable=not self.first_order,
            recompute=list(self.parameters()) if self.recompute else None,
        )
        return Adapted(fast, support.x)

    def predict(self, fast: Adapted, x: Tree) -> Tensor:
        return call(self.model, fast.params, x, fast.support_x)
