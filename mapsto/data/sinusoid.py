"""MAML's regression tasks."""

from typing import Self

import numpy as np
import torch

from mapsto.data.streams import Streams, uniform
from mapsto.episode import Episode, Examples, Range, Shape
from mapsto.errors import MapstoError


class Sinusoid:
    """y = A sin(x - phase), A in [0.1, 5], phase in [0, pi], x in [-5, 5], all uniform (Finn et al. 2017, section 5.1).

    The paper's text gives no sign for the phase; its code subtracts it. Task i is a pure function of (seed, i).

    Args:
        shot, query: support and query points a task.
        seed: which sequence of tasks.
        device: where episodes are made.
    """

    def __init__(self, shot: Range = 10, query: int = 10, *, seed: int = 0, device: torch.device | str = "cpu") -> None:
        if not isinstance(shot, int) or min(shot, query) < 1:
            raise MapstoError(f"sinusoid tasks want one shot and query, at least 1 each; got {shot} and {query}")
        self.shape, self.seed, self.device = Shape(1, shot, query), seed, device
        self._shot = shot

    def replace(self, way: Range | None = None, shot: Range | None = None, query: int | None = None) -> Self:
        """The same tasks with other numbers of points; a regression task has no way to change."""
        if way not in (None, 1):
            raise MapstoError("sinusoid tasks are regression: they have no way to change")
        new = self.shape.changed(None, shot, query)
        return type(self)(new.shot, new.query, seed=self.seed, device=self.device)

    def waves(self, start: int, size: int) -> np.ndarray:
        """Amplitude and phase `[size, 2]` of tasks `start` to `start + size - 1`."""
        return self._draw(start, size)[:, :2]

    def batch(self, start: int, size: int) -> Episode:
        """Tasks `start` to `start + size - 1`; x and y are `[tasks, points, 1]`."""
        draws = self._draw(start, size)
        x = draws[:, 2:]
        y = draws[:, :1] * np.sin(x - draws[:, 1:2])
        tensors = [torch.from_numpy(a[:, :, None]).float().to(self.device) for a in (x, y)]
        support = Examples(*(t[:, : self._shot].contiguous() for t in tensors))
        return Episode(support, Examples(*(t[:, self._shot :].contiguous() for t in tensors)))

    def _draw(self, start: int, size: int) -> np.ndarray:
        points = self._shot + self.shape.query
        unit = uniform(Streams(self.seed).words(start, size, 2 + points))
        low = np.array([0.1, 0.0] + [-5.0] * points)
        return low + unit * (np.array([5.0, np.pi] + [5.0] * points) - low)
