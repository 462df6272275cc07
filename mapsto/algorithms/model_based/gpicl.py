"""General-purpose in-context learning.

L. Kirsch, J. Harrison, J. Sohl-Dickstein, L. Metz. General-Purpose In-Context Learning by Meta-Learning Transformers.
2022. https://arxiv.org/abs/2212.04458. No code of the authors' is known to us.

What differs. The paper's transformer is causal and knows positions: it reads examples one after the other and is
trained to predict each label from those before it, so that it learns from every number of examples at once. Here the
support is a set, read once, and each query is answered from all of it. RMS norms take the place of layer norms, as they
are right under vmap. The paper's kind of tasks is `mapsto.data.projections`.
"""

import torch
from torch import Tensor, nn

from mapsto.algorithms.model_based.in_context import InContext
from mapsto.episode import Examples
from mapsto.learner import MetaLearner


class GPICL(MetaLearner):
    """Learning itself is what a transformer learns, from many tasks that share little but being tasks.

    A token holds an example's input and its one-hot label, a query's token zeros in the label's place. What the task
    teaches are the support's tokens as each block sees them, `[depth, n, width]`.

    Args:
        inputs: numbers of an input, all axes together.
        way: classes of a task.
        width: of the tokens.
        depth: blocks.
        heads: of the attention; must divide `width`.

    Raises:
        ValueError: `heads` does not divide `width`; in `adapt`, a task with another number of classes or of inputs.
    """

    def __init__(self, inputs: int, way: int, width: int = 64, depth: int = 4, heads: int = 4) -> None:
        super().__init__()
        self.inputs, self.way = inputs, way
        self.embed = nn.Linear(inputs + way, width)
        self.transformer = InContext(width, depth, heads)
        self.head = nn.Linear(width, way)

    def adapt(self, support: Examples) -> Tensor:
        if support.y.shape[1] != self.way:
            raise ValueError(f"GPICL was built for {self.way}-way tasks, this one is {support.y.shape[1]}-way")
        return self.transformer.read(self._tokens(support.x, support.y))

    def predict(self, fast: Tensor, x: Tensor) -> Tensor:
        unknown = x.new_zeros(x.shape[0], self.head.out_features)
        return self.head(self.transformer.answer(self._tokens(x, unknown), fast))

    def _tokens(self, x: Tensor, y: Tensor) -> Tensor:
        x = x.flatten(1)
        if x.shape[1] != self.inputs:
            raise ValueError(f"GPICL was built for {self.inputs} numbers an input, this one has {x.shape[1]}")
        return self.embed(torch.cat([x, y], 1))
