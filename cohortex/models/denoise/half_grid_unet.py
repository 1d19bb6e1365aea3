"""A residual U-Net over adjacent slices that looks at pixels in cells of 2 x 2: small, fast, and exact in bfloat16."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional

from cohortex.models.denoise.layers import cut_to, he_weights, to_multiple

CELL = 2
"""Edge of the cells whose pixels become channels."""

AROUND = 9
"""Edge of the window whose mean is the level around a pixel."""

SATURATED = 4.0
"""Differences from the level beyond it, in units of `scale`, all say the same: there is an edge."""


class HalfGridUNet(nn.Module):
    """Makes what is to be taken away from a slice, from the slice and those beside it.

    Cells of 2 x 2 pixels are channels on half the grid (as in Shi et al., Real-time single image and video super-resolution using an
    efficient sub-pixel convolutional neural network, CVPR 2016), where a U-Net (Ronneberger et al., MICCAI 2015) of residual blocks
    works: one on each level on the way down and one on the way up, strided convolutions between the levels, skips by addition, no
    norms, so a result depends on nothing but its neighbourhood. The network does not look at the intensities themselves, which may
    be thousands of times what it takes away, but at their differences from the mean around a pixel, and at that mean. Both are
    computed in float32, so that in bfloat16 no digits are lost that matter.

    Input (n, channels, x, y) of any size, output (n, 1, x, y). A slice ends where it ends, with zeros among the features beyond.

    Parameters
    ----------
    features : sequence of int
        Channels of each level, the finest first, which lies on half the grid.
    adjacent : int
        How many slices on each side come in as further channels; the middle channel is the slice itself.
    scale : float
        What the network multiplies its input by: a difference that matters is about 1 afterwards, and one beyond 4 counts as 4.
    """

    pads = True
    """Slices are not continued for it (`cohortex.inference.way_of`), which would cost more than small ones themselves."""

    def __init__(self, features: Sequence[int] = (64, 96, 96), adjacent: int = 2, scale: float = 16.0):
        super().__init__()
        widths = list(features)
        self.adjacent, self.scale = adjacent, scale
        self.first = nn.Conv2d(CELL**2 * (2 * adjacent + 1) + 1, widths[0], 3, padding=1)
        self.before = nn.ModuleList(Residual(width) for width in widths)
        self.down = nn.ModuleList(nn.Conv2d(a, b, 2, stride=2) for a, b in pairwise(widths))
        self.up = nn.ModuleList(nn.ConvTranspose2d(b, a, 2, stride=2) for a, b in pairwise(widths))
        self.after = nn.ModuleList(Residual(width) for width in widths)
        self.last = nn.Conv2d(widths[0], CELL**2, 3, padding=1)
        self.multiple = CELL * 2 ** (len(widths) - 1)
        self.halo = reach(len(widths))
        he_weights(self, self.last)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the slice without its noise."""
        whole = to_multiple(x, self.multiple)
        middle = whole[:, self.adjacent : self.adjacent + 1]
        level = functional.avg_pool2d(middle, AROUND, 1, AROUND // 2, count_include_pad=False)
        detail = ((whole - level) * self.scale).clamp(-SATURATED, SATURATED)
        y = torch.cat([functional.pixel_unshuffle(detail, CELL), functional.avg_pool2d(level, CELL)], 1)
        y = torch.relu_(self.first(y.contiguous(memory_format=torch.channels_last)))
        skips: list[torch.Tensor] = []
        for number, block in enumerate(self.before):
            y = block(torch.relu_(self.down[number - 1](y)) if number else y)
            skips.append(y)
        for number in reversed(range(len(skips))):
            y = self.after[number](y if number == len(skips) - 1 else skips[number] + self.up[number](y))
        removed = functional.pixel_shuffle(self.last(y), CELL).float() / self.scale
        return cut_to(middle - removed, x.shape[2:])


class Residual(nn.Module):
    """Two convolutions of size 3 whose result is added to what they look at."""

    def __init__(self, channels: int):
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return what it makes of a tensor (n, channels, x, y)."""
        return x + self.second(torch.relu_(self.first(x)))


def reach(levels: int) -> int:
    """Return how far the network looks, as a multiple of the coarsest pixel.

    Blocks that begin at multiples of ``CELL * 2 ** (levels - 1)`` and have this halo give what the whole slice gives.
    """
    multiple = CELL * 2 ** (levels - 1)
    farthest = 0
    for pixel in range(multiple):
        # What the way up looks at on each level (the last convolution by one, a residual block by two), the finest first ...
        first, last = pixel // CELL - 1, pixel // CELL + 1
        spans: list[tuple[int, int]] = []
        for _ in range(levels):
            first, last = first - 2, last + 2
            spans.append((first, last))
            first, last = first // 2, last // 2
        # ... and the way down, from the coarsest.
        first, last = spans[-1]
        for level in reversed(range(levels)):
            first, last = min(first, spans[level][0]) - 2, max(last, spans[level][1]) + 2
            if level:
                first, last = 2 * first, 2 * last + 1
        first, last = CELL * (first - 1) - AROUND // 2, CELL * (last + 2) - 1 + AROUND // 2
        farthest = max(farthest, pixel - first, last - pixel)
    return -(-farthest // multiple) * multiple


def half_grid_unet(features: Sequence[int] = (64, 96, 96), adjacent: int = 2, scale: float = 16.0) -> HalfGridUNet:
    """Build the network."""
    return HalfGridUNet(features, adjacent, scale)
