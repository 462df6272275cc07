"""MetaOptNet: a convex classifier as the base learner.

K. Lee, S. Maji, A. Ravichandran, S. Soatto. Meta-Learning with Differentiable Convex Optimization. CVPR 2019.
https://arxiv.org/abs/1904.03758. Reference implementation: https://github.com/kjunelee/MetaOptNet.

What differs. The quadratic program is solved to convergence by an interior-point method of our own (the reference stops
the solver of OptNet after 15 iterations in training and 3 at test), then once more by a linear system at the active
constraints, through which derivatives of any order flow. The reference's ridge regression returns twice these logits,
which the learned scale makes up for.
"""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from mapsto.algorithms.metric.embedded import Embedded
from mapsto.algorithms.metric.solvers import crammer_singer, ridge
from mapsto.episode import Tree
from mapsto.losses import cross_entropy


class MetaOptNet(Embedded):
    """Solve each task by a linear classifier, itself the solution of a convex problem, on top of learned features.

    Args:
        model: the embedding, `x -> [n, d]`.
        head: "svm", the multi-class support vector machine of Crammer and Singer (2001); or "ridge", regression to
            one-hot classes. Neither has a bias.
        cost: C of the machine, which bounds the weight of an example.
        smooth: added to the diagonal of the machine's kernel, as if each example had a feature of its own, of size
            sqrt(smooth). It must be positive, so that the solution is unique.
        penalty: lambda of ridge regression.
        scale: multiplies the logits, at first; it is learned.
        criterion: `(logits, y) -> scalar`.

    Raises:
        ValueError: an unknown head, or a number that is not positive.
    """

    def __init__(
        self,
        model: nn.Module,
        head: Literal["svm", "ridge"] = "svm",
        cost: float = 0.1,
        smooth: float = 1.0,
        penalty: float = 50.0,
        scale: float = 1.0,
        *,
        criterion: Callable[[Tensor, Tree], Tensor] = cross_entropy,
    ) -> None:
        super().__init__()
        if head not in ("svm", "ridge"):
            raise ValueError(f"head={head!r} is neither 'svm' nor 'ridge'")
        if min(cost, smooth, penalty) <= 0:
            raise ValueError(f"cost={cost}, smooth={smooth} and penalty={penalty} must be more than 0")
        self.model, self.head, self.criterion = model, head, criterion
        self.cost, self.smooth, self.penalty = cost, smooth, penalty
        self.scale = nn.Parameter(torch.tensor(scale))

    def learn(self, z: Tensor, y: Tensor) -> Tensor:
        """The classifier's weights `[d, way]`."""
        if self.head == "ridge":
            return ridge(z, y, self.penalty)
        kernel = z.double() @ z.double().T + self.smooth * torch.eye(len(z)).to(z.device).double()
        return z.T @ crammer_singer(kernel, y.double(), self.cost).to(z.dtype)

    def score(self, what: Tensor, z: Tensor) -> Tensor:
        return self.scale * (z @ what)
