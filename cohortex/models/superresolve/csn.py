"""Channel splitting network: one half of the channels is residual, the other dense (Zhao et al. 2019)."""

from __future__ import annotations

import math

import torch
from torch import nn

from cohortex.models.superresolve import between
from cohortex.models.superresolve.blocks import Blocks
from cohortex.models.superresolve.layers import CUBE, PLANES, conv, first_weights, sees


def _shape(kernel: tuple[int, int, int] | None, index: int) -> tuple[int, int, int]:
    """Return the kernel of a layer: cubes, or the two planes with the slice axis in turns."""
    return PLANES[index % 2] if kernel is None else kernel


class SplitUnit(nn.Module):
    """Two convolutions with a shortcut for one half of the channels, two dense ones for the other, joined by merge-and-run.

    Merge-and-run: the mean of both inputs is added to both outputs, so that each half hears of the other.
    """

    def __init__(self, half: int, kernel: tuple[int, int, int] | None):
        super().__init__()
        growth = half // 2
        self.residual = nn.Sequential(conv(half, half, _shape(kernel, 0)), nn.ReLU(inplace=True), conv(half, half, _shape(kernel, 1)))
        self.dense = nn.ModuleList([conv(half, growth, _shape(kernel, 0)), conv(half + growth, growth, _shape(kernel, 1))])
        self.out = conv(half + 2 * growth, half, (1, 1, 1))

    @property
    def sums(self) -> list[nn.Module]:
        """Return the layers whose output is added to the mean."""
        return [self.residual[-1], self.out]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return both halves, one after the other along the channels."""
        one, other = x.chunk(2, 1)
        mean = (one + other) / 2
        seen = other
        for layer in self.dense:
            seen = torch.cat([seen, torch.relu_(layer(seen))], 1)
        return torch.cat([self.residual(one) + mean, self.out(seen) + mean], 1)


class PlainUnit(nn.Module):
    """Two convolutions with a shortcut on all channels."""

    def __init__(self, width: int, middle: int, kernel: tuple[int, int, int] | None):
        super().__init__()
        self.layers = nn.Sequential(conv(width, middle, _shape(kernel, 0)), nn.ReLU(inplace=True), conv(middle, width, _shape(kernel, 1)))

    @property
    def sums(self) -> list[nn.Module]:
        """Return the layer whose output is added to the input."""
        return [self.layers[-1]]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return features of the input's width."""
        return x + self.layers(x)


class Csn(Blocks):
    """Channel splitting network of Zhao et al., IEEE Trans. Image Processing 28(11), 2019, on the slices' grid.

    Input (n, 1, x, y, slices); output (n, 1, x, y, slices * factor), added to the interpolated slices. Head, blocks of split units,
    all blocks' outputs joined, sub-pixel convolution.

    The paper is two-dimensional with 256 channels; chosen here: three dimensions (or, with `planes`, two-dimensional convolutions
    in the two planes that hold the slice axis, in turns), fewer channels, and two layers in each half of a unit.

    Parameters
    ----------
    factor : int
    width : int
        Channels of both halves together, a multiple of 4.
    blocks, units : int
        Blocks, and units in each.
    split : bool
        Off: one residual branch with all channels, as many parameters within 0.5 % (the middle of its units is as wide as that takes).
    planes : bool
    """

    grid = "slices"
    channels = 1

    def __init__(self, factor: int = 2, width: int = 48, blocks: int = 3, units: int = 2, split: bool = True, planes: bool = False):
        super().__init__()
        if width % 4:
            raise ValueError(f"the channels are split into halves and quarters: {width} is no multiple of 4")
        kernel = None if planes else CUBE
        self.factor = factor
        self.head = sees(1, width)
        made: list[SplitUnit] | list[PlainUnit]
        if split:
            made = [SplitUnit(width // 2, kernel) for _ in range(blocks * units)]
        else:
            middles = _middles(width, blocks * units, math.prod(_shape(kernel, 0)))
            made = [PlainUnit(width, middle, kernel) for middle in middles]
        self.blocks = nn.ModuleList(nn.Sequential(*made[i * units : (i + 1) * units]) for i in range(blocks))
        self.join = conv(blocks * width, width, (1, 1, 1))
        self.last = conv(width, factor, CUBE)
        first_weights(self, self.last, inner=[layer for unit in made for layer in unit.sums], heads=[self.head])
        # Every unit takes two layers; in planes only one of them looks along x, and one along y.
        deep = 2 * blocks * units
        self._halo = (2 + (deep // 2 if planes else deep), 2 + deep)

    @property
    def halo(self) -> tuple[int, int, int]:
        """Voxels and slices at most this far away decide about a fine voxel."""
        across, through = self._halo
        return across, across, max(through, between.HALO)


def _middles(width: int, units: int, taps: int) -> list[int]:
    """Return the middle widths with which plain units have as many parameters as so many split ones."""
    half, growth = width // 2, width // 4
    split = 2 * (half * half * taps + half) + (2 * half + growth) * growth * taps + 2 * growth + (half + 2 * growth) * half + half
    total = round(units * (split - width) / (2 * width * taps + 1))
    return [total * (i + 1) // units - total * i // units for i in range(units)]


def csn(factor: int = 2, width: int = 48, blocks: int = 3, units: int = 2, split: bool = True, planes: bool = False) -> Csn:
    """Build the channel splitting network."""
    return Csn(factor, width, blocks, units, split, planes)
