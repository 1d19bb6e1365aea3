"""The U-Net that a plan describes, the baseline of all other networks (after Isensee et al., Nat. Methods 18, 2021)."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from torch import nn

from cohortex.models.denoise.layers import conv, he_weights
from cohortex.models.segment.layers import Reach, SegmentationNetwork, norm_of, shaped_conv

SLOPE = 0.01
"""Of the leaky ReLU."""


class Unit(nn.Module):
    """A convolution with norm and leaky ReLU; or two of them, the input added before the last activation."""

    def __init__(self, dimensions: int, inward: int, outward: int, kernel: Sequence[int], stride: Sequence[int], norm: str, residual: bool):
        super().__init__()
        pairs = [(inward, outward, tuple(stride))] + [(outward, outward, (1,) * dimensions)] * residual
        self.convs = nn.ModuleList(shaped_conv(dimensions, a, b, kernel, stride=s) for a, b, s in pairs)
        self.norms = nn.ModuleList(norm_of(norm, dimensions, outward) for _ in pairs)
        self.residual = residual
        self.shortcut: nn.Module = nn.Identity()
        if residual and (inward != outward or any(s > 1 for s in stride)):
            one = [1] * dimensions
            self.shortcut = nn.Sequential(
                shaped_conv(dimensions, inward, outward, one, stride=tuple(stride), bias=False), norm_of(norm, dimensions, outward)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the unit's features."""
        y = x
        for number, (layer, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            y = norm(layer(y))
            if self.residual and number == len(self.convs) - 1:
                y = y + self.shortcut(x)
            y = nn.functional.leaky_relu(y, SLOPE)
        return y


class PlannedUNet(SegmentationNetwork):
    """Strided convolutions down, transposed ones up, two convolutions a level, a head on every level but the two coarsest.

    nnU-Net norms by instance. Here the norm is batch unless the options say otherwise: once trained it is a fixed map, so that a label
    depends on what is within `halo` alone and a volume in blocks gets the labels of the whole one. With instance norms the network has no
    halo, and is applied in windows whose logits are averaged, with the statistics of the whole volume (`cohortex.norms`).

    Parameters
    ----------
    features : sequence of int
        Of each level, the finest first.
    kernels, strides : sequence of (int for each axis)
        Of each level; a stride is how much coarser the level is than the one above (all ones at the first). Empty: 3 and 2 everywhere.
    blocks : int
        Units a level on the way down.
    residual : bool
        Units with shortcuts on the way down (the residual encoder).
    norm : str
    deep_supervision : bool
    """

    def __init__(
        self,
        dimensions: int = 3,
        channels: int = 1,
        classes: int = 2,
        features: Sequence[int] = (32, 64, 128, 256, 320, 320),
        kernels: Sequence[Sequence[int]] = (),
        strides: Sequence[Sequence[int]] = (),
        blocks: int = 2,
        residual: bool = False,
        norm: str = "batch",
        deep_supervision: bool = True,
    ):
        levels = len(features)
        kernels = kernels or [[3] * dimensions] * levels
        strides = strides or [[1] * dimensions, *[[2] * dimensions] * (levels - 1)]
        if not len(kernels) == len(strides) == levels or any(len(k) != dimensions for k in (*kernels, *strides)):
            raise ValueError(
                f"kernels and strides have {dimensions} numbers for each of the {levels} levels; these are {kernels} and {strides}"
            )
        together = [prod(level[axis] for level in strides) for axis in range(dimensions)]
        super().__init__(dimensions, channels, classes, max(together))
        self.down = nn.ModuleList()
        width = channels
        for own, kernel, stride in zip(features, kernels, strides, strict=True):
            units = [Unit(dimensions, width, own, kernel, stride, norm, residual)]
            units += [Unit(dimensions, own, own, kernel, [1] * dimensions, norm, residual) for _ in range(blocks - 1)]
            self.down.append(nn.Sequential(*units))
            width = own
        self.grow, self.up, heads = nn.ModuleList(), nn.ModuleList(), []
        kind: Any = nn.ConvTranspose3d if dimensions == 3 else nn.ConvTranspose2d
        for level in reversed(range(levels - 1)):
            own, below, step = features[level], features[level + 1], tuple(strides[level + 1])
            self.grow.append(kind(below, own, step, stride=step))
            pair = [Unit(dimensions, n * own, own, kernels[level], [1] * dimensions, norm, False) for n in (2, 1)]
            self.up.append(nn.Sequential(*pair))
            if level == 0 or (deep_supervision and level < levels - 2):
                heads.append(conv(dimensions, own, classes, 1))
        self.heads = nn.ModuleList(heads)
        halved = [0.5**number for number in range(len(heads))]
        self.outputs_weights = tuple(weight / sum(halved) for weight in halved)
        he_weights(self)
        if norm in ("batch", "none"):
            self.halo = max(_reach(axis, kernels, strides, blocks * (1 + residual)) for axis in range(dimensions))
            self.halo = -(-self.halo // self.multiple) * self.multiple

    def compute(self, x: torch.Tensor, deep: bool) -> list[torch.Tensor]:
        """Return the logits, and with `deep` those of the coarser heads, each half as large as the one before."""
        skips: list[torch.Tensor] = []
        for level in self.down:
            x = level(x)
            skips.append(x)
        x = skips.pop()
        made: list[torch.Tensor] = []
        without = len(self.up) - len(self.heads)
        for number, (grow, pair) in enumerate(zip(self.grow, self.up, strict=True)):
            x = pair(torch.cat([grow(x), skips.pop()], 1))
            if number == len(self.up) - 1 or (deep and number >= without):
                made.append(self.heads[number - without](x))
        return made[::-1]


def _reach(axis: int, kernels: Sequence[Sequence[int]], strides: Sequence[Sequence[int]], convolutions: int) -> int:
    """Return how far the network looks along an axis."""
    reach = Reach()
    for kernel, stride in zip(kernels, strides, strict=True):
        reach.conv(kernel[axis], stride=stride[axis]).conv(kernel[axis], times=convolutions - 1)
    for level in reversed(range(len(kernels) - 1)):
        reach.grow(strides[level + 1][axis]).conv(kernels[level][axis], times=2)
    return reach.halo


def planned_unet(
    dimensions: int = 3,
    channels: int = 1,
    classes: int = 2,
    features: Sequence[int] = (32, 64, 128, 256, 320, 320),
    kernels: Sequence[Sequence[int]] = (),
    strides: Sequence[Sequence[int]] = (),
    blocks: int = 2,
    residual: bool = False,
    norm: str = "batch",
    deep_supervision: bool = True,
) -> PlannedUNet:
    """Build the U-Net of a plan."""
    return PlannedUNet(dimensions, channels, classes, features, kernels, strides, blocks, residual, norm, deep_supervision)
