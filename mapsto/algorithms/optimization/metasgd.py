"""Meta-SGD.

Z. Li, F. Zhou, F. Chen, H. Li. Meta-SGD: Learning to Learn Quickly for Few-Shot Learning. 2017.
https://arxiv.org/abs/1707.09835. No reference implementation by the authors is known.

What differs. The paper takes one inner step; here `steps` may be more, all with the same rates. Rates are for the mean
cross-entropy. A meta-optimizer's weight decay would pull the rates to 0: leave it off.
"""

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from mapsto.algorithms.optimization.gradient_based import GradientBased
from mapsto.algorithms.optimization.inner import trainable
from mapsto.algorithms.optimization.optimizers import CoordinateRates
from mapsto.episode import Tree
from mapsto.losses import cross_entropy


class MetaSGD(GradientBased):
    """Learn an initialisation theta and a rate alpha for each of its coordinates (Algorithm 1 of the paper).

    A task's model is theta' = theta - alpha * grad L(theta), coordinate by coordinate. Rates may be negative, so alpha
    learns the direction of the step as well as its length.

    Args:
        model: any module of one argument.
        lr: the rates' first value, or the bounds (low, high) of uniform draws.
        steps: inner steps.
        first_order: treat inner gradients as constants; the rates are learned all the same.
        adapts: the beginning, or several, of the names of the parameters that adapt; the default is all.
        criterion: `(prediction, y) -> scalar`, of support and query alike.
    """

    def __init__(
        self,
        model: nn.Module,
        lr: float | Sequence[float] = 0.1,
        steps: int = 1,
        first_order: bool = False,
        *,
        adapts: str | Sequence[str] = "",
        criterion: Callable[[Tensor, Tree], Tensor] = cross_entropy,
    ) -> None:
        rates = CoordinateRates(trainable(model, adapts), lr)
        super().__init__(model, rates, steps, first_order, False, adapts, criterion)
