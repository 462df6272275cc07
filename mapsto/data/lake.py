"""Lake's one-shot classification runs: 20 tasks of 20 characters of one alphabet, which people did too.

B. M. Lake, R. Salakhutdinov, J. B. Tenenbaum. Human-level concept learning through probabilistic program induction.
Science 350(6266), 2015. https://github.com/brendenlake/omniglot, folder python/one-shot-classification, MIT licence.

In a run each of 20 characters was drawn by one person for the support set and by another for the query set: one picture
a class in each. The characters are of the evaluation set's alphabets, so a learner that is to be compared with people
may be trained on the background set only: `Omniglot(split="background")`.

What differs: nothing but the pixels, which are those of `mapsto.data.Omniglot`: 28 x 28, not 105 x 105.
"""

import zipfile

import numpy as np
import torch
from torch.nn.functional import one_hot

from mapsto.data.files import cached_array, find
from mapsto.data.omniglot import reduced
from mapsto.episode import Episode, Examples
from mapsto.errors import MapstoError

_FILE = "one-shot-classification/all_runs.zip"
_URL = f"https://github.com/brendenlake/omniglot/raw/master/python/{_FILE}"
_DIGEST = "437c1eeab0af8484112e1b4cc0f3d541ec727f7c47b9b202da738af9dfd6c325"  # SHA-256 of the official file
_RUNS, _WAY = 20, 20


class LakeRuns:
    """The 20 runs: a source of 20 tasks, 20-way 1-shot, one query a class; classes and examples are in the same order.

    Judge on all of them: `evaluate(learner, LakeRuns(), tasks=20)`. The error rate is 1 less the accuracy.

    Args:
        device: where episodes are made.

    Raises:
        DataError: the archive is damaged, or is absent and cannot be downloaded.
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        images = np.array(cached_array("omniglot-lake-runs-28-lanczos-v1", _images))  # a copy in memory
        self._x = torch.from_numpy(images).to(device).float().div_(255)

    def __len__(self) -> int:
        return _RUNS

    def batch(self, start: int, size: int) -> Episode:
        """Runs `start` to `start + size - 1`, counted from 0: x is `[size, 20, 1, 28, 28]`, in [0, 1].

        Raises:
            MapstoError: there are no such runs.
        """
        if not 0 <= start < start + size <= _RUNS:
            raise MapstoError(
                f"there are {_RUNS} runs, so none of {start} to {start + size - 1}: evaluate with tasks={_RUNS}"
            )
        support, query = self._x[start : start + size].unbind(1)
        y = one_hot(torch.arange(_WAY, device=self._x.device), _WAY).float().expand(size, _WAY, _WAY)
        return Episode(Examples(support, y), Examples(query, y))


def _images() -> np.ndarray:
    """The pictures of all runs, uint8 `[runs, 2, classes, 1, 28, 28]`: support, then the query of the same class."""
    runs = []
    with zipfile.ZipFile(find("omniglot", _FILE, _URL, _DIGEST)) as archive:
        for run in range(1, _RUNS + 1):
            lines = archive.read(f"run{run:02d}/class_labels.txt").decode().splitlines()
            pairs = sorted(line.split()[::-1] for line in lines)  # each line: the query, then its class's support
            runs.append([[reduced(archive.read(member)) for member in part] for part in zip(*pairs, strict=True)])
    return np.array(runs)[:, :, :, None]
