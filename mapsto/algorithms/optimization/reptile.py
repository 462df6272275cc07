"""Reptile.

A. Nichol, J. Achiam, J. Schulman. On First-Order Meta-Learning Algorithms. 2018. https://arxiv.org/abs/1803.02999.
Reference implementation: https://github.com/openai/supervised-reptile (TensorFlow 1).

What differs. Minibatches cycle through one fixed random order of the support set instead of a fresh one, so that
adaptation is a pure function of the task. Without transduction the reference normalises each query together with the
support set; here `stats="support"` norms use the support set alone.
"""

from collections.abc import Callable
from itertools import chain, islice, repeat
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from mapsto.algorithms.optimization.inner import Adam, InnerOptimizer, Params, gradients, trainable
from mapsto.episode import Episode, Examples, Tree
from mapsto.learner import MetaLearner, call
from mapsto.losses import cross_entropy


class Adapted(NamedTuple):
    """Adapted parameters, the support inputs (for norms that want them), and the inner optimizer's last state."""

    params: Params
    support_x: Tree
    state: Any


class Reptile(MetaLearner):
    """Move the initialisation towards the weights that training on a task reaches (Algorithm 2 of the paper).

    The loss is half the squared distance of the initialisation to the adapted weights, which are held constant: its
    gradient is theta - phi. With `torch.optim.SGD(lr=e)` the meta-step is the paper's theta += e (phi - theta).
    The query set is not used in training.

    Args:
        model: any module of one argument.
        lr: inner learning rate (the paper's Adam; 1e-3 for 5-way Omniglot).
        steps: inner steps in training; the paper takes more of them at test (`evaluate(..., steps=50)`).
        batch: examples in an inner minibatch; None takes the whole support set.
        optimizer: takes the place of Adam with beta1 = 0, which the paper uses.
        carry: the inner optimizer's state goes on from task to task in training and its meta-trained value begins
            every test task, as the authors' code does; tasks then go one after the other.
        criterion: the inner loss.
    """

    exact = False

    def __init__(
        self,
        model: nn.Module,
        lr: float = 1e-3,
        steps: int = 5,
        *,
        batch: int | None = None,
        optimizer: InnerOptimizer | None = None,
        carry: bool = False,
        criterion: Callable[[Tensor, Tree], Tensor] = cross_entropy,
    ) -> None:
        super().__init__()
        self.model, self.steps, self.batch, self.carry = model, steps, batch, carry
        self.optimizer = optimizer or Adam(lr, betas=(0.0, 0.999))
        self.criterion = criterion
        self.sequential = carry
        if carry:
            leaves = tree_leaves(self.optimizer.init(trainable(model)))
            self._leaves = len(leaves)
            for i, leaf in enumerate(leaves):
                self.register_buffer(f"state{i}", leaf.clone())  # a fresh state may hold one tensor twice

    def _state(self, fast: Params) -> Any:
        state = self.optimizer.init(fast)
        if not self.carry:
            return state
        carried = iter([self.get_buffer(f"state{i}").clone() for i in range(self._leaves)])
        return tree_map(lambda _: next(carried), state)

    def adapt(self, support: Examples) -> Adapted:
        fast = {name: p.detach() for name, p in trainable(self.model).items()}
        state = self._state(fast)
        for x, y in self._minibatches(support):
            grads = gradients(lambda params: self.criterion(call(self.model, params, x), y), fast, False)  # noqa: B023
            with torch.no_grad():
                fast, state = self.optimizer.step(fast, grads, state)
        return Adapted(fast, support.x, state)

    def _minibatches(self, support: Examples) -> Any:
        if self.batch is None:
            return repeat(support, self.steps or 0)
        x_leaf = tree_leaves(support.x)[0]
        # NumPy's, because within vmap torch.randperm would draw another order for each task, whatever its generator.
        order = torch.from_numpy(np.random.default_rng(0).permutation(x_leaf.shape[0])).to(x_leaf.device)
        parts = [tree_map(lambda leaf, i=i: leaf[i], support) for i in order.split(min(self.batch, len(order)))]
        return islice(chain.from_iterable(repeat(parts)), self.steps or 0)

    def predict(self, fast: Adapted, x: Tree) -> Tensor:
        return call(self.model, fast.params, x, fast.support_x)

    def loss(self, episode: Episode) -> Tensor:
        fast = self.adapt(episode.support)
        if self.carry and self.training:
            for i, leaf in enumerate(tree_leaves(fast.state)):
                self.get_buffer(f"state{i}").copy_(leaf)
        theta = trainable(self.model)
        return 0.5 * torch.stack([(theta[name] - phi).square().sum() for name, phi in fast.params.items()]).sum()
