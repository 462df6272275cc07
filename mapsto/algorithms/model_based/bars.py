"""The bar distribution: a density over the real line as a classification of where a number lies.

S. Müller, N. Hollmann, S. Pineda Arango, J. Grabocka, F. Hutter. Transformers Can Do Bayesian Inference. ICLR 2022.
https://arxiv.org/abs/2112.10510, section 5 ("Riemann distribution"). Reference implementation:
https://github.com/automl/PFNs.

What differs: the borders are quantiles of a normal distribution, not of a sample of the prior.
"""

import math
from statistics import NormalDist

import torch
from torch import Tensor, nn

_HALF = NormalDist().inv_cdf(0.75)
"""Where a standard half-normal distribution has half of its mass."""


class Bars(nn.Module):
    """Densities that are constant within bars, the two outermost of which are half-normal tails.

    Called with logits and numbers it is a criterion: the mean negative log density.

    Args:
        bars: how many.
        scale: the standard deviation of the normal distribution whose quantiles the borders are.

    Raises:
        ValueError: fewer than four bars, or a scale that is not positive.
    """

    borders: Tensor

    def __init__(self, bars: int = 100, scale: float = 1.0) -> None:
        super().__init__()
        if bars < 4 or not scale > 0:
            raise ValueError(f"a bar distribution wants at least 4 bars and a positive scale, not {bars} and {scale}")
        normal = NormalDist(sigma=scale)
        self.register_buffer("borders", torch.tensor([normal.inv_cdf(k / bars) for k in range(1, bars)]))

    def log_density(self, logits: Tensor, y: Tensor) -> Tensor:
        """Of numbers `[n]`, under logits `[n, bars]`: `[n]`."""
        inner, tail = self.borders.diff(), self._tail()
        bar = (y[:, None] > self.borders).sum(1)
        mass = logits.log_softmax(1).gather(1, bar[:, None])[:, 0]
        # How far out in a tail; within the bars neither counts.
        left, right = (self.borders[0] - y).clamp(min=0), (y - self.borders[-1]).clamp(min=0)
        half = 0.5 * math.log(2 / math.pi) - tail.log() - 0.5 * (torch.maximum(left, right) / tail).square()
        flat = -inner.log()[(bar - 1).clamp(0, len(inner) - 1)]
        return mass + torch.where((bar == 0) | (bar == len(self.borders)), half, flat)

    def mean(self, logits: Tensor) -> Tensor:
        """The mean of each density, `[n]`."""
        beyond = self._tail() * math.sqrt(2 / math.pi)
        middles = (self.borders[1:] + self.borders[:-1]) / 2
        means = torch.cat([self.borders[:1] - beyond, middles, self.borders[-1:] + beyond])
        return logits.softmax(1) @ means

    def forward(self, logits: Tensor, y: Tensor) -> Tensor:
        """The mean of -log density of targets `[n, 1]` under logits `[n, bars]`, in nats.

        Raises:
            ValueError: targets of another shape.
        """
        if y.shape != (len(logits), 1):
            raise ValueError(f"a bar distribution is of one number an example, but targets have shape {tuple(y.shape)}")
        return -self.log_density(logits, y[:, 0]).mean()

    def _tail(self) -> Tensor:
        """The half-normal's scale: as in the reference, half of a tail lies within the width of its neighbour bar."""
        return (self.borders[1] - self.borders[0]) / _HALF
