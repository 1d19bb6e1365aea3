"""A small residual network for small pictures, with a budget of one CPU core."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn.functional import relu


def small_resnet2d(
    channels: int = 1, classes: int = 2, widths: Sequence[int] = (16, 32, 64, 128), blocks: int = 1, dropout: float = 0.2
) -> nn.Module:
    """Return the network: a first convolution, residual blocks of two 3 x 3 convolutions, average and largest value, one linear layer.

    Blocks are of the pre-activated kind (He et al., Identity mappings in deep residual networks, ECCV 2016). The first of every
    width but the first halves the grid. What is pooled is both the mean and the maximum of each channel over the picture: the share
    of it that looks diseased, and whether any place does. The input has axes (batch, channels, x, y), of any size of at least
    2 ** (len(widths) - 1); the output is (batch, classes), logits.
    """
    return SmallResNet2D(channels, classes, widths, blocks, dropout)


class SmallResNet2D(nn.Module):
    """See `small_resnet2d`."""

    def __init__(self, channels: int, classes: int, widths: Sequence[int], blocks: int, dropout: float):
        super().__init__()
        self.stem = nn.Conv2d(channels, widths[0], 3, padding=1, bias=False)
        made: list[nn.Module] = []
        before = widths[0]
        for number, width in enumerate(widths):
            for block in range(blocks):
                made.append(_Residual(before, width, 2 if number and not block else 1))
                before = width
        self.blocks = nn.Sequential(*made)
        self.norm = BatchNorm2d(before)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(2 * before, classes)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """Return what the head looks at, (batch, 2 * last width): means, then maxima."""
        x = relu(self.norm(self.blocks(self.stem(x))))
        return torch.cat([x.mean(dim=(2, 3)), x.amax(dim=(2, 3))], dim=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the logits of a batch of pictures."""
        return self.head(self.dropout(self.features(x)))


class _Residual(nn.Module):
    """Norm, ReLU, convolution, twice, added to the input; where the grid or the width changes, to its 1 x 1 convolution."""

    def __init__(self, before: int, width: int, stride: int):
        super().__init__()
        self.norm1 = BatchNorm2d(before)
        self.conv1 = nn.Conv2d(before, width, 3, stride=stride, padding=1, bias=False)
        self.norm2 = BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.pool = nn.AvgPool2d(stride, ceil_mode=True) if stride > 1 else None
        self.across = nn.Conv2d(before, width, 1, bias=False) if before != width else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        ready = relu(self.norm1(x))
        left = x if self.across is None else self.across(ready if self.pool is None else self.pool(ready))
        return left + self.conv2(relu(self.norm2(self.conv1(ready))))


class BatchNorm2d(nn.BatchNorm2d):
    """Batch norm without the count of batches, as in `cohortex.models.classify.cnn3d`."""

    def __init__(self, width: int):
        super().__init__(width)
        self.num_batches_tracked = None

    def _load_from_state_dict(self, *args: object) -> None:
        nn.Module._load_from_state_dict(self, *args)  # pyright: ignore[reportArgumentType]
