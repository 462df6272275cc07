"""Ridge regression differentiable discriminator.

L. Bertinetto, J. Henriques, P. Torr, A. Vedaldi. Meta-learning with Differentiable Closed-form Solvers. ICLR 2019.
https://arxiv.org/abs/1805.08136. Reference implementation: https://github.com/bertinetto/r2d2.

What differs. The logarithm of lambda is learned, so that lambda stays positive; the released configuration does not
learn it (`learn_penalty=False`). As in that code lambda is for features and targets divided by sqrt(n), so here it is
multiplied by the number n of support examples. The paper's network joins the features of its last two blocks; here any
embedding will do.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from mapsto.algorithms.metric.embedded import Embedded
from mapsto.algorithms.metric.solvers import ridge
from mapsto.episode import Tree
from mapsto.losses import cross_entropy


class R2D2(Embedded):
    """Solve each task by ridge regression from features to one-hot classes, and learn features for which that works.

    Real-valued targets will do as well, with `mse` as the criterion and `scale=1.0`.

    Args:
        model: the embedding, `x -> [n, d]`. A constant feature is added to it, so there is a (penalised) bias.
        penalty: lambda, at first.
        scale: multiplies the regression's output before the criterion, at first (the reference takes 10 for Omniglot
            and CIFAR-FS, 1e-4 for mini-ImageNet). It is learned, as is a shift (which a softmax cancels).
        learn_penalty: learn lambda too.
        criterion: `(prediction, y) -> scalar`.

    Raises:
        ValueError: a penalty that is not positive.
    """

    def __init__(
        self,
        model: nn.Module,
        penalty: float = 50.0,
        scale: float = 10.0,
        learn_penalty: bool = True,
        *,
        criterion: Callable[[Tensor, Tree], Tensor] = cross_entropy,
    ) -> None:
        super().__init__()
        if penalty <= 0:
            raise ValueError(f"penalty={penalty} must be more than 0, or the regression has no unique solution")
        self.model, self.criterion = model, criterion
        self.log_penalty = nn.Parameter(torch.tensor(penalty).log(), requires_grad=learn_penalty)
        self.scale, self.shift = nn.Parameter(torch.tensor(scale)), nn.Parameter(torch.tensor(0.0))

    def learn(self, z: Tensor, y: Tensor) -> Tensor:
        """The regression's weights `[d + 1, way]`, the bias last."""
        return ridge(_with_ones(z), y, self.log_penalty.exp() * len(z))

    def score(self, what: Tensor, z: Tensor) -> Tensor:
        return self.scale * (_with_ones(z) @ what) + self.shift


def _with_ones(z: Tensor) -> Tensor:
    return pad(z, (0, 1), value=1.0)
