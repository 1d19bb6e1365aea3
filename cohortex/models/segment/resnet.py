"""Residual networks (He et al., CVPR 2016), whose last stages may be dilated instead of strided (Chen et al., TPAMI 2018)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from cohortex.models.denoise.layers import conv
from cohortex.models.segment.layers import Reach, conv_norm, max_pool, norm_of

DEPTHS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
PLAIN = (18, 34)
"""Depths whose blocks have no bottleneck."""


class Block(nn.Module):
    """Two 3 x 3 convolutions with batch norms, added to what comes in."""

    growth = 1

    def __init__(self, dimensions: int, inward: int, width: int, stride: int, dilation: int):
        super().__init__()
        self.layers = nn.Sequential(
            conv_norm(dimensions, inward, width, 3, bias=False, stride=stride, dilation=dilation),
            conv(dimensions, width, width, 3, bias=False, dilation=dilation),
            norm_of("batch", dimensions, width),
        )
        self.shortcut = _shortcut(dimensions, inward, width, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the block's features."""
        return torch.relu(self.layers(x) + self.shortcut(x))


class Bottleneck(nn.Module):
    """1 x 1, 3 x 3 and 1 x 1 convolutions with batch norms, added to what comes in."""

    growth = 4

    def __init__(self, dimensions: int, inward: int, width: int, stride: int, dilation: int):
        super().__init__()
        outward = self.growth * width
        self.layers = nn.Sequential(
            conv_norm(dimensions, inward, width, 1, bias=False),
            conv_norm(dimensions, width, width, 3, bias=False, stride=stride, dilation=dilation),
            conv(dimensions, width, outward, 1, bias=False),
            norm_of("batch", dimensions, outward),
        )
        self.shortcut = _shortcut(dimensions, inward, outward, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the block's features."""
        return torch.relu(self.layers(x) + self.shortcut(x))


def _shortcut(dimensions: int, inward: int, outward: int, stride: int) -> nn.Module:
    """Return what brings a block's input to its output: nothing where both have one shape, else a 1 x 1 convolution with batch norm."""
    if stride == 1 and inward == outward:
        return nn.Identity()
    return nn.Sequential(conv(dimensions, inward, outward, 1, stride=stride, bias=False), norm_of("batch", dimensions, outward))


class DilatedResNet(nn.Module):
    """ResNet without its classifier.

    Parameters
    ----------
    depth : {18, 34, 50, 101, 152}
        Layers; or a sequence with the number of blocks of each stage (the paper's networks have four).
    stride : {8, 16, 32}
        Voxels between neighbours of the output: stages that would go beyond it are dilated.
    grid : sequence of int
        Factors of the dilation of the last stage's blocks (multi-grid), repeated as needed.
    stem : {"plain", "deep", "small"}
        plain: one convolution of size 7; deep: three of size 3; both halve the grid, as does the pooling behind them. small: one
        convolution of size 3 on the grid of the input, for pictures of some tens of pixels.
    width : int
        Of the first stage; the paper's is 64.
    bottleneck : bool, optional
        Kind of the blocks; when absent that of the depth, and bottlenecks where `depth` is a sequence.
    """

    def __init__(
        self,
        dimensions: int,
        channels: int,
        depth: int | Sequence[int] = 50,
        stride: int = 8,
        grid: Sequence[int] = (1,),
        stem: str = "plain",
        width: int = 64,
        bottleneck: bool | None = None,
    ):
        super().__init__()
        if stem not in ("plain", "deep", "small"):
            raise ValueError(f"the stem is plain, deep or small, not {stem!r}")
        kind = Block if (depth in PLAIN if bottleneck is None else not bottleneck) else Bottleneck
        blocks = DEPTHS[depth] if isinstance(depth, int) else tuple(depth)
        if stride not in (8, 16, 32):
            raise ValueError(f"the output stride is 8, 16 or 32, not {stride}")
        if stem == "deep":
            first = [
                conv_norm(dimensions, channels, width, 3, stride=2, bias=False),
                conv_norm(dimensions, width, width, 3, bias=False),
                conv_norm(dimensions, width, 2 * width, 3, bias=False),
            ]
            inward = 2 * width
            self.reach = Reach().conv(3, stride=2).conv(3, 2)
        elif stem == "plain":
            first = [conv_norm(dimensions, channels, width, 7, stride=2, bias=False)]
            inward = width
            self.reach = Reach().conv(7, stride=2)
        else:
            first = [conv_norm(dimensions, channels, width, 3, bias=False)]
            inward = width
            self.reach = Reach().conv(3)
        if stem != "small":
            self.reach.conv(3, stride=2)
        self.stem = nn.Sequential(*first, *([] if stem == "small" else [max_pool(dimensions, 3, stride=2, padding=1)]))
        self.stages = nn.ModuleList()
        jump, dilation = (1 if stem == "small" else 4), 1
        for number, count in enumerate(blocks):
            step = 1 if number == 0 else 2
            if jump * step > stride:
                dilation, step = dilation * step, 1
            jump *= step
            layers: list[nn.Module] = []
            for block in range(count):
                spread = dilation * (grid[block % len(grid)] if number == 3 else 1)
                layers.append(kind(dimensions, inward, width * 2**number, step if block == 0 else 1, spread))
                self.reach.conv(3, dilation=spread, stride=step if block == 0 else 1)
                if kind is Block:
                    self.reach.conv(3, dilation=spread)
                inward = kind.growth * width * 2**number
            self.stages.append(nn.Sequential(*layers))
        self.features = [kind.growth * width * 2**number for number in range(len(blocks))]
        self.stride = stride

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Return the features of the stages."""
        x = self.stem(x)
        made: list[torch.Tensor] = []
        for stage in self.stages:
            x = stage(x)
            made.append(x)
        return made
