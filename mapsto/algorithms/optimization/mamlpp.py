"""MAML++.

A. Antoniou, H. Edwards, A. Storkey. How to train your MAML. ICLR 2019. https://arxiv.org/abs/1810.09502.
Reference implementation: https://github.com/AntreasAntoniou/HowToTrainYourMAMLPytorch.

What differs. Schedules count meta-steps, not epochs of 500. The reference always normalises with batch statistics and
never reads the running ones that it stores for each step; here that is `stats="transductive"`, and norms with running
statistics keep and use one set a step. The paper's cosine for the meta-rate belongs to the recipe; its reported test
scores are those of an ensemble of five checkpoints.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import islice

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mapsto.algorithms.optimization.gradient_based import Adapted
from mapsto.algorithms.optimization.inner import InnerOptimizer, Params, gradients, trainable
from mapsto.algorithms.optimization.optimizers import SGD, StepRates
from mapsto.applied import TaskNorm, call
from mapsto.episode import Episode, Examples, Tree
from mapsto.learner import MetaLearner
from mapsto.losses import cross_entropy


class MAMLPlusPlus(MetaLearner):
    """MAML with the paper's remedies (section 4), each of which can be off; with all off it is MAML.

    The two schedules follow `at_step`, which `fit` calls before each meta-step; a loop of your own should too.

    Args:
        model: any module of one argument.
        lr: inner learning rate, or the learned rates' first value, for a mean cross-entropy.
        steps: inner steps.
        multi_step: so many meta-steps long the loss is a weighted mean of the query losses after each inner step, and
            the weight goes over to the last step (`importance`); 0 is off.
        first_order_steps: so many meta-steps at the beginning are of first order; 0 is off.
        learned_rates: one learned rate for each parameter tensor and step (`StepRates`).
        step_norms: batch norms get a scale and a shift for each step (and running statistics, where they keep any).
            They are meta-learned but do not adapt; the model's own are frozen.
        adapts: the beginning, or several, of the names of the parameters that adapt; the default is all.
        criterion: `(prediction, y) -> scalar`, of support and query alike.
    """

    weights: Tensor  # a buffer, and so an input, not a constant, where the meta-step is recorded

    def __init__(
        self,
        model: nn.Module,
        lr: float = 0.1,
        steps: int = 5,
        *,
        multi_step: int = 5000,
        first_order_steps: int = 0,
        learned_rates: bool = True,
        step_norms: bool = True,
        adapts: str | Sequence[str] = "",
        criterion: Callable[[Tensor, Tree], Tensor] = cross_entropy,
    ) -> None:
        super().__init__()
        self.model, self.steps, self.adapts, self.criterion = model, steps, adapts, criterion
        self.multi_step, self.first_order_steps = multi_step, first_order_steps
        self.exact = not first_order_steps
        self.norms = _step_norms(model, steps) if step_norms else nn.ParameterDict()
        params = trainable(model, adapts)
        self.optimizer: InnerOptimizer = StepRates(params, lr, steps) if learned_rates else SGD(lr)
        self.register_buffer("weights", next(iter(params.values())).new_zeros(steps), persistent=False)
        self.at_step(0)

    def at_step(self, step: int) -> None:
        self.second_order = step >= self.first_order_steps
        self.annealing = step < self.multi_step and bool(self.steps)
        if self.annealing:
            self.weights = self.weights.new_tensor(importance(self.steps or 1, step / self.multi_step))

    def adapt(self, support: Examples) -> Adapted:
        fast: Params = {}
        for fast in self._path(support):  # noqa: B007
            pass
        return Adapted(fast, support.x)

    def predict(self, fast: Adapted, x: Tree) -> Tensor:
        return call(self.model, fast.params, x, fast.support_x)

    def loss(self, episode: Episode) -> Tensor:
        if not (self.training and self.annealing):
            return super().loss(episode)
        support, query = episode
        after = islice(self._path(support), 1, None)
        losses = [self.criterion(call(self.model, fast, query.x, support.x), query.y) for fast in after]
        return (self.weights * torch.stack(losses)).sum()

    def _path(self, support: Examples) -> Iterator[Params]:
        """The parameters after 0, 1, ... steps, each with the norms of the step that led there."""
        fast = trainable(self.model, self.adapts)
        state = self.optimizer.init(fast)
        yield fast | self._norms_of(0)
        for step in range(self.steps or 0):
            norms = self._norms_of(step)
            grads, value = gradients(
                lambda params: self.criterion(call(self.model, params | norms, support.x), support.y),  # noqa: B023
                fast,
                self.second_order,
            )
            fast, state = self.optimizer.step(fast, grads, state, value)
            yield fast | norms

    def _norms_of(self, step: int) -> Params:
        """The norms' tensors at an inner step; steps beyond those trained use the last one's."""
        return {key.replace("/", "."): rows[min(step, len(rows) - 1)] for key, rows in self.norms.items()}


def importance(steps: int, progress: float) -> list[float]:
    """The weight of each inner step's query loss; they sum to 1.

    Args:
        steps: inner steps.
        progress: 0, where all weigh the same, to 1, where the last has nearly all; the others keep 0.03 / `steps`.
    """
    others = max((1 - progress) / steps, 0.03 / steps)
    return [others] * (steps - 1) + [1 - (steps - 1) * others]


def _step_norms(model: nn.Module, steps: int) -> nn.ParameterDict:
    """One row a step of every tensor of the model's batch norms, whose own parameters are frozen."""
    rows = nn.ParameterDict()
    for path, norm in model.named_modules():
        if not isinstance(norm, (TaskNorm, _BatchNorm)):
            continue
        for name, tensor in [*norm.named_parameters(), *norm.named_buffers()]:
            if tensor.is_floating_point():  # a count of batches decides nothing
                repeated = tensor.detach().expand(steps, *tensor.shape).clone()
                rows[f"{path}.{name}".lstrip(".").replace(".", "/")] = nn.Parameter(repeated, tensor.requires_grad)
        norm.requires_grad_(False)
    return rows
