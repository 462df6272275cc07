"""Functions drawn from Gaussian processes, the regression tasks of neural processes, with their exact solution.

M. Garnelo et al. Conditional Neural Processes. ICML 2018. https://arxiv.org/abs/1807.01613.
H. Kim et al. Attentive Neural Processes. ICLR 2019. https://arxiv.org/abs/1901.05761.
Kernels and the ranges of their parameters are those of https://github.com/juho-lee/bnp (J. Lee et al. Bootstrapping
Neural Processes. NeurIPS 2020).

What differs: each task has its own number of context points, where there a batch shares one, and a fixed number of
query points.
"""

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from mapsto.data.points import bounds, check_points, draw_count, split
from mapsto.data.streams import Streams
from mapsto.episode import Episode, Range, Shape
from mapsto.errors import MapstoError

KERNELS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "rbf": lambda d, length, period: (d / length).square().mul(-0.5).exp(),
    "matern": lambda d, length, period: _matern(5**0.5 * d / length),
    "periodic": lambda d, length, period: ((torch.pi / period * d).sin() / length).square().mul(-2).exp(),
}
"""Correlation of two values whose inputs are a distance apart (Matérn: of smoothness 5/2)."""


def _matern(d: Tensor) -> Tensor:
    return (1 + d + d.square() / 3) * (-d).exp()


class Draws(NamedTuple):
    """Tasks in float64: each one's kernel (`length`, `scale`, `period`), its number of context points, its points."""

    length: Tensor
    scale: Tensor
    period: Tensor
    counts: np.ndarray
    x: Tensor
    y: Tensor


class GaussianProcess:
    """y = f(x) + noise, f from a Gaussian process whose kernel's parameters each task draws uniformly, x in [-2, 2].

    Task i is a pure function of (seed, i).

    Args:
        kernel: "rbf", "matern" (smoothness 5/2) or "periodic".
        shot: context points. A pair of bounds has each task draw its own number: then `support.x` is a dict of the
            inputs `x` and a `mask`, which is false where the points, padded to one number, are none.
        query: query points.
        length: bounds of the length scale.
        scale: bounds of the function's standard deviation.
        period: bounds of the period.
        noise: standard deviation of the noise.
        seed: which sequence of tasks.
        device: where episodes are made.

    Raises:
        MapstoError: an unknown kernel, or numbers that make no sense.
    """

    def __init__(
        self,
        kernel: Literal["rbf", "matern", "periodic"] = "rbf",
        shot: Range = (3, 47),
        query: int = 50,
        *,
        length: float | Sequence[float] = (0.1, 0.6),
        scale: float | Sequence[float] = (0.1, 1.0),
        period: float | Sequence[float] = (0.1, 0.5),
        noise: float = 0.02,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        if kernel not in KERNELS:
            raise MapstoError(f"there is no kernel {kernel!r}; there are {', '.join(KERNELS)}")
        check_points("Gaussian process", None, shot, query)
        length, scale, period = ((v, v) if isinstance(v, (int, float)) else v for v in (length, scale, period))
        for name, pair in (("length", length), ("scale", scale), ("period", period), ("noise", (noise, noise))):
            if len(pair) != 2 or not 0 < pair[0] <= pair[1]:
                raise MapstoError(f"{name} must be positive, its low end first, not {pair}")
        self.kernel: Literal["rbf", "matern", "periodic"] = kernel
        self.length, self.scale, self.period, self.noise = length, scale, period, noise
        self.shape, self.seed, self.device = Shape(1, shot, query), seed, device

    def replace(self, way: Range | None = None, shot: Range | None = None, query: int | None = None) -> Self:
        """The same functions with other numbers of points; a regression task has no way to change."""
        check_points("Gaussian process", way, 1, 1)
        new = self.shape.changed(None, shot, query)
        return type(self)(
            self.kernel, new.shot, new.query, length=self.length, scale=self.scale, period=self.period,
            noise=self.noise, seed=self.seed, device=self.device,
        )  # fmt: skip

    def batch(self, start: int, size: int) -> Episode:
        """Tasks `start` to `start + size - 1`; x and y are `[tasks, points, 1]`."""
        draws = self.draws(start, size)
        x, y = (points[:, :, None].float().to(self.device) for points in (draws.x, draws.y))
        return split(x, y, draws.counts, self.shape.shot)

    def posterior(self, start: int, size: int, x: Tensor | None = None) -> Tensor:
        """What is to be known of tasks `start` to `start + size - 1` at their query points, from context and kernel.

        A learner is not told the kernel's parameters, so in the mean over tasks none can score better.

        Args:
            start, size: which tasks.
            x: other places to look at, `[m]` or `[m, 1]`, the same in all tasks.

        Returns:
            `[tasks, m, 2]`: the mean of y, and its standard deviation, noise included (Rasmussen & Williams 2006,
            equations 2.25 and 2.26).
        """
        draws, (_, high) = self.draws(start, size), bounds(self.shape.shot)
        given = torch.arange(high) < torch.from_numpy(draws.counts)[:, None]
        known = draws.x[:, :high]
        asked = draws.x[:, high:] if x is None else x.detach().cpu().double().reshape(1, -1).expand(size, -1)
        # A point that is not given has a covariance of zero with all others.
        among = self._covariance(draws, known, known) * (given[:, :, None] & given[:, None])
        across = self._covariance(draws, known, asked) * given[:, :, None]
        weights = torch.linalg.solve(self._noisy(among), across)
        mean = (weights * draws.y[:, :high, None]).sum(1)
        variance = draws.scale[:, None] ** 2 + self.noise**2 - (weights * across).sum(1)
        return torch.stack([mean, variance.sqrt()], 2).float().to(self.device)

    def draws(self, start: int, size: int) -> Draws:
        """Tasks `start` to `start + size - 1`: context points first, then, from the greatest shot on, query points."""
        streams, points = Streams(self.seed), bounds(self.shape.shot)[1] + self.shape.query
        counts, unit, normal = np.empty(size, np.int64), np.empty((size, 3 + points)), np.empty((size, points, 1))
        for k in range(size):
            rng = streams.at(start + k)
            counts[k] = draw_count(rng, self.shape.shot)
            unit[k], normal[k, :, 0] = rng.random(3 + points), rng.standard_normal(points)
        low, high = torch.tensor([self.length, self.scale, self.period], dtype=torch.float64).unbind(1)
        share = torch.from_numpy(unit)
        length, scale, period = (low + share[:, :3] * (high - low)).unbind(1)
        x = 4 * share[:, 3:] - 2
        draws = Draws(length, scale, period, counts, x, x)
        root = torch.linalg.cholesky(self._noisy(self._covariance(draws, x, x)))
        return draws._replace(y=(root @ torch.from_numpy(normal))[..., 0])

    def _covariance(self, draws: Draws, a: Tensor, b: Tensor) -> Tensor:
        """Of the functions' values at `[tasks, n]` and `[tasks, m]`: `[tasks, n, m]`."""
        length, scale, period = (v[:, None, None] for v in (draws.length, draws.scale, draws.period))
        return KERNELS[self.kernel]((a[:, :, None] - b[:, None]).abs(), length, period).mul_(scale**2)

    def _noisy(self, covariance: Tensor) -> Tensor:
        covariance.diagonal(dim1=1, dim2=2).add_(self.noise**2)
        return covariance
