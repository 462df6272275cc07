"""Meta networks.

T. Munkhdalai, H. Yu. Meta Networks. ICML 2017. https://arxiv.org/abs/1703.00837. Reference implementation: the authors'
Chainer code, which is no longer at its first address.

What follows the code where the paper is silent: the two networks that make fast weights do so coordinate by coordinate,
from gradients as (log size, sign); attention is the softmax of cosines; augmented layers have no bias; loss gradients
are constants to the meta-gradient, so the classifier behind the representation's loss is never trained.

What differs. There convolutions have fast weights as well, and the two learners have convolutions of their own; here
both share an embedding, any model, whose weights are slow, and fast weights belong to the layers upon it.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import grad
from torch.nn.functional import linear, normalize, relu

from mapsto.algorithms.model_based.sequence import LSTMCell, SequenceLearner
from mapsto.episode import Tree
from mapsto.losses import cross_entropy


class Fast(NamedTuple):
    """What a task teaches.

    Attributes:
        task: the representation's fast weights, Q* `[hidden, features]`.
        keys: the support set's representations, R `[n, hidden]`.
        hidden, head: each support example's fast weights of the two layers of the base learner, M, `[n, hidden,
            features]` and `[n, way, hidden]`.
    """

    task: Tensor
    keys: Tensor
    hidden: Tensor
    head: Tensor


class MetaNetworks(SequenceLearner):
    """Turn loss gradients into fast weights, of the task and of each support example (Algorithm 1 of the paper).

    A representation with weights of the task finds the examples nearest to a query, whose fast weights work beside the
    base learner's slow ones. The order of the support set matters, to an LSTM.

    Args:
        model: the embedding, `x -> [n, features]`.
        features: its size.
        way: classes of a task.
        hidden: size of the representation, and of the base learner's hidden layer.
        units: of the networks that make fast weights.
        criterion: `(logits, y) -> scalar`, of the two losses whose gradients are taken and of the queries.
    """

    exact = False

    def __init__(
        self,
        model: nn.Module,
        features: int,
        way: int,
        hidden: int = 64,
        units: int = 20,
        *,
        criterion: Callable[[Tensor, Tree], Tensor] = cross_entropy,
    ) -> None:
        super().__init__(model, way, criterion)
        self.key, self.hidden = (nn.Linear(features, hidden, bias=False) for _ in range(2))  # Q, W
        self.key_head, self.head = (nn.Linear(hidden, way, bias=False) for _ in range(2))
        self.key_head.requires_grad_(False)
        self.summary, self.summarised = LSTMCell(2, units, units), nn.Linear(units, 1)  # d
        self.hidden_maker, self.head_maker = _maker(units), _maker(units)  # m

    def read(self, z: Tensor, y: Tensor) -> Fast:
        task = self.summarise(self.gradients(self.key.weight, self.key_head.weight, z, y)[0])
        hidden, head = self.gradients(self.hidden.weight, self.head.weight, z, y)
        made = _made(self.hidden_maker, hidden), _made(self.head_maker, head)
        return Fast(task, self.represent(task, z), *made)

    def answer(self, state: Fast, z: Tensor) -> Tensor:
        looks = self.attend(state, z)
        hidden = relu(self.hidden(z)) + relu(_mixed(state.hidden, looks, z))
        return self.head(hidden) + _mixed(state.head, looks, hidden)

    def gradients(self, hidden: Tensor, head: Tensor, z: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Each example's gradient of the loss of a layer and a classifier, `[n, ...]`; constants."""

        def loss(weights: tuple[Tensor, Tensor], z: Tensor, y: Tensor) -> Tensor:
            return self.criterion(linear(relu(linear(z[None], weights[0])), weights[1]), y[None])

        with torch.no_grad():
            return torch.vmap(grad(loss), (None, 0, 0))((hidden.detach(), head.detach()), z.detach(), y)

    def summarise(self, grads: Tensor) -> Tensor:
        """Fast weights of the task from the support set's gradients `[n, ...]`, by an LSTM that sees one by one."""
        steps = self.summary.inputs(preprocess(grads.flatten(1)))
        output = cell = steps.new_zeros(steps.shape[1], self.summarised.in_features)
        for drive in steps.unbind(0):
            output, cell = self.summary(drive, output, cell)
        return self.summarised(output).view(grads.shape[1:])

    def represent(self, task: Tensor, z: Tensor) -> Tensor:
        """The representation `[n, hidden]` with slow and fast weights, r."""
        return self.key(z) + linear(z, task)

    def attend(self, state: Fast, z: Tensor) -> Tensor:
        """How much each query `[n, features]` takes from each support example: `[n, support]`."""
        return (normalize(self.represent(state.task, z), dim=1) @ normalize(state.keys, dim=1).T).softmax(1)


def preprocess(x: Tensor, p: float = 7.0) -> Tensor:
    """Size and sign of numbers of any magnitude (Andrychowicz et al. 2016, appendix A), on a new last axis of 2.

    (log|x| / p, sign x) where |x| is at least e^-p, else (-1, e^p x).
    """
    least = math.exp(-p)
    return torch.stack([x.abs().clamp(min=least).log() / p, (x / least).clamp(-1, 1)], -1)


def _maker(units: int) -> nn.Module:
    return nn.Sequential(nn.Linear(2, units), nn.ReLU(), nn.Linear(units, units), nn.ReLU(), nn.Linear(units, 1))


def _made(maker: nn.Module, grads: Tensor) -> Tensor:
    """Fast weights of the same shape as the gradients."""
    return maker(preprocess(grads)).squeeze(-1)


def _mixed(memory: Tensor, looks: Tensor, x: Tensor) -> Tensor:
    """`x` `[n, i]` through each its own mixture of weights `[support, o, i]`: `[n, o]`."""
    each = torch.einsum("koi,ni->nko", memory, x)  # a mixture of outputs is the output of the mixture
    return (looks[:, :, None] * each).sum(1)
