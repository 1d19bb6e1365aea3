"""Small residual U-Net, in two or three dimensions: the backbone for trainings without clean images."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

from cohortex.models.denoise.layers import conv, cut_to, he_weights, pooled_halo, to_multiple

SLOPE = 0.1
"""Of the leaky ReLU."""


class _Pair(nn.Module):
    """Two convolutions of size 3 with leaky ReLU."""

    def __init__(self, dimensions: int, inward: int, outward: int):
        super().__init__()
        self.first, self.second = conv(dimensions, inward, outward), conv(dimensions, outward, outward)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in (self.first, self.second):
            x = functional.leaky_relu(layer(x), SLOPE, inplace=True)
        return x


class ResidualUNet(nn.Module):
    """U-Net (Ronneberger et al., MICCAI 2015) that makes what is to be added to an image (Jin et al., IEEE TIP 26(9), 2017).

    Two convolutions of size 3 a level, average pooling by 2 on the way down, nearest-neighbour upsampling and skips by concatenation on the
    way up, no norms: a result depends on nothing but its neighbourhood. Input (n, channels, ...) of any size, output (n, 1, ...).

    Parameters
    ----------
    dimensions : {2, 3}
    features : sequence of int
        Filters of each level, the finest first.
    adjacent : int
        Of the two-dimensional one: how many slices on each side come in as further channels; the middle channel is the slice itself.
    """

    def __init__(self, dimensions: int = 2, features: Sequence[int] = (32, 64, 128), adjacent: int = 0):
        super().__init__()
        widths = list(features)
        inward = [2 * adjacent + 1, *widths[:-1]]
        self.dimensions, self.adjacent = dimensions, adjacent
        self.down = nn.ModuleList(_Pair(dimensions, a, b) for a, b in zip(inward, widths, strict=True))
        pairs = list(zip(widths[1:], widths[:-1], strict=True))[::-1]
        self.up = nn.ModuleList(_Pair(dimensions, below + own, own) for below, own in pairs)
        self.last = conv(dimensions, widths[0], 1, 1)
        self.multiple = 2 ** (len(widths) - 1)
        self.halo = pooled_halo(len(widths), 2)
        he_weights(self, self.last)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the restored image."""
        pool = functional.avg_pool3d if self.dimensions == 3 else functional.avg_pool2d
        y = to_multiple(x, self.multiple)
        skips: list[torch.Tensor] = []
        for level, pair in enumerate(self.down):
            y = pair(pool(y, 2) if level else y)
            skips.append(y)
        for pair, skip in zip(self.up, reversed(skips[:-1]), strict=True):
            y = pair(torch.cat([functional.interpolate(y, scale_factor=2), skip], 1))
        return x[:, self.adjacent : self.adjacent + 1] + cut_to(self.last(y), x.shape[2:])


def unet(dimensions: int = 2, features: Sequence[int] = (32, 64, 128), adjacent: int = 0) -> ResidualUNet:
    """Build the U-Net."""
    return ResidualUNet(dimensions, features, adjacent)
