"""Fast context adaptation.

L. Zintgraf, K. Shiarlis, V. Kurin, K. Hofmann, S. Whiteson. Fast Context Adaptation via Meta-Learning. ICML 2019.
https://arxiv.org/abs/1810.03642. Reference implementation: https://github.com/lmzintgraf/cavia.

What differs. The reference builds the context into networks of its own; here a layer of any model can read it, because
both ways of reading are a change of that layer's parameters. A context concatenated to the layer's input adds a linear
map of the context to its bias (here that map is drawn apart from the layer's own weights, so at first on a slightly
other scale). Modulating the layer's output multiplies weight and bias and adds to the bias. The reference modulates
after pooling, which comes to the same where the scales are positive, and clamps each element of the meta-gradient to
+-10.
"""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvTransposeNd

from mapsto.algorithms.optimization.inner import InnerOptimizer, unroll
from mapsto.algorithms.optimization.optimizers import SGD
from mapsto.applied import call
from mapsto.episode import Examples, Tree
from mapsto.learner import MetaLearner
from mapsto.losses import cross_entropy


class Adapted(NamedTuple):
    """What a task teaches: its context `[context]` (and the support inputs, for norms that want them)."""

    context: Tensor
    support_x: Tree


class CAVIA(MetaLearner):
    """Share the whole network, and adapt a small context vector, zero at first, that one layer reads (Algorithm 1).

    The context is no meta-parameter; how the layer reads it is one.

    Args:
        model: any module of one argument.
        context: size of the context vector (the paper: 5 for sine waves, 100 for mini-ImageNet).
        lr: inner learning rate, for a mean loss.
        steps: inner steps.
        first_order: treat inner gradients as constants.
        at: the name of the layer that reads the context, with a weight and a bias (linear, convolution, norm); by
            default the first such layer.
        film: feature-wise linear modulation, the paper's way for images: each channel of the layer's output is
            multiplied by one affine map of the context, and another is added. Without it the context is concatenated to
            the layer's input, the paper's way for regression. In a block with batch norm the norm is the layer to name.
        optimizer: takes the place of plain gradient descent with rate `lr`.
        criterion: `(prediction, y) -> scalar`, of support and query alike.

    Raises:
        ValueError: no layer of that name can read a context.
    """

    def __init__(
        self,
        model: nn.Module,
        context: int = 5,
        lr: float = 1.0,
        steps: int = 1,
        first_order: bool = False,
        *,
        at: str | None = None,
        film: bool = False,
        optimizer: InnerOptimizer | None = None,
        criterion: Callable[[Tensor, Tree], Tensor] = cross_entropy,
    ) -> None:
        super().__init__()
        names = [name for name, part in model.named_modules() if _reads(part)]
        if not names or at not in (None, *names):
            raise ValueError(
                f"at={at!r} names no layer with a weight and a bias, through which a context could be read; "
                f"the model's: {', '.join(names) or 'none'}"
            )
        self.model, self.context, self.steps, self.first_order = model, context, steps, first_order
        self.at, self.film = names[0] if at is None else at, film
        channels = len(self._layer()[1])
        self.reader = nn.Linear(context, 2 * channels if film else channels, bias=film)
        if film:
            nn.init.kaiming_uniform_(self.reader.weight, nonlinearity="linear")  # as the reference
        self.optimizer = optimizer or SGD(lr)
        self.criterion = criterion
        self.exact = not first_order

    def adapt(self, support: Examples) -> Adapted:
        fast = unroll(
            lambda params: self.criterion(self._run(params["context"], support.x), support.y),
            {"context": self.reader.weight.new_zeros(self.context)},
            self.optimizer,
            self.steps or 0,
            differentiable=not self.first_order,
        )
        return Adapted(fast["context"], support.x)

    def predict(self, fast: Adapted, x: Tree) -> Tensor:
        return self._run(fast.context, x, fast.support_x)

    def _run(self, context: Tensor, x: Tree, support_x: Tree = None) -> Tensor:
        (weight, bias), read = self._layer(), self.reader(context)
        prefix = f"{self.at}." if self.at else ""
        if not self.film:
            return call(self.model, {f"{prefix}bias": bias + read}, x, support_x)
        scale, shift = read.chunk(2)
        rows = scale.view(-1, *[1] * (weight.ndim - 1))
        return call(self.model, {f"{prefix}weight": rows * weight, f"{prefix}bias": scale * bias + shift}, x, support_x)

    def _layer(self) -> tuple[Tensor, Tensor]:
        prefix = f"{self.at}." if self.at else ""
        return self.model.get_parameter(f"{prefix}weight"), self.model.get_parameter(f"{prefix}bias")


def _reads(layer: nn.Module) -> bool:
    """Whether it is a layer whose output's channels are the rows of its weight, plus its bias."""
    own = dict(layer.named_parameters(recurse=False))
    if not own.keys() >= {"weight", "bias"} or isinstance(layer, _ConvTransposeNd):
        return False
    return own["bias"].ndim == 1 and len(own["weight"]) == len(own["bias"])
