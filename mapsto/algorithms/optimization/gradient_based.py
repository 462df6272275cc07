"""What MAML, Meta-SGD and Meta-LSTM share: a model, and an inner optimizer that adapts it."""

from abc import ABC
from collections.abc import Callable, Sequence
from typing import NamedTuple

from torch import Tensor, nn

from mapsto.algorithms.optimization.inner import InnerOptimizer, Params, trainable, unroll
from mapsto.applied import call
from mapsto.episode import Examples, Tree
from mapsto.learner import MetaLearner


class Adapted(NamedTuple):
    """What gradient-based learners learn from a task.

    Attributes:
        params: the adapted parameters by name.
        support_x: the inputs they were adapted to, for norms that take their statistics from the support set.
    """

    params: Params
    support_x: Tree


class GradientBased(MetaLearner, ABC):
    """An initialisation, and an optimizer that leads from it to a task's model; both are meta-learned.

    Args:
        model: any module of one argument (a tensor or a dict). Frozen parameters stay, shared ones move together.
        optimizer: of the inner loop.
        steps: inner steps.
        first_order: treat inner gradients as constants.
        recompute: keep no inner step's graph but compute it again in the backward pass.
        adapts: the beginning, or several, of the names of the parameters that adapt; "" is all.
        criterion: `(prediction, y) -> scalar`, of support and query alike.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: InnerOptimizer,
        steps: int,
        first_order: bool,
        recompute: bool,
        adapts: str | Sequence[str],
        criterion: Callable[[Tensor, Tree], Tensor],
    ) -> None:
        super().__init__()
        trainable(model, adapts)  # complain now, not in the first task
        self.model, self.optimizer, self.adapts, self.criterion = model, optimizer, adapts, criterion
        self.steps, self.first_order, self.recompute = steps, first_order, recompute
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
