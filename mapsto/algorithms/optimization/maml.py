"""Model-agnostic meta-learning.

C. Finn, P. Abbeel, S. Levine. Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks. ICML 2017.
https://arxiv.org/abs/1703.03400. Reference implementation: https://github.com/cbfinn/maml (TensorFlow 1).

What differs. The reference's classification loss is the SUM over classes of per-class means, so its gradients are `way`
times those of the mean cross-entropy used here: the paper's 5-way Omniglot rate 0.4 is `lr=2.0` here, its 20-way 0.1 is
2.0, its mini-ImageNet 0.01 is 0.05 (regression is a plain mean in both). There, batch norm's shift is meta-learned but
not adapted and has no scale; here whatever the model has adapts, unless `adapts` says otherwise.
"""

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from mapsto.algorithms.optimization.gradient_based import GradientBased
from mapsto.algorithms.optimization.inner import InnerOptimizer
from mapsto.algorithms.optimization.optimizers import SGD
from mapsto.episode import Tree
from mapsto.losses import cross_entropy


class MAML(GradientBased):
    """Learn an initialisation from which few gradient steps solve a task (Algorithm 1 and 2 of the paper).

    `adapts="head."` is ANIL (Raghu et al. 2020), `adapts="body."` is BOIL (Oh et al. 2021).

    Args:
        model: any module of one argument (a tensor or a dict). Frozen parameters stay, shared ones move together.
        lr: inner learning rate, for a MEAN cross-entropy (papers that sum over classes state it `way` times smaller).
        steps: inner steps.
        first_order: treat inner gradients as constants (FOMAML, section 5.2).
        recompute: keep no inner step's graph but compute it again in the backward pass: memory hardly grows with the
            steps, for more time. For the loop and processes; vmap takes no notice.
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
        super().__init__(model, optimizer or SGD(lr), steps, first_order, recompute, adapts, criterion)
