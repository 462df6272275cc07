"""The four-block convolutional network of the few-shot literature."""

from typing import Literal

import torch
from torch import Tensor, nn

from mapsto.models.norm import BatchNorm, Stats


class ConvBlock(nn.Module):
    """3x3 convolution, batch norm and ReLU, then 2x2 max-pooling or, with `down="stride"`, a stride of 2 before.

    The convolution has no bias: batch norm would subtract it again.
    """

    def __init__(self, channels: int, filters: int, down: Literal["pool", "stride"], stats: Stats, fused: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, filters, 3, 1 if down == "pool" else 2, padding=1, bias=False)
        self.conv = self.conv.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # what is fast
        self.norm = BatchNorm(filters, stats, fused=fused)
        self.pool = down == "pool"

    def forward(self, x: Tensor) -> Tensor:
        """`[n, channels, h, w]` to `[n, filters, h / 2, w / 2]` (pooling rounds down, a stride up)."""
        return self.norm(x, activate=True, pool=self.pool, conv=self.conv)


class Conv4(nn.Module):
    """Four blocks of 3x3 convolution, batch norm and ReLU, and a linear head where asked for.

    Args:
        outputs: size of the linear head; 0 for none (an embedding).
        channels: of the input images, 1 or 3.
        filters: of every block (64 for Omniglot, 32 for MAML's mini-ImageNet).
        down: "pool", 2x2 max-pooling after each block and a flat output (Vinyals et al. 2016; 64 features for 28x28);
            "stride", strided convolutions and a mean over the last map (MAML's Omniglot network).
        stats: where batch norm takes its statistics from (`mapsto.models.BatchNorm`).
        size: height and width of the square images; it sets the head's inputs.
        fused: on a CPU, kernels of ours (`mapsto.models.fused`); False takes torch's own, for comparison.
    """

    def __init__(
        self,
        outputs: int = 0,
        channels: int = 1,
        filters: int = 64,
        down: Literal["pool", "stride"] = "pool",
        stats: Stats = "transductive",
        size: int = 28,
        fused: bool = True,
    ) -> None:
        super().__init__()
        if down not in ("pool", "stride"):
            raise ValueError(f"down={down!r} is neither 'pool' nor 'stride'")
        if down == "pool" and size < 16:
            raise ValueError(f"four poolings leave nothing of {size}x{size} images: use down='stride' or larger images")
        self.body = nn.Sequential(
            *(ConvBlock(filters if block else channels, filters, down, stats, fused) for block in range(4))
        )
        self.features = filters * (size // 16) ** 2 if down == "pool" else filters
        self.down = down
        self.head = nn.Linear(self.features, outputs) if outputs else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Images `[n, channels, size, size]` to `[n, outputs]`, or embeddings `[n, features]` without a head."""
        z = self.body(x)
        return self.head(z.flatten(1) if self.down == "pool" else z.mean((2, 3)))
