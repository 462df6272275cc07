"""Pictures as functions from places to brightness, of which a few random pixels are known.

M. Garnelo et al. Conditional Neural Processes. ICML 2018. https://arxiv.org/abs/1807.01613, section 4.2.

What differs: places lie in [-1, 1]^2, there in [0, 1]^2; a query is a set of other pixels, there all of them.
"""

from typing import Self

import numpy as np
import torch
from torch import Tensor

from mapsto.data.labelled import Labelled
from mapsto.data.points import bounds, check_points, draw_count, split
from mapsto.data.streams import Streams
from mapsto.episode import Episode, Range, Shape
from mapsto.errors import DataError


class Completion:
    """Tell the pixels of a picture from a few of them: x is a pixel's row and column, y its channels in [0, 1].

    Task i, a pure function of (seed, i), is a picture drawn from the data with random pixels as context and, among the
    others, as query.

    Args:
        data: pictures `[n, channels, height, width]`, uint8 or floats in [0, 1]; their labels are not used.
        shot: context pixels; a pair of bounds has each task draw its own number, with `support.x` as in
            `GaussianProcess`.
        query: query pixels.
        seed: which sequence of tasks.
        device: where episodes are made.

    Raises:
        DataError: the data are no pictures, or have fewer pixels than a task wants.
        MapstoError: numbers that make no sense.
    """

    def __init__(
        self,
        data: Labelled,
        shot: Range = (10, 200),
        query: int = 200,
        *,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        check_points("completion", None, shot, query)
        if data.x.ndim != 4:
            raise DataError(f"completion wants pictures [n, channels, height, width], not {tuple(data.x.shape)}")
        self._pixels, self._wanted = data.x.shape[2] * data.x.shape[3], bounds(shot)[1] + query
        if self._wanted > self._pixels:
            raise DataError(
                f"shot + query = {self._wanted}, but a picture has {self._pixels} pixels: "
                "lower them or take larger pictures"
            )
        self.data, self.seed, self.device = data, seed, device
        self.shape = Shape(1, shot, query)

    def replace(self, way: Range | None = None, shot: Range | None = None, query: int | None = None) -> Self:
        """The same pictures with other numbers of pixels; a regression task has no way to change."""
        check_points("completion", way, 1, 1)
        new = self.shape.changed(None, shot, query)
        return type(self)(self.data, new.shot, new.query, seed=self.seed, device=self.device)

    @property
    def places(self) -> Tensor:
        """All pixels' rows and columns in [-1, 1], row by row: `[pixels, 2]`."""
        rows, columns = (torch.linspace(-1, 1, side, device=self.device) for side in self.data.x.shape[2:])
        return torch.cartesian_prod(rows, columns)

    def pictures(self, start: int, size: int) -> Tensor:
        """The whole pictures of tasks `start` to `start + size - 1`, `[tasks, channels, height, width]` in [0, 1]."""
        return self._read(self._draw(start, size)[0])

    def batch(self, start: int, size: int) -> Episode:
        """Tasks `start` to `start + size - 1`; x is `[tasks, pixels, 2]`, y `[tasks, pixels, channels]`."""
        which, pixels, counts = self._draw(start, size)
        places = torch.from_numpy(pixels).to(self.device)
        values = self._read(which).flatten(2).transpose(1, 2)
        y = values.gather(1, places[:, :, None].expand(-1, -1, values.shape[2]))
        return split(self.places[places], y, counts, self.shape.shot)

    def _draw(self, start: int, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Each task's picture, its pixels (context first) and its number of context pixels."""
        streams = Streams(self.seed)
        which, counts = np.empty(size, np.int64), np.empty(size, np.int64)
        pixels = np.empty((size, self._wanted), np.int64)
        for k in range(size):
            rng = streams.at(start + k)
            which[k], counts[k] = rng.integers(len(self.data.x)), draw_count(rng, self.shape.shot)
            pixels[k] = rng.permutation(self._pixels)[: self._wanted]
        return which, pixels, counts

    def _read(self, which: np.ndarray) -> Tensor:
        images = self.data.x[torch.from_numpy(which)].to(self.device)
        return images.float() / 255 if images.dtype == torch.uint8 else images.float()
