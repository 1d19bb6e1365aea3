"""A small 3-D convolutional network for whole, coarse volumes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn


def small_cnn3d(channels: int = 5, classes: int = 2, widths: Sequence[int] = (8, 16, 32, 64), dropout: float = 0.2) -> nn.Module:
    """Return the network: one block a width, global average pooling, one linear layer.

    Every block halves the grid with its first convolution, so the costly full grid is left at once. The input has axes
    (batch, channels, x, y, z), of any size of at least 2 ** len(widths); the output is (batch, classes), logits.
    With the default options and three classes it has 221,211 parameters.
    """
    return SmallCNN3D(channels, classes, widths, dropout)


class SmallCNN3D(nn.Module):
    """See `small_cnn3d`."""

    def __init__(self, channels: int, classes: int, widths: Sequence[int], dropout: float):
        super().__init__()
        self.blocks = nn.Sequential(*(_block(before, width) for before, width in zip((channels, *widths), widths, strict=False)))
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(widths[-1], classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the logits of a batch of volumes."""
        return self.head(self.dropout(self.blocks(x).mean(dim=(2, 3, 4))))


def _block(before: int, width: int) -> nn.Sequential:
    """Two 3 x 3 x 3 convolutions, the first with stride 2, each followed by batch norm and ReLU."""
    return nn.Sequential(
        nn.Conv3d(before, width, 3, stride=2, padding=1, bias=False),
        _BatchNorm(width),
        nn.ReLU(inplace=True),
        nn.Conv3d(width, width, 3, padding=1, bias=False),
        _BatchNorm(width),
        nn.ReLU(inplace=True),
    )


class _BatchNorm(nn.BatchNorm3d):
    """Batch norm without the count of batches, a lone integer that its momentum does not need.

    Group norm would divide out how much lesion there is, which is what tells classes apart.
    """

    def __init__(self, width: int):
        super().__init__(width)
        self.num_batches_tracked = None

    def _load_from_state_dict(self, *args: Any) -> None:
        # The parent would add the count to a state that comes from a file.
        nn.Module._load_from_state_dict(self, *args)
