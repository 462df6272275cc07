"""Policies that learn within a task: SNAIL, and the recurrent network that it is compared with.

N. Mishra, M. Rohaninejad, X. Chen, P. Abbeel. A Simple Neural Attentive Meta-Learner. ICLR 2018.
https://arxiv.org/abs/1707.03141, section 5.2. Y. Duan et al. RL^2. 2016. https://arxiv.org/abs/1611.02779.

What differs: the sizes are ours; RL^2 has gated recurrent units, here an LSTM.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mapsto.algorithms.model_based.sequence import LSTMCell
from mapsto.algorithms.model_based.snail import Trunk
from mapsto.episode import Tree
from mapsto.rl.policy_gradient import Policy


class SNAILPolicy(Policy):
    """The trunk of `mapsto.algorithms.SNAIL` over all steps of a task.

    Args:
        inputs: numbers that it is told at a step.
        actions: to choose from.
        steps: of a task, which the temporal convolutions are made to span.
        width: what the inputs are first mapped to.
        filters, attention: as in `mapsto.algorithms.SNAIL`.
    """

    def __init__(
        self,
        inputs: int,
        actions: int,
        steps: int,
        width: int = 32,
        filters: int = 16,
        attention: Sequence[tuple[int, int]] = ((16, 16), (16, 16)),
    ) -> None:
        super().__init__()
        self.enter, self.trunk = nn.Linear(inputs, width), Trunk(width, steps, filters, attention)
        self.head = _head(self.trunk.outputs, actions)

    def read(self, x: Tensor, past: Sequence[Tree] | None = None) -> tuple[Tensor, Tensor, list[Tree]]:
        found, past = self.trunk.read(self.enter(x), past)
        out = self.head(found)
        return out[..., :-1], out[..., -1], past


class LSTMPolicy(Policy):
    """Its state is all that it remembers of a task.

    Args:
        inputs: numbers that it is told at a step.
        actions: to choose from.
        hidden: size of its state.
    """

    def __init__(self, inputs: int, actions: int, hidden: int = 64) -> None:
        super().__init__()
        self.cell, self.head, self.hidden = LSTMCell(inputs, hidden, hidden), _head(hidden, actions), hidden

    def read(
        self, x: Tensor, past: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
        zeros = x.new_zeros(len(x), self.hidden)
        output, cell = past or (zeros, zeros)
        outputs = []
        for drive in self.cell.inputs(x).unbind(1):
            output, cell = self.cell(drive, output, cell)
            outputs.append(output)
        out = self.head(torch.stack(outputs, 1))
        return out[..., :-1], out[..., -1], (output, cell)


def _head(inputs: int, actions: int) -> nn.Linear:
    """Logits and, last, a value; small at first, so that all actions are tried."""
    head = nn.Linear(inputs, actions + 1)
    with torch.no_grad():
        head.weight.mul_(0.01)
        head.bias.zero_()
    return head
