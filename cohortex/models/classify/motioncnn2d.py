"""A small 2-D convolutional network that sees motion artefacts in magnitude slices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn


def motion_cnn2d(channels: int = 1, widths: Sequence[int] = (8, 16, 24, 32), dropout: float = 0.1) -> nn.Module:
    """Return the network: one block a width, mean and largest value over the slice, one linear layer.

    Ghosts are faint and lie anywhere, also in the air, so the first block keeps the full grid and the largest values are looked at
    beside the means. The input has axes (batch, channels, y, x), of any size of at least 2 ** len(widths); the output is (batch, 2),
    logits of still and moved. With the default options it has 29,322 parameters.
    """
    return MotionCNN2D(channels, widths, dropout)


class MotionCNN2D(nn.Module):
    """See `motion_cnn2d`."""

    def __init__(self, channels: int, widths: Sequence[int], dropout: float):
        super().__init__()
        self.blocks = nn.Sequential(*(_block(before, width) for before, width in zip((channels, *widths), widths, strict=False)))
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(2 * widths[-1], 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the logits of a batch of slices."""
        features = self.blocks(x)
        return self.head(self.dropout(torch.cat([features.mean(dim=(2, 3)), features.amax(dim=(2, 3))], dim=1)))


def _block(before: int, width: int) -> nn.Sequential:
    """A 3 x 3 convolution and one with stride 2, each followed by batch norm and ReLU."""
    return nn.Sequential(
        nn.Conv2d(before, width, 3, padding=1, bias=False),
        _BatchNorm(width),
        nn.ReLU(inplace=True),
        nn.Conv2d(width, width, 3, stride=2, padding=1, bias=False),
        _BatchNorm(width),
        nn.ReLU(inplace=True),
    )


class _BatchNorm(nn.BatchNorm2d):
    """Batch norm without the count of batches, a lone integer that its momentum does not need."""

    def __init__(self, width: int):
        super().__init__(width)
        self.num_batches_tracked = None

    def _load_from_state_dict(self, *args: Any) -> None:
        # The parent would add the count to a state that comes from a file.
        nn.Module._load_from_state_dict(self, *args)
