"""Meta-LSTM: the optimizer is learned.

S. Ravi, H. Larochelle. Optimization as a Model for Few-Shot Learning. ICLR 2017.
https://openreview.net/forum?id=rJY0-Kcll. Reference implementation: https://github.com/twitter-research/meta-learning-lstm
(Lua Torch).

What follows the code where the paper is silent or says otherwise: the gates read their own values before the sigmoid,
and read loss and gradient through an LSTM of their own.

What differs. The reference divides the gradient of the mean loss by the minibatch's size once more. Its running batch
statistics begin anew in each task, serve its queries at test, and make way for the queries' own in training; here norms
do what their mode says, at test as in training: "support" is nearest. Each step sees the whole support set, as the
reference's do in 5-way tasks (12 of 5 examples for one shot, 8 of 25 for five).
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from mapsto.algorithms.optimization.gradient_based import GradientBased
from mapsto.algorithms.optimization.inner import InnerOptimizer, Params
from mapsto.episode import Tree
from mapsto.losses import cross_entropy

State = tuple[Tensor, Tensor, Tensor, Tensor]
"""Of the LSTM its output and its cells `[hidden, coordinates]`; of both gates the values before the sigmoid."""


class LSTMOptimizer(InnerOptimizer):
    """An LSTM whose cell state is the model's parameters: c = f c - i g in each coordinate (equation 2 of the paper).

    The gates f and i see the gradient g, the loss, the parameter and their own value of the step before, through a
    first LSTM; all coordinates share the weights, each has a state of its own. It begins as gradient descent with rates
    between 0.007 and 0.018 and a decay of 1 to 2 % a step.

    Args:
        hidden: size of the first LSTM.
    """

    def __init__(self, hidden: int = 20) -> None:
        super().__init__()
        self.hidden = hidden
        self.weight = _uniform(-0.01, 0.01, 4 * hidden, 4 + hidden)
        self.bias = _uniform(-0.01, 0.01, 4 * hidden)
        self.forget_weight = _uniform(-0.01, 0.01, hidden + 2)
        self.forget_bias = _uniform(4, 5)
        self.input_weight = _uniform(-0.01, 0.01, hidden + 2)
        self.input_bias = _uniform(-5, -4)

    def init(self, params: Params) -> State:
        flat = _flat(params)
        hidden, gate = flat.new_zeros(self.hidden, len(flat)), flat.new_zeros(len(flat))
        return hidden, hidden, gate, gate

    def step(self, params: Params, grads: Params, state: State, loss: Tensor) -> tuple[Params, State]:
        theta, grad = _flat(params), _flat({name: grads[name] for name in params})
        h, cell, forget, write = state
        x = torch.cat([preprocess(loss)[:, None].expand(2, len(grad)), preprocess(grad)])
        h, cell = self._lstm(x, h, cell)
        forget = _gate(self.forget_weight, self.forget_bias, h, theta, forget)
        write = _gate(self.input_weight, self.input_bias, h, theta, write)
        theta = forget.sigmoid() * theta - write.sigmoid() * grad
        parts = theta.split([p.numel() for p in params.values()])
        stepped = {name: part.view(p.shape) for (name, p), part in zip(params.items(), parts, strict=True)}
        return stepped, (h, cell, forget, write)

    def _lstm(self, x: Tensor, h: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
        # Written out, because torch's own has no rule for vmap; coordinates last, which is thrice as fast.
        raw = torch.addmm(self.bias[:, None], self.weight[:, :4], x)
        gates, new = torch.addmm(raw, self.weight[:, 4:], h).split([3 * self.hidden, self.hidden])
        write, forget, output = gates.sigmoid().chunk(3)
        cell = forget * cell + write * new.tanh()
        return output * cell.tanh(), cell


def preprocess(x: Tensor, p: float = 10.0) -> Tensor:
    """Size and sign of numbers of any magnitude (Andrychowicz et al. 2016, appendix A), on a new first axis of 2.

    (log|x| / p, sign x) where |x| is at least e^-p, else (-1, e^p x).
    """
    least = math.exp(-p)
    return torch.stack([x.abs().clamp(min=least).log() / p, (x / least).clamp(-1, 1)])


class MetaLSTM(GradientBased):
    """Learn an initialisation, and an LSTM that trains the model from there (Algorithm 1 of the paper).

    Losses and gradients are constants to the meta-gradient, which flows through the gates of all steps. Its memory
    grows with them: about 600 bytes a parameter of the model and a step.

    Args:
        model: any module of one argument. Frozen parameters stay, shared ones move together.
        steps: inner steps, each on the whole support set.
        hidden: size of the LSTM that feeds the gates.
        criterion: `(prediction, y) -> scalar`, of support and query alike.
    """

    def __init__(
        self,
        model: nn.Module,
        steps: int = 12,
        hidden: int = 20,
        *,
        criterion: Callable[[Tensor, Tree], Tensor] = cross_entropy,
    ) -> None:
        super().__init__(model, LSTMOptimizer(hidden), steps, True, False, "", criterion)


def _uniform(low: float, high: float, *size: int) -> nn.Parameter:
    return nn.Parameter(torch.empty(size).uniform_(low, high))


def _flat(params: Params) -> Tensor:
    return torch.cat([p.flatten() for p in params.values()])


def _gate(weight: Tensor, bias: Tensor, h: Tensor, theta: Tensor, before: Tensor) -> Tensor:
    return weight[:-2] @ h + weight[-2] * theta + weight[-1] * before + bias
