"""Networks that tell what a network made from what was measured."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from torch import nn

THIN = 16
"""Axes of a patch that are shorter than this are not strided: the slices of a thin block."""


class Critic(nn.Module):
    """Critic of Yang et al. (IEEE Trans. Med. Imaging 37(6), 2018) and You et al. (IEEE Access 6, 2018).

    Six convolutions of three voxels along each axis with 64, 64, 128, 128, 256 and 256 filters, every second one with stride 2, then two
    fully connected layers; leaky ReLU between them and no norm, which a penalty of each example's gradient would not bear.

    Parameters
    ----------
    shape : two or three ints
        Of the patches, without batch and channel; it is made for these.
    width : int
        Filters of the first layer.
    hidden : int
        Of the first fully connected layer.
    """

    def __init__(self, shape: Sequence[int], width: int = 64, hidden: int = 1024):
        super().__init__()
        made: Any = nn.Conv2d if len(shape) == 2 else nn.Conv3d
        layers: list[nn.Module] = []
        size, channels = list(shape), 1
        for number, filters in enumerate((1, 1, 2, 2, 4, 4)):
            stride = tuple(2 if number % 2 and length >= THIN else 1 for length in shape)
            layers += [made(channels, filters * width, 3, stride, 1), nn.LeakyReLU(0.2)]
            size = [(n - 1) // s + 1 for n, s in zip(size, stride, strict=True)]
            channels = filters * width
        self.features = nn.Sequential(*layers)
        self.judge = nn.Sequential(nn.Flatten(), nn.Linear(channels * prod(size), hidden), nn.LeakyReLU(0.2), nn.Linear(hidden, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return a number for each example, (n, 1)."""
        return self.judge(self.features(x))
