"""What a data set's loader returns: examples and their class labels, nothing else."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Int64, UInt8
from torch import Tensor


class Labelled(NamedTuple):
    """Examples with class labels.

    Attributes:
        x: uint8 images `[n, channels, height, width]` (0 to 255; ink or object bright), or a tensor of any other kind.
        y: the class of each example, 0 to `len(names) - 1`, int64 `[n]`.
        names: the classes' names, in the order of `y`.
    """

    x: UInt8[Tensor, "n ..."] | Tensor
    y: Int64[np.ndarray, " n"]
    names: list[str]
