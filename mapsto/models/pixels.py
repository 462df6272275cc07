"""No network at all: the pixels themselves."""

from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d


class Pixels(nn.Module):
    """The numbers of an image, reduced by averaging.

    Args:
        size: height and width that are left (20 in Santoro et al. 2016).
    """

    def __init__(self, size: int = 20) -> None:
        super().__init__()
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        """Images `[n, channels, h, w]` to `[n, channels * size * size]`."""
        return adaptive_avg_pool2d(x, self.size).flatten(1)
