"""Reptile.

A. Nichol, J. Achiam, J. Schulman. On First-Order Meta-Learning Algorithms. 2018. https://arxiv.org/abs/1803.02999.
Reference implementation: https://github.com/openai/supervised-reptile (TensorFlow 1).

What differs. The random order of each pass over the support set comes from a fixed seed, so that adaptation is a pure
function of the task. Without transduction the reference normalises each query together with the support set; here
`stats="support"` norms use the support set alone. Its loss is a sum over the minibatch: a rate of its plain gradient
descent (not of Adam) is larger here by the minibatch's size.
"""

from collections.abc import Callable, Iterable
from itertools import repeat
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from mapsto.algorithms.optimization.inner import InnerOptimizer, Params, gradients, refuse_learnable, trainable
from mapsto.algorithms.optimization.optimizers import Adam
from mapsto.applied import call
from mapsto.episode import Episode, Examples, Tree
from mapsto.learner import MetaLearner
from mapsto.losses import cross_entropy


class Adapted(NamedTuple):
    """Adapted parameters, the support inputs (for norms that want them), and the inner optimizer's last state."""

    params: Params
    support_x: Tree
    state: Any


class Reptile(MetaLearner):
    """Move the initialisation towards the weights that training on a task reaches.

    The loss is half the squared distance of the initialisation to the adapted weights, which are held constant: its
    gradient is theta - phi. With `torch.optim.SGD(lr=e)` the meta-step is the paper's theta += e (phi - theta): of
    Algorithm 1 with one task a meta-step, of Algorithm 2 with several. The query set is not used in training.

    Args:
        model: any module of one argument.
        lr: inner learning rate (the paper's Adam; 1e-3 for 5-way Omniglot).
        steps: inner steps in training; the paper takes more of them at test (`evaluate(..., steps=50)`).
        batch: examples in an inner minibatch, at most all; None takes the whole support set. As in the reference, each
            pass over the set has an order of its own, and a minibatch may span two passes.
        test_batch: the same in eval mode, where it is another (the paper: 10 in training, 5 at test).
        optimizer: takes the place of Adam with beta1 = 0, which the paper uses. It has nothing to meta-learn.
        carry: the inner optimizer's state goes on from task to task in training and its meta-trained value begins
            every test task, as the authors' code does; tasks then go one after the other.
        criterion: the inner loss.

    Raises:
        ValueError: the optimizer has no state to carry, or it has parameters to be learned.
    """

    exact = False

    def __init__(
        self,
        model: nn.Module,
        lr: float = 1e-3,
        steps: int = 5,
        *,
        batch: int | None = None,
        test_batch: int | None = None,
        optimizer: InnerOptimizer | None = None,
        carry: bool = False,
        criterion: Callable[[Tensor, Tree], Tensor] = cross_entropy,
    ) -> None:
        super().__init__()
        self.model, self.steps, self.batch, self.test_batch = model, steps, batch, test_batch
        self.optimizer = optimizer or Adam(lr, betas=(0.0, 0.999))
        refuse_learnable(self.optimizer, "Reptile")
        self.criterion = criterion
        self.carry = self.sequential = carry
        self.ordered = batch is not None or test_batch is not None
        carried = _tensors(self.optimizer.init(trainable(model))) if carry else []
        if carry and not carried:
            raise ValueError("carry=True wants an inner optimizer with a state, such as Adam: plain SGD has none")
        for i, leaf in enumerate(carried):
            self.register_buffer(f"state{i}", leaf.clone())  # a fresh state may hold one tensor twice

    def _state(self, fast: Params) -> Any:
        state = self.optimizer.init(fast)
        if not self.carry:
            return state
        carried = iter([self.get_buffer(f"state{i}").clone() for i in range(len(_tensors(state)))])
        return tree_map(lambda leaf: next(carried) if isinstance(leaf, Tensor) else leaf, state)

    def adapt(self, support: Examples) -> Adapted:
        fast = {name: p.detach() for name, p in trainable(self.model).items()}
        state = self._state(fast)
        for x, y in self._minibatches(support):
            grads, loss = gradients(
                lambda params: self.criterion(call(self.model, params, x), y),  # noqa: B023
                fast,
                differentiable=False,
            )
            with torch.no_grad():
                fast, state = self.optimizer.step(fast, grads, state, loss)
        return Adapted(fast, support.x, state)

    def _minibatches(self, support: Examples) -> Iterable[Examples]:
        steps = self.steps or 0
        size = self.batch if self.training or self.test_batch is None else self.test_batch
        if size is None:
            return repeat(support, steps)
        x_leaf = tree_leaves(support.x)[0]
        n, device = x_leaf.shape[0], x_leaf.device
        size = min(size, n)
        # NumPy's, because within vmap torch.randperm would draw another order for each task, whatever its generator.
        generator = np.random.default_rng(0)
        passes = [torch.from_numpy(generator.permutation(n)) for _ in range(1 + steps * size // n)]
        parts = torch.cat(passes).to(device).split(size)[:steps]
        return (tree_map(lambda leaf: leaf[part], support) for part in parts)  # noqa: B023

    def predict(self, fast: Adapted, x: Tree) -> Tensor:
        return call(self.model, fast.params, x, fast.support_x)

    def loss(self, episode: Episode) -> Tensor:
        fast = self.adapt(episode.support)
        if self.carry and self.training:
            for i, leaf in enumerate(_tensors(fast.state)):
                self.get_buffer(f"state{i}").copy_(leaf)
        theta = trainable(self.model)
        return 0.5 * torch.stack([(theta[name] - phi).square().sum() for name, phi in fast.params.items()]).sum()


def _tensors(state: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(state) if isinstance(leaf, Tensor)]
