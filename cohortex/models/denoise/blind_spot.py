"""Network whose output at a pixel does not depend on that pixel: the dilated blind-spot network (Wu et al. 2020)."""

from __future__ import annotations

from itertools import product

import torch
from torch import nn
from torch.nn import functional

from cohortex.models.denoise.layers import conv, he_weights


class _HoledConv(nn.Module):
    """A convolution that does not look at the middle of its neighbourhood: pixels up to `hole` away along every axis."""

    seen: torch.Tensor

    def __init__(self, dimensions: int, filters: int, radius: int, hole: int):
        super().__init__()
        self.conv = conv(dimensions, 1, filters, 2 * radius + 1)
        seen = torch.ones(1, 1, *[2 * radius + 1] * dimensions)
        for offset in product(range(-hole, hole + 1), repeat=dimensions):
            seen[(0, 0, *(radius + n for n in offset))] = 0
        self.register_buffer("seen", seen, persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        run = functional.conv3d if x.ndim == 5 else functional.conv2d
        return run(x, self.conv.weight * self.seen, self.conv.bias, padding=self.conv.padding)


class _Dilated(nn.Module):
    """A dilated convolution of size 3 and a pointwise one, added to what comes in."""

    def __init__(self, dimensions: int, filters: int, dilation: int):
        super().__init__()
        self.wide, self.point = conv(dimensions, filters, filters, dilation=dilation), conv(dimensions, filters, filters, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.point(torch.relu_(self.wide(x))) + x


class _Branch(nn.Module):
    """A convolution with a hole, then dilated ones that cannot fill it: all their offsets are multiples of a larger step."""

    def __init__(self, dimensions: int, filters: int, radius: int, hole: int, depth: int):
        super().__init__()
        step = radius + hole + 1
        self.holed = _HoledConv(dimensions, filters, radius, hole)
        self.dilated = nn.Sequential(*(_Dilated(dimensions, filters, step) for _ in range(depth)))
        self.point = conv(dimensions, filters, filters, 1)
        self.halo = radius + depth * step

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu_(self.point(self.dilated(torch.relu_(self.holed(x)))))


class BlindSpot(nn.Module):
    """Dilated blind-spot network of Wu, Liu, Cao et al., Unpaired learning of deep image denoising, ECCV 2020, arXiv:2008.13711.

    Two branches begin with a convolution of 3 x 3 and of 5 x 5 that leaves out its middle; dilated convolutions follow, with steps of 2 and
    of 3, so that no path leads from a pixel to the output at it; pointwise convolutions join the branches. Where noise is independent
    from pixel to pixel, a network that is trained to give its own noisy input can only give what the neighbourhood tells of the
    image. Depth and width are choices of ours, and so is the hole: with noise that goes on over several pixels, as in reconstructed
    CT, the output may have to be blind for the neighbours too. Input and output are (n, 1, ...).

    Parameters
    ----------
    dimensions : {2, 3}
    filters : int
    depth : int
        Dilated convolutions of each branch.
    hole : int
        Pixels up to so many away along every axis are not looked at: 0 is the pixel alone.
    """

    blind_spot = True
    """No mask is needed to train it on its own noisy input."""

    def __init__(self, dimensions: int = 2, filters: int = 32, depth: int = 4, hole: int = 0):
        super().__init__()
        self.branches = nn.ModuleList(_Branch(dimensions, filters, radius + hole, hole, depth) for radius in (1, 2))
        self.points = nn.ModuleList([conv(dimensions, 2 * filters, filters, 1), conv(dimensions, filters, filters, 1)])
        self.last = conv(dimensions, filters, 1, 1)
        self.hole = hole
        self.halo = max(radius + hole + depth * (radius + 2 * hole + 1) for radius in (1, 2))
        he_weights(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return what the neighbourhood of each pixel says about it."""
        y = torch.cat([branch(x) for branch in self.branches], 1)
        for point in self.points:
            y = torch.relu_(point(y))
        return self.last(y)


def blind_spot(dimensions: int = 2, filters: int = 32, depth: int = 4, hole: int = 0) -> BlindSpot:
    """Build the blind-spot network."""
    return BlindSpot(dimensions, filters, depth, hole)
