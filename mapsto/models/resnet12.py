"""The residual network of twelve convolutions of the few-shot literature.

K. Lee et al. Meta-Learning with Differentiable Convex Optimization, 2019, https://arxiv.org/abs/1904.03758,
https://github.com/kjunelee/MetaOptNet (models/ResNet12_embedding.py), after TADAM, https://arxiv.org/abs/1805.10123.

What differs: the last maps are averaged (their `avg_pool=True`; their experiments flatten them: 16,000 features at 84 x
84), and there is no DropBlock and no dropout.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from mapsto.models.norm import BatchNorm, Stats


class ResNet12(nn.Module):
    """Four residual blocks of three 3x3 convolutions, each halving the image, a mean over the last maps and a head.

    Args:
        outputs: size of the linear head; 0 for none (an embedding).
        channels: of the input images, 1 or 3.
        filters: of the four blocks; (64, 160, 320, 640) has 12.4 million weights, (64, 128, 256, 512) is narrower.
        stats: where batch norm takes its statistics from (`mapsto.models.BatchNorm`).
        size: height and width of the square images, at least 16.

    Attributes:
        features: size of the embedding, the last block's filters.
    """

    def __init__(
        self,
        outputs: int = 0,
        channels: int = 3,
        filters: Sequence[int] = (64, 160, 320, 640),
        stats: Stats = "transductive",
        size: int = 84,
    ) -> None:
        super().__init__()
        if len(filters) != 4:
            raise ValueError(f"filters={tuple(filters)} should be four numbers, one a block")
        if size < 16:
            raise ValueError(f"four poolings leave nothing of {size}x{size} images: use larger images")
        befores = (channels, *filters[:-1])
        self.body = nn.Sequential(*(_Block(a, b, stats) for a, b in zip(befores, filters, strict=True)))
        self.features = filters[-1]
        self.head = nn.Linear(self.features, outputs) if outputs else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Images `[n, channels, size, size]` to `[n, outputs]`, or embeddings `[n, features]` without a head."""
        return self.head(self.body(x).mean((2, 3)))


class _Block(nn.Module):
    """pool(activation(conv-norm three times + shortcut))."""

    def __init__(self, before: int, after: int, stats: Stats) -> None:
        super().__init__()
        self.main = nn.Sequential(
            *(_convolution(before, after, 3), BatchNorm(after, stats), nn.LeakyReLU(0.1)),
            *(_convolution(after, after, 3), BatchNorm(after, stats), nn.LeakyReLU(0.1)),
            *(_convolution(after, after, 3), BatchNorm(after, stats)),
        )
        self.shortcut = nn.Sequential(_convolution(before, after, 1), BatchNorm(after, stats))
        self.activation = nn.LeakyReLU(0.1)
        self.pool = nn.MaxPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(self.activation(self.main(x) + self.shortcut(x)))


def _convolution(before: int, after: int, kernel: int) -> nn.Conv2d:
    convolution = nn.Conv2d(before, after, kernel, padding=kernel // 2, bias=False)
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="leaky_relu")
    return convolution
