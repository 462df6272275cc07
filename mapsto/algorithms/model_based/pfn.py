"""Prior-data fitted networks.

S. Müller, N. Hollmann, S. Pineda Arango, J. Grabocka, F. Hutter. Transformers Can Do Bayesian Inference. ICLR 2022.
https://arxiv.org/abs/2112.10510; for tables: N. Hollmann, S. Müller, K. Eggensperger, F. Hutter. TabPFN: A Transformer
That Solves Small Tabular Classification Problems in a Second. ICLR 2023. https://arxiv.org/abs/2207.01848. Reference
implementations: https://github.com/automl/PFNs, https://github.com/automl/TabPFN (version 1).

What differs. RMS norms before each layer and at the end, there layer norms after; a perceptron four times as wide as a
token, there twice. Missing features are zeros and the others are multiplied by the square root of inputs / features,
there by inputs / features; outliers are cut off at five standard deviations, there squashed by a logarithm beyond four.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from mapsto.algorithms.model_based.bars import Bars
from mapsto.algorithms.model_based.in_context import InContext
from mapsto.episode import Examples, Tree
from mapsto.learner import MetaLearner

_FAR = 5.0
"""Standard deviations at which an outlier is cut off."""


class Table(NamedTuple):
    """What a table teaches.

    Attributes:
        mean, deviation: of the support's features, `[features]`.
        counts: how many support rows each class has, `[way]`.
        seen: the support's tokens as each block sees them, `[depth, n, width]`.
    """

    mean: Tensor
    deviation: Tensor
    counts: Tensor
    seen: Tensor


class PFN(MetaLearner):
    """Classify the rows of a table by one look at its labelled rows: inference under the prior of the training tables.

    Any number of features up to `max_inputs` and of classes up to `max_way`. Features are standardised by the support.

    Args:
        max_inputs: features that a table may have.
        max_way: classes that it may have.
        width: of the tokens.
        depth: blocks.
        heads: of the attention; must divide `width`.

    Raises:
        ValueError: `heads` does not divide `width`; in `adapt`, too many features or classes.
    """

    headless = True  # any way will do, up to max_way

    def __init__(
        self, max_inputs: int = 20, max_way: int = 10, width: int = 64, depth: int = 4, heads: int = 4
    ) -> None:
        super().__init__()
        self.max_inputs, self.max_way = max_inputs, max_way
        self.embed, self.label = nn.Linear(max_inputs, width), nn.Linear(max_way, width, bias=False)
        self.transformer = InContext(width, depth, heads)
        self.head = nn.Linear(width, max_way)

    def adapt(self, support: Examples) -> Table:
        (features, way), x = (support.x.shape[1], support.y.shape[1]), support.x
        if features > self.max_inputs or way > self.max_way:
            raise ValueError(
                f"a table of {features} features and {way} classes is too wide for this PFN, which takes "
                f"{self.max_inputs} and {self.max_way}: choose among them, or train a wider one"
            )
        mean = x.mean(0)
        # A feature that is constant in the support is none: it becomes zeros.
        variance = (x - mean).square().mean(0)
        deviation = torch.where(variance > 1e-12 * mean.square() + 1e-24, variance, torch.inf).sqrt()
        tokens = self._rows(x, mean, deviation) + self.label(_padded(support.y, self.max_way))
        return Table(mean, deviation, support.y.sum(0), self.transformer.read(tokens))

    def predict(self, fast: Table, x: Tensor) -> Tensor:
        tokens = self.transformer.answer(self._rows(x, fast.mean, fast.deviation), fast.seen)
        return self.head(tokens)[:, : len(fast.counts)]

    def _rows(self, x: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
        standard = ((x - mean) / deviation).clamp(-_FAR, _FAR)
        return self.embed(_padded(standard * (self.max_inputs / x.shape[1]) ** 0.5, self.max_inputs))


class Points(NamedTuple):
    """What points of a function teach: their tokens as each block sees them `[depth, n, width]`, and which are given
    `[n]`."""

    seen: Tensor
    mask: Tensor


class BarPFN(MetaLearner):
    """Regression of one number: a prior-data fitted network whose predictions are bar distributions.

    Predictions are logits `[n, bars]`; `bars` turns them into densities and means. The support's `x` may be a dict of
    the inputs `x` and a `mask`, false where rows are padding.

    Args:
        inputs: features.
        bars: of the distribution.
        scale: the targets' standard deviation under the prior, which decides where the bars are.
        width: of the tokens.
        depth: blocks.
        heads: of the attention; must divide `width`.

    Raises:
        ValueError: `heads` does not divide `width`, or bars that can't be.
    """

    headless = True

    def __init__(
        self, inputs: int, bars: int = 100, scale: float = 1.0, width: int = 64, depth: int = 4, heads: int = 4
    ) -> None:
        super().__init__()
        self.bars = Bars(bars, scale)
        self.criterion = self.bars.forward
        self.embed, self.target = nn.Linear(inputs, width), nn.Linear(1, width, bias=False)
        self.transformer = InContext(width, depth, heads)
        self.head = nn.Linear(width, bars)

    def adapt(self, support: Examples) -> Points:
        x, mask = _given(support.x)
        return Points(self.transformer.read(self.embed(x) + self.target(support.y), mask), mask)

    def predict(self, fast: Points, x: Tensor) -> Tensor:
        return self.head(self.transformer.answer(self.embed(x), fast.seen, fast.mask))


def _given(x: Tree) -> tuple[Tensor, Tensor]:
    if isinstance(x, dict):
        return x["x"], x["mask"].bool()
    return x, torch.ones(x.shape[0], dtype=torch.bool, device=x.device)


def _padded(x: Tensor, size: int) -> Tensor:
    """Rows with zeros at their ends, up to that size."""
    return nn.functional.pad(x, (0, size - x.shape[1]))
