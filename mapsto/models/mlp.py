"""Multi-layer perceptrons."""

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn


class MLP(nn.Module):
    """Fully connected layers with ReLU between them; inputs are flattened. MAML's sinusoid model is `MLP(1, 1)`.

    Args:
        inputs: features of an example, all axes together.
        outputs: size of the head's output.
        hidden: sizes of the hidden layers.
    """

    def __init__(self, inputs: int, outputs: int, hidden: Sequence[int] = (40, 40)) -> None:
        super().__init__()
        sizes = [inputs, *hidden]
        self.body = nn.Sequential()
        for before, after in pairwise(sizes):
            self.body.append(nn.Linear(before, after))
            self.body.append(nn.ReLU())
        self.head = nn.Linear(sizes[-1], outputs)

    def forward(self, x: Tensor) -> Tensor:
        """`[n, ...]` to `[n, outputs]`."""
        return self.head(self.body(x.flatten(1)))
