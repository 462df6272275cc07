"""Context-aware meta-learning.

C. Fifty, D. Duan, R. G. Junkins, E. Amid, J. Leskovec, C. Ré, S. Thrun. Context-Aware Meta-Learning. ICLR 2024.
https://arxiv.org/abs/2310.10971. Reference implementation: https://github.com/cfifty/CAML.

What differs. The paper's features are CLIP's, and its encoder is trained on ImageNet and three other sets, to be used
on others without training; here features and tasks are whatever is given. RMS norms take the place of layer norms, as
they are right under vmap. The label vectors' dimension is chosen, not always 256.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from mapsto.applied import call
from mapsto.attention import Block
from mapsto.episode import Examples, Tree
from mapsto.learner import MetaLearner


class Demonstrations(NamedTuple):
    """What a task teaches: its support's tokens `[n, width]` (and inputs, for norms that want them)."""

    tokens: Tensor
    support_x: Tree


def elmes(way: int, size: int) -> Tensor:
    """Label vectors of equal length that are maximally equiangular, as the paper has them.

    Args:
        way: how many, at least 2.
        size: of each, at least `way`.

    Returns:
        `[way, size]`, rows of length 1 with inner products -1 / (way - 1): a simplex, in one fixed rotation.

    Raises:
        ValueError: too few of either.
    """
    if way < 2 or size < way:
        raise ValueError(
            f"label vectors of size {size} for {way} classes: take at least 2 classes, and size >= classes"
        )
    simplex = (way / (way - 1)) ** 0.5 * (torch.eye(way, dtype=torch.float64) - 1 / way)
    drawn = torch.rand(size, way, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rotation, _ = torch.linalg.qr(drawn)
    return (simplex @ rotation.T).to(torch.get_default_dtype())


class CAML(MetaLearner):
    """Classify by a look at the whole set: a sequence of the query, its label unknown, and the labelled support.

    Each example is its features, beside the fixed vector of its class (`elmes`) or a learned one for "unknown"; each
    query has a sequence of its own, in which all look at all, so that the support is read in the query's light. There
    are no positions. A permuted support changes nothing; classes that swap their vectors change a prediction as little
    as the encoder has learned to ignore which vector is whose.

    Args:
        model: the features, `x -> [n, features]`; frozen in the paper (run:FOLDER, or `mapsto.models.frozen.Frozen`),
            otherwise it learns along.
        features: their size.
        way: classes of a task.
        label: the size of the label vectors, at least `way`; a token's width is `features + label`.
        depth: blocks.
        heads: of the attention; must divide the width.

    Raises:
        ValueError: sizes that do not fit; in `adapt`, a task with another number of classes.
    """

    headless = True
    unknown: Tensor
    labels: Tensor

    def __init__(
        self, model: nn.Module, features: int, way: int, label: int = 64, depth: int = 4, heads: int = 4
    ) -> None:
        super().__init__()
        self.model, self.way, self.features = model, way, features
        width = features + label
        self.register_buffer("labels", elmes(way, label))
        self.unknown = nn.Parameter(torch.zeros(label))
        self.scale = nn.Parameter(torch.ones(()))
        self.encoder = nn.Sequential(*(Block(width, heads) for _ in range(depth)), nn.RMSNorm(width))
        self.head = nn.Linear(width, way, bias=False)

    def adapt(self, support: Examples) -> Demonstrations:
        if support.y.shape[1] != self.way:
            raise ValueError(f"CAML was built for {self.way}-way tasks, this one is {support.y.shape[1]}-way")
        vectors = support.y @ (self.scale * self.labels)
        return Demonstrations(torch.cat([call(self.model, {}, support.x), vectors], 1), support.x)

    def predict(self, fast: Demonstrations, x: Tree) -> Tensor:
        n = tree_leaves(x)[0].shape[0]
        z = call(self.model, {}, x, fast.support_x)
        asked = torch.cat([z, self.unknown.expand(n, -1)], 1)
        sequences = torch.cat([asked[:, None], fast.tokens.expand(n, -1, -1)], 1)
        return self.head(self.encoder(sequences)[:, 0])
