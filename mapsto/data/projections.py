"""Many tasks of one small data set, by random projections and shuffled labels; and handwritten digits to project.

L. Kirsch, J. Harrison, J. Sohl-Dickstein, L. Metz. General-Purpose In-Context Learning by Meta-Learning Transformers.
2022. https://arxiv.org/abs/2212.04458: a task multiplies all inputs of a data set with one random matrix and shuffles
its labels. Where there are few tasks a learner can know them by heart; where there are many, learning is easier.
"""

from itertools import pairwise
from typing import Self

import numpy as np
import torch
from torch.nn.functional import one_hot

from mapsto.data.labelled import Labelled
from mapsto.data.streams import Streams
from mapsto.episode import Episode, Examples, Range, Shape
from mapsto.errors import DataError, MapstoError


class Projections:
    """Tasks that share a data set: each has its own random projection of the inputs, and its own classes in its order.

    Of `tasks` tasks, task k's matrix and classes are a pure function of (seed, k), also with other data. Episode i is
    one of them, with examples of its own, all a pure function of (seed, i): training data and held-out data with the
    same seed and number give the same tasks with other examples.

    Args:
        data: examples; uint8 images become floats from 0 to 1. All inputs are centred and scaled by the data's own mean
            and standard deviation, then projected by independent normal numbers of variance 1 / inputs.
        way: classes a task, drawn in random order: with all of the data's, its labels are shuffled.
        shot, query: support and query examples a class.
        tasks: how many different tasks there are; None has every episode be a task never seen before.
        features: of a projected input; by default as many as an input has numbers.
        seed: of the tasks and of their examples.
        device: where episodes are made.

    Raises:
        MapstoError: numbers that make no sense, or a range of them.
        DataError: there are fewer classes than `way`, or fewer examples of one than `shot + query`.
    """

    def __init__(
        self,
        data: Labelled,
        way: Range = 10,
        shot: Range = 5,
        query: int = 5,
        *,
        tasks: int | None = None,
        features: int | None = None,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        if not isinstance(way, int) or not isinstance(shot, int):
            raise MapstoError(f"projected tasks have one way and one shot, not {way} and {shot}")
        if min(way, shot, query) < 1 or (tasks is not None and tasks < 1) or (features is not None and features < 1):
            raise MapstoError("way, shot, query, tasks and features of projected tasks must be at least 1")
        x = data.x.flatten(1).float()
        self._x = ((x - x.mean(0)) / x.std()).to(device)
        self._members = [np.flatnonzero(data.y == c) for c in range(len(data.names))]
        small = min(range(len(data.names)), key=lambda c: len(self._members[c]))
        if way > len(data.names):
            raise DataError(f"{way}-way tasks want {way} classes, but there are {len(data.names)}: lower the way")
        if len(self._members[small]) < shot + query:
            raise DataError(
                f"class {data.names[small]!r} has {len(self._members[small])} examples, but shot + query = "
                f"{shot + query}: lower them"
            )
        self.data, self.shape, self.seed, self.device = data, Shape(way, shot, query), seed, device
        self.tasks, self.features = tasks, features or self._x.shape[1]
        self._way, self._shot = way, shot

    def replace(self, way: Range | None = None, shot: Range | None = None, query: int | None = None) -> Self:
        """The same data, projections and seed in tasks of another shape."""
        new = self.shape.changed(way, shot, query)
        return type(self)(
            self.data, new.way, new.shot, new.query,
            tasks=self.tasks, features=self.features, seed=self.seed, device=self.device,
        )  # fmt: skip

    def task(self, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Task k's matrix `[inputs, features]` and its classes `[way]`, in the order of its labels."""
        rng = Streams(self.seed).at(2 * k)
        inputs = self._x.shape[1]
        matrix = rng.standard_normal((inputs, self.features), dtype=np.float32) / np.float32(inputs**0.5)
        return matrix, rng.permutation(len(self._members))[: self._way]

    def batch(self, start: int, size: int) -> Episode:
        """Episodes `start` to `start + size - 1`: x `[tasks, n, features]`, examples sorted by class."""
        picks, matrices = [], []
        for i in range(start, start + size):
            rng = Streams(self.seed).at(2 * i + 1)
            matrix, classes = self.task(i if self.tasks is None else int(rng.integers(self.tasks)))
            each = self._shot + self.shape.query
            picks.append(np.stack([rng.choice(self._members[c], each, replace=False) for c in classes]))
            matrices.append(matrix)
        rows = torch.from_numpy(np.stack(picks)).to(self.device)  # [tasks, way, shot + query]
        projection = torch.from_numpy(np.stack(matrices)).to(self.device)

        def examples(rows: torch.Tensor) -> Examples:
            x = self._x[rows.flatten(1)] @ projection
            y = torch.arange(self._way, device=self.device).repeat_interleave(rows.shape[2])
            return Examples(x, one_hot(y, self._way).float().expand(size, -1, -1))

        return Episode(examples(rows[:, :, : self._shot]), examples(rows[:, :, self._shot :]))


_PARTS = (1197, 1497)
"""Where the 1,797 digits are cut, in the order of the file, in which writers follow each other."""


class Digits:
    """Handwritten digits: 10 classes of 8x8 images, 1,797 in all, as scikit-learn has them; no download.

    E. Alpaydin, C. Kaynak. Optical Recognition of Handwritten Digits. UCI Machine Learning Repository, 1998.
    https://doi.org/10.24432/C50P49, CC BY 4.0. All three parts have all ten classes: they share no image.

    Attributes:
        train, val, test: `Labelled` images `[n, 1, 8, 8]`, uint8, ink bright: 1,197, 300 and 300.

    Raises:
        DataError: scikit-learn is missing.
    """

    def __init__(self) -> None:
        try:
            from sklearn.datasets import load_digits
        except ImportError:
            raise DataError("the digits come with scikit-learn: pip install 'mapsto[sklearn]'") from None
        images, labels = load_digits(return_X_y=True)
        x = torch.from_numpy((images * 15).astype(np.uint8)).reshape(-1, 1, 8, 8)  # 16 shades, 0 to 16
        names = [str(digit) for digit in range(10)]
        cuts = [0, *_PARTS, len(labels)]
        self.train, self.val, self.test = (
            Labelled(x[low:high], labels[low:high].astype(np.int64), names) for low, high in pairwise(cuts)
        )
