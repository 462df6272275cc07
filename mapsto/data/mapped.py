"""Images that stay on disk: they load at once, and all processes share what the system has read of them."""

from collections.abc import Callable, Sequence

import numpy as np
import torch

from mapsto.data.files import cache_root, cached_array
from mapsto.data.labelled import Labelled


def mapped_parts(
    key: str, make: Callable[[], np.ndarray], split: Sequence[list[str]], sizes: Sequence[int] | np.ndarray
) -> list[Labelled]:
    """Map an array of images from the cache, a map for each of its parts.

    What is written into the images stays in the process; the file does not change.

    Args:
        key: the array's name in the cache, as in `mapsto.data.files.cached_array`.
        make: makes it, `[n, ...]`, where it is not there: the images of all classes in the order of `split`.
        split: the names of each part's classes.
        sizes: how many images each class has, over all parts.

    Returns:
        A `Labelled` for each part.

    Raises:
        DataError: the cache folder cannot be written.
    """
    array, path = cached_array(key, make), cache_root() / f"{key}.npy"
    header = path.stat().st_size - array.nbytes
    parts, classes_from, images_from = [], 0, 0
    for names in split:
        of_classes = sizes[classes_from : classes_from + len(names)]
        shape = (sum(of_classes), *array.shape[1:])
        # Copy on write: torch warns of arrays that it may not write to.
        x = np.memmap(path, array.dtype, "c", header + images_from * array[0].nbytes, shape)
        parts.append(Labelled(torch.from_numpy(x), np.repeat(np.arange(len(names)), of_classes), names))
        classes_from, images_from = classes_from + len(names), images_from + len(x)
    return parts
