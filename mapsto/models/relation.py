"""The embedding of relation networks, which ends in maps.

F. Sung et al. Learning to Compare: Relation Network for Few-Shot Learning, 2018, https://arxiv.org/abs/1711.06025,
https://github.com/floodsung/LearningToCompare_FSL.
"""

from torch import Tensor, nn

from mapsto.models.norm import BatchNorm, Stats


class ConvMaps(nn.Module):
    """Four 3x3 convolutions with batch norm and ReLU; the first two are unpadded and end in 2x2 max-pooling.

    Images of 28x28 become maps of 5x5, images of 84x84 maps of 19x19.

    Args:
        channels: of the input images, 1 or 3.
        filters: of every block, and channels of the maps.
        stats: where batch norm takes its statistics from (`mapsto.models.BatchNorm`).
    """

    def __init__(self, channels: int = 1, filters: int = 64, stats: Stats = "transductive") -> None:
        super().__init__()
        self.body = nn.Sequential(
            _Block(channels, filters, stats, pool=True),
            _Block(filters, filters, stats, pool=True),
            _Block(filters, filters, stats, pool=False),
            _Block(filters, filters, stats, pool=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Images `[n, channels, h, w]` to maps `[n, filters, h', w']`."""
        return self.body(x)


class _Block(nn.Module):
    def __init__(self, channels: int, filters: int, stats: Stats, pool: bool) -> None:
        super().__init__()
        self.pool = pool
        self.conv = nn.Conv2d(channels, filters, 3, padding=0 if pool else 1, bias=False)  # the norm would subtract it
        self.norm = BatchNorm(filters, stats)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x, activate=True, pool=self.pool, conv=self.conv)
